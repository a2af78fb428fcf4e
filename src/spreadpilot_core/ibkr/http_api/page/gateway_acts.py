"""What the buttons of a gateway's page do."""

from __future__ import annotations

from dataclasses import dataclass

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.model.states import GatewayStatus

_UP = frozenset({GatewayStatus.RUNNING, GatewayStatus.STARTING})


@dataclass(frozen=True, slots=True)
class Act:
    """A button beside the one that starts."""

    act: str
    label: str
    role: Role
    statuses: frozenset[GatewayStatus]
    """In which it makes sense."""


OTHER_ACTS = (
    Act("reconnect", "Reconnect: no login", Role.TRADER, frozenset({GatewayStatus.RUNNING})),
    Act("restart", "Restart …", Role.OPERATOR, _UP),
    Act("stop", "Stop …", Role.OPERATOR, _UP | {GatewayStatus.FAILED}),
)
