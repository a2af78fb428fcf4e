"""Events of made-up gateways, for what listens to the bus: each with its time, none with a fleet behind it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.states import State

BEGIN = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """So long after the beginning."""
    return BEGIN + timedelta(seconds=seconds)


def state(
    name: str,
    after: State,
    seconds: float,
    code: ReasonCode | None = None,
    *,
    sentence: str | None = None,
    action: str | None = None,
    **facts: str,
) -> events.StateChanged:
    """The verdict on a gateway changed."""
    said = sentence or (f"It is {after.value}." if after is not State.READY else None)
    error = after in (State.NEEDS_HUMAN, State.INVALID)
    return events.StateChanged(
        at=at(seconds),
        follower_id=name,
        severity=Severity.ERROR if error else code.severity if code is not None else Severity.INFO,
        reason_code=code,
        sentence=said or "It is ready.",
        before=None,
        after=after,
        reason=said,
        next_action=action,
        facts=facts,
    )


def ready(name: str, seconds: float) -> events.StateChanged:
    """It is ready."""
    return state(name, State.READY, seconds)


def lost_ibkr(name: str, seconds: float) -> events.StateChanged:
    """It lost its link to IBKR."""
    sentence = "The gateway has lost its link to IBKR; the API connection stays."
    then = "The gateway reconnects by itself."
    return state(name, State.DEGRADED, seconds, ReasonCode.IBKR_LINK_LOST, sentence=sentence, action=then)


def rejected(name: str, seconds: float, version: str = "1", user: str | None = None) -> events.StateChanged:
    """IBKR did not accept its password."""
    sentence = f"IBKR did not accept user name and password of {user or name} (secret version {version})."
    action = f"Store the right password, and it logs in by itself, at once with `gateway-manager launch {name}`."
    code = ReasonCode.PASSWORD_REJECTED
    return state(name, State.NEEDS_HUMAN, seconds, code, sentence=sentence, action=action, secret_version=version)


def launched(name: str, seconds: float) -> events.GatewayLaunched:
    """A container was started."""
    return events.GatewayLaunched(at=at(seconds), follower_id=name, sentence="Started.", container=name, endpoint="h:1")


def awaits_phone(name: str, seconds: float) -> list[events.Event]:
    """A phone must approve its login."""
    sentence, then = f"A phone must approve the login of {name}.", "It has until 15:05:00 UTC."
    code = ReasonCode.PHONE_APPROVAL_PENDING
    return [state(name, State.AWAITING_2FA, seconds, code, sentence=sentence, action=then), prompted(name, seconds)]


def prompted(name: str, seconds: float) -> events.SecondFactorRequested:
    """Its phone was asked."""
    return events.SecondFactorRequested(
        at=at(seconds), follower_id=name, sentence="A phone must approve the login now."
    )


def rotated(name: str, seconds: float) -> events.SecretRotated:
    """Its secret has a new version."""
    return events.SecretRotated(
        at=at(seconds),
        follower_id=name,
        sentence="Its secret has a new version, 2.",
        version="2",
        next_action="Restart it.",
    )
