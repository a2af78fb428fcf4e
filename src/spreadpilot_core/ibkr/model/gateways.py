"""A gateway as data: what a login is, what a launch needs, what a runtime sees and says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Literal

from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.model.users import canonical_user

Controller = Literal["ibc", "ibcontroller"]
"""Which controller types the login, and so how its log reads and how it wants its password file."""


@dataclass(frozen=True, slots=True)
class Login:
    """What the courier tells of a secret it has read: everything but the password."""

    user: str
    version: str
    """Names this content of the secret; another content has another version."""
    source: Literal["vault", "stored"]
    written_at: datetime | None
    """When this version was written."""
    ticket: str
    """Good for one `deliver` within 30 s."""
    notice: str | None = None
    """A sentence for the snapshot, e.g. that stored credentials are used because Vault is away."""
    written_user: str | None = None
    """The user name as the secret has it, where the login is given another form of it: IBKR's names are lower case."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", canonical_user(self.user))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a gateway's API answers."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySpec:
    """All that a launch needs, without the secret.

    `digest` names everything a running gateway can't change; it leaves out `user`, so that adoption reads no secret.
    """

    follower_id: FollowerId
    trading_mode: TradingMode
    options: GatewayOptions
    """With the fleet's settings filled in: no option is None that the runtime needs."""
    digest: str
    user: str = ""
    """The IBKR user; empty until the secret was read."""
    launch_id: str = ""
    """Names this launch; no other one ever has the same."""
    logins_left: int = 2
    """How many of its logins may fail before its container's own guard ends it; more than two it never lets through."""


class GatewayPhase(str, Enum):
    """How far one gateway is, as the runtime says."""

    PENDING = "pending"
    """Asked for; it has no place to run yet, or no image."""
    AWAITING_SECRET = "awaiting its password"  # noqa: S105  # a state
    """Whether it runs already or not: without its password nothing is typed in it."""
    RUNNING = "running"
    """It has its password, or may have it: a login may be typed in it at any time."""
    PAUSED = "paused"
    EXITED = "exited"

    @property
    def precedes_login(self) -> bool:
        """Whether no login can have been typed in it."""
        return self in (GatewayPhase.PENDING, GatewayPhase.AWAITING_SECRET)

    @property
    def is_alive(self) -> bool:
        """Whether it may be logged in now."""
        return self in (GatewayPhase.RUNNING, GatewayPhase.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One container that bears an identity of ours, as the runtime sees it. Its labels carry all that a later manager must know.

    Labels prove nothing: whether it is this manager's gateway, `ownership` tells, with the record.
    """

    container_id: ContainerId
    name: str
    follower_id: FollowerId
    client_id: int
    """The API client id that it was launched with."""
    endpoint: Endpoint | None
    """Where its API answers those who are as near as other services are; None while it has no address."""
    trading_mode: TradingMode
    user: str | None = field(default=None, repr=False)
    """The IBKR user that it was made for, as far as its own configuration says."""
    spec_digest: str
    controller: Controller
    image: str
    phase: GatewayPhase
    started_at: datetime | None = None
    """Start of this life; facts of another start belong to another life."""
    exit_code: int | None = None
    health: str | None = None
    reset_hours: str | None = None
    """When what it logs in to is reset, where that is stated; None: IBKR's own hours."""
    vnc: str | None = None
    """ "host:port" of the screen, or None."""
    notices: tuple[str, ...] = ()
    """Sentences for the snapshot (an outdated image, an OOM kill)."""
    identity: str = ""
    """The identity that it bears."""
    launch_id: str = ""
    faults: tuple[str, ...] = ()
    """What about it is not as this manager makes containers, as clauses: labels alone make no gateway."""
    is_renamed: bool = False
    ended_by: ReasonCode | None = None
    """Why its container ended, where the runtime knows better than its exit code; `notices` has the sentence."""
    is_restarted: bool = False
    """It was started again: its secret is gone, so it waits for ever and never logs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignGateway:
    """A container that bears another manager's identity: it is not adopted and not touched."""

    container_id: ContainerId
    name: str
    identity: str
    follower_id: str
    host_port: int | None
    user_digest: str | None
    """Whose user it logs in, as `users.user_digest` makes it."""
    is_ended: bool

    def __str__(self) -> str:
        port = f" on port {self.host_port}" if self.host_port else ""
        return f"The container {self.name}{port} belongs to another manager (identity {self.identity})"

    @property
    def cure(self) -> str:
        """What makes it this manager's."""
        return f"`gateway-manager run --adopt-from {self.identity} --accept-lost-records` takes it over once that manager has ended."


@dataclass(frozen=True, slots=True)
class DeliveryTarget:
    """How the courier reaches the standard input of a container that waits for its secret."""

    kind: str
    """Which of the courier's senders can (see `credentials.courier.senders`)."""
    container_id: ContainerId
    address: Mapping[str, str] = field(default_factory=dict)
    """What that sender needs to know beside it; no secret."""

    def as_json(self) -> dict[str, str]:
        """As it is told to the courier."""
        return {**self.address, "kind": self.kind, "container": self.container_id}


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a removed container left: its exit code and the last lines of its log."""

    exit_code: int | None
    lines: Sequence[str]
