"""Who waits for a human or for a phone, and the one thing to do about it, with what that costs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State

_WAITING = frozenset({State.NEEDS_HUMAN, State.INVALID, State.AWAITING_2FA})
_NO_BUTTON = frozenset(
    {
        ReasonCode.RECORD_INVALID,
        ReasonCode.RECORD_MISSING,
        ReasonCode.GATEWAY_UNCLAIMED,
        ReasonCode.GATEWAY_LEFT_ELSEWHERE,
        ReasonCode.USER_LOGGED_IN_ELSEWHERE,
    }
)
"""Where something else must be put right first, and a start would be refused."""
_BEYOND_A_RULE = frozenset(
    {
        ReasonCode.PASSWORD_REJECTED,
        ReasonCode.LOGIN_BUDGET_SPENT,
        ReasonCode.FULL_LOGIN_LIMIT,
        ReasonCode.PHONE_PROMPT_LIMIT,
        ReasonCode.OPERATOR_LOGIN_REFUSED,
    }
)
"""Where only an operator may take one login more (`--retry-login`)."""


@dataclass(frozen=True, slots=True)
class Cure:
    """A button."""

    label: str
    """With what it costs."""
    act: str
    """What is posted."""
    word: str | None = None
    """What the operator confirms by it: `retry_login` or `live`."""


@dataclass(frozen=True, slots=True)
class Need:
    """One who waits."""

    gateway: GatewaySnapshot
    cure: Cure | None


def waits(gateway: GatewaySnapshot) -> bool:
    """Whether nothing goes on before somebody does something."""
    unconfirmed = gateway.reason_code is ReasonCode.LIVE_TRADING_UNCONFIRMED
    return gateway.state in _WAITING or gateway.severity is Severity.ERROR or unconfirmed


def needs(gateways: Iterable[GatewaySnapshot], phone_of: Callable[[str], str | None]) -> tuple[Need, ...]:
    """Those who wait, phones first: they have minutes."""
    found = [Need(each, cure(each, phone_of)) for each in gateways if waits(each)]
    return tuple(sorted(found, key=lambda need: (need.gateway.state is not State.AWAITING_2FA, need.gateway.since)))


def cure(gateway: GatewaySnapshot, phone_of: Callable[[str], str | None]) -> Cure | None:
    """What an operator can do here; None: nothing, or it is done elsewhere."""
    code = gateway.reason_code
    if gateway.state is State.AWAITING_2FA or code in _NO_BUTTON:
        return None
    cost = login_cost(phone_of(gateway.follower_id))
    if code is ReasonCode.LIVE_TRADING_UNCONFIRMED:
        return Cure(f"Trade live from now on: {cost}", "launch", "live")
    if code in _BEYOND_A_RULE:
        return Cure(f"Start all the same: {cost}, which IBKR counts", "launch", "retry_login")
    return Cure(f"Start: {cost}", "launch")


def login_cost(phone: str | None) -> str:
    """In words."""
    return "one login" if phone is None else f"one login, a prompt on the phone of {phone}"
