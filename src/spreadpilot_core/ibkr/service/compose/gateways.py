"""What a service's variables mean: one follower, or two where the trading mode is `both`, each with its options and its login.

Images of both generations are understood, by the variables that are there; where those of both are there, they must agree.
What can't be had is refused or remarked on, so that nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.service.compose.counterparts import KEYS, UNKNOWN_KEY, UNKNOWN_VARIABLE, VARIABLES
from spreadpilot_core.ibkr.service.compose.logins import FoundLogin, find_login
from spreadpilot_core.ibkr.service.compose.options import find_options
from spreadpilot_core.ibkr.service.compose.places import Findings, Place
from spreadpilot_core.ibkr.service.compose.services import Service, Variable
from spreadpilot_core.ibkr.service.compose.values import Values

_MODE = ("TRADING_MODE", "IBC_TRADING_MODE")
_PAPER_ALONE = ("TWS_USERID_PAPER", "TWS_PASSWORD_PAPER", "IBC_USERID_PAPER", "IBC_PASSWORD_PAPER")
_INSIDE = {TradingMode.LIVE: (4003, 4001), TradingMode.PAPER: (4004, 4002)}
"""Ports of the container that lead to a gateway's API: the forwarder's, and its own."""
_SCREEN = 5900
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedGateway:
    """What one gateway of a compose file becomes."""

    service: str
    place: Place
    follower_id: str
    trading_mode: TradingMode
    options: dict[str, Any]
    login: FoundLogin = field(repr=False)
    restarts: bool

    @property
    def secret_ref(self) -> str:
        """The reference of its login."""
        return f"ibkr/{self.follower_id}"

    @property
    def record(self) -> dict[str, Any]:
        """Its record in the follower store: disabled, since the gateway in Compose may still be logged in."""
        mode = {"trading_mode": "live"} if self.trading_mode is TradingMode.LIVE else {}
        record: dict[str, Any] = {"id": self.follower_id, "vault_secret_ref": self.secret_ref, "enabled": False, **mode}
        return {**record, "gateway": self.options} if self.options else record


def gateways_of(service: Service, findings: Findings, *, ports: range, prefix: str = "") -> Sequence[ImportedGateway]:
    """The gateways of one service; none where something is in the way, which is among the findings then.

    Args:
        service: whole, as Compose would run it.
        findings: gets what is in the way, and what is worth knowing.
        ports: those that a follower may pin.
        prefix: what each follower's id begins with.
    """
    values = Values(service, findings)
    modes = _modes(values, service)
    options = find_options(values, service)
    made = []
    for mode, is_dual in modes:
        login = find_login(values, service, for_paper=is_dual and mode is TradingMode.PAPER)
        if login is None:
            continue
        pinned = _pinned(service, mode, findings, ports)
        made.append(
            ImportedGateway(
                service=service.name,
                place=service.place,
                follower_id=f"{prefix}{service.name}{f'-{mode.value}' if is_dual else ''}",
                trading_mode=mode,
                options={**options, **({"port": pinned} if pinned is not None else {})},
                login=login,
                restarts=service.restarts,
            )
        )
    _remark_on_the_rest(values, service, findings, is_dual=len(modes) > 1)
    return made


def _modes(values: Values, service: Service) -> list[tuple[TradingMode, bool]]:
    """Each trading mode, and whether the other one is there as well."""
    said = values.find(*_MODE)
    if said is None:
        values.remark(service.place, "no trading mode is set for it: paper is taken, as everywhere here.")
        return [(TradingMode.PAPER, False)]
    if said.text == "both":
        return [(TradingMode.LIVE, True), (TradingMode.PAPER, True)]
    if said.text not in [each.value for each in TradingMode]:
        values.refuse(said.place, f"{said.name} must be live, paper or both, in small letters.")
        return []
    return [(TradingMode(said.text), False)]


def _pinned(service: Service, mode: TradingMode, findings: Findings, ports: range) -> int | None:
    """The host port that its clients use now, where it may be pinned."""
    found = [each for each in service.ports if each.inside in _INSIDE[mode]]
    for each in found:
        if each.address not in _LOOPBACK:
            findings.remark(
                each.place, f"port {each.host} was open to other hosts: gateways are on loopback (127.0.0.1) alone."
            )
    for each in found:
        if each.host in ports:
            return each.host
    for each in found:
        findings.remark(
            each.place,
            f"port {each.host} is none of the manager's, {ports[0]} to {ports[-1]}: another one is chosen, which `status`"
            " shows. GATEWAY_MANAGER_PORT_RANGE_START and _END change them, gateway.port pins one.",
        )
    return None


def _remark_on_the_rest(values: Values, service: Service, findings: Findings, *, is_dual: bool) -> None:
    for name, variable in service.variables.items():
        if name not in values.read and variable.value and (why := _no_counterpart(variable, is_dual=is_dual)):
            findings.remark(variable.place, f"{name} {why}.")
    for key, place in service.other_keys.items():
        if key.isidentifier():
            findings.remark(place, f"{key} has no counterpart: {KEYS.get(key, UNKNOWN_KEY)}.")
    for port in service.ports:
        if not any(port.inside in each for each in _INSIDE.values()) and port.inside != _SCREEN:
            findings.remark(port.place, f"port {port.host} leads to none of a gateway's ports, and has no counterpart.")


def _no_counterpart(variable: Variable, *, is_dual: bool) -> str | None:
    base = variable.name.removesuffix("_FILE")
    if base in _PAPER_ALONE and not is_dual:
        return "is of no use without the trading mode both, and was not read"
    if base in VARIABLES:
        return f"has no counterpart: {VARIABLES[base]}"
    if variable.is_shared or not variable.name.isidentifier():
        return None
    return f"has no counterpart: {UNKNOWN_VARIABLE}"


def in_use_twice(gateways: Sequence[ImportedGateway]) -> Iterator[tuple[ImportedGateway, ImportedGateway]]:
    """Pairs that are one IBKR user, of whom one may be logged in at a time."""
    first: dict[str, ImportedGateway] = {}
    for each in gateways:
        if each.login.canonical in first:
            yield first[each.login.canonical], each
        else:
            first[each.login.canonical] = each
