"""The manager's verdict on a gateway (`State`) and its public four-value view (`GatewayStatus`)."""

from __future__ import annotations

from enum import Enum
from typing import assert_never


class GatewayStatus(str, Enum):
    """What most callers want to know; `State` says more."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


class State(str, Enum):
    """Where one gateway stands. Every state but `READY` carries a reason, a since-time and the next action."""

    QUEUED = "queued"
    """Wanted, and waiting for its turn: a permit, the secret, the runtime."""
    LAUNCHING = "launching"
    """Its container is being created and started."""
    LOGGING_IN = "logging_in"
    """The controller types the login, or IBKR thinks about it."""
    AWAITING_2FA = "awaiting_2fa"
    """A phone must approve."""
    CONNECTING = "connecting"
    """Logged in; the API is not connected yet."""
    RECONNECTING = "reconnecting"
    """Was connected; a new connection is on its way."""
    RESTARTING = "restarting"
    """The gateway restarts on its own schedule."""
    READY = "ready"
    """Proven: logged in, connected, managed accounts known, heartbeat answered."""
    DEGRADED = "degraded"
    """Connected, but the gateway has lost IBKR (1100, 2110)."""
    STOPPED = "stopped"
    """An operator stopped it; only `launch` starts it again."""
    DISABLED = "disabled"
    """Its record does not want it."""
    BACKING_OFF = "backing_off"
    """Failed; the next try has a time."""
    NEEDS_HUMAN = "needs_human"
    """Failed; nothing happens until a human acts."""
    INVALID = "invalid"
    """Its record can't be used."""

    @property
    def status(self) -> GatewayStatus:
        """The public view."""
        match self:
            case (
                State.QUEUED
                | State.LAUNCHING
                | State.LOGGING_IN
                | State.AWAITING_2FA
                | State.CONNECTING
                | State.RECONNECTING
                | State.RESTARTING
            ):
                return GatewayStatus.STARTING
            case State.READY | State.DEGRADED:
                return GatewayStatus.RUNNING
            case State.STOPPED | State.DISABLED:
                return GatewayStatus.STOPPED
            case State.BACKING_OFF | State.NEEDS_HUMAN | State.INVALID:
                return GatewayStatus.FAILED
            case _:
                assert_never(self)
