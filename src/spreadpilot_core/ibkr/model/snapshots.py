"""What the outside sees of one gateway at one moment: the same object in Python and in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.reasons import Fact, ReasonCode, Severity
from spreadpilot_core.ibkr.model.states import GatewayStatus, State


class CredentialsView(BaseModel):
    """Which secret the gateway was given, never the secret."""

    model_config = ConfigDict(frozen=True)

    source: Literal["vault", "stored"]
    version: str
    date: date | None


class GatewaySnapshot(BaseModel):
    """One gateway, immutable. `snapshot.model_dump(mode="json")` is the JSON of the commands and the control socket."""

    model_config = ConfigDict(frozen=True)

    follower_id: str
    status: GatewayStatus
    state: State
    reason: str | None
    """A sentence; None only when `ready`."""
    reason_code: ReasonCode | None = None
    """The reason for programs; None only when `ready`."""
    severity: Severity = Severity.INFO
    facts: Mapping[str, Fact] = Field(default_factory=dict)
    """What the reason tells, for programs."""
    since: datetime
    """When this state began, UTC."""
    next_action: str | None
    """A sentence: what happens next by itself, or what a human must do."""
    endpoint: str | None = None
    """ "host:port" of the API."""
    client_id: int | None = None
    accounts: tuple[str, ...] = ()
    trading_mode: TradingMode | None = None
    container: str | None = None
    container_health: str | None = None
    image: str | None = None
    outdated: bool = False
    """The record or the settings ask for another spec than the gateway runs with."""
    credentials: CredentialsView | None = None
    notices: tuple[str, ...] = ()
    last_heartbeat: datetime | None = None
    round_trip_ms: float | None = None
    vnc: str | None = None
