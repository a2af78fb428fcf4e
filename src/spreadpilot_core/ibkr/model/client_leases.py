"""A client id that another program holds for a while, and where its gateway is: what is told to programs outside the manager."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.reasons import ReasonCode

LEASE_SECONDS = 60.0
"""For how long a client id stays leased after its last renewal."""
RENEW_SECONDS = 20.0
"""How often its holder renews it: two of three renewals may be missed."""
LONGEST_WAIT = 300.0
"""Seconds that one request may wait until a gateway is ready; who is more patient asks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLease:
    """One API client id, held by one program."""

    id: str
    """Known to its holder alone; it begins with the client id."""
    follower_id: FollowerId
    client_id: int
    name: str | None
    """What its holder calls itself; who comes back under the same name gets the same client id, while it is free."""


@dataclass(frozen=True, slots=True)
class ClientPlace:
    """Where somebody asks from who wants to reach a gateway, as far as it matters for the answer."""

    is_here: bool
    """On the manager's own host, or in its own pod."""
    address: str | None = None
    """From where it came, when it came over a network."""


class LeaseView(BaseModel):
    """One lease, for who looks."""

    model_config = ConfigDict(frozen=True)

    follower_id: str
    client_id: int
    name: str | None


class GatewayEndpoint(BaseModel):
    """Where another program finds a gateway's API, and what it finds there."""

    model_config = ConfigDict(frozen=True)

    follower_id: str
    ready: bool
    """Whether the gateway is ready now; where it is not, nothing is told of where it is."""
    is_down: bool = False
    """Waiting is no use: it is STOPPED or FAILED, or waits for the end of IBKR's reset hours."""
    reason: str | None = None
    """Why it is not ready."""
    reason_code: ReasonCode | None = None
    host: str | None = None
    port: int | None = None
    """Where this caller reaches the gateway's API."""
    account: str | None = None
    """The record's account, else the login's only one; null where the login manages several."""
    accounts: tuple[str, ...] = ()
    """All that the login manages."""
    trading_mode: TradingMode | None = None
    read_only: bool = False
    """The API refuses orders."""
    serial: str | None = None
    """Another one says that the gateway was replaced since."""


class LeasedClient(GatewayEndpoint):
    """What another program needs to be an API client of a gateway."""

    lease: str
    """Names the lease in renewals."""
    client_id: int
    expires: datetime
    """UTC. Unless it is renewed by then, somebody else may get the client id."""
    renew_every: float = RENEW_SECONDS
    """Seconds."""
