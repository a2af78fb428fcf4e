"""The seams of the Gateway Manager: what its parts hand to each other, and the protocols an adapter fulfils.

`fleet`, `supervisor` and `deciding` know this module and no adapter; an adapter knows this module and its vendor's SDK.
Every protocol has one suite in `tests/contract` that each of its adapters passes.

    FollowerStore     who should have a gateway
    RecordStore       what must survive the manager
    CredentialDesk    the manager's side of the courier: users and versions, never a password
    CredentialSource  the courier's side: the secret itself (a protocol of `credentials`, never imported from here)
    GatewayRuntime    where gateways run

Times are aware `datetime`s in UTC. Durations are `float` seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Literal, Protocol

from spreadpilot_core.ibkr.followers import FaultyRecord, Follower, Roster, TradingMode
from spreadpilot_core.ibkr.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.records import (
    AttemptId,
    AuditHead,
    ContainerId,
    FollowerId,
    GatewayMapping,
    HistoryEntry,
    LoginAttempt,
    LoginOutcome,
    LoginRefusal,
    Record,
)

__all__ = [
    "AttemptId",
    "AuditHead",
    "ContainerId",
    "Created",
    "CredentialDesk",
    "Dialect",
    "FaultyRecord",
    "Follower",
    "FollowerId",
    "FollowerStore",
    "Gateway",
    "GatewayMapping",
    "GatewayRuntime",
    "GatewaySpec",
    "HistoryEntry",
    "LastWords",
    "Leases",
    "Login",
    "LoginAttempt",
    "LoginOutcome",
    "LoginRefusal",
    "Record",
    "RecordStore",
    "Roster",
    "RuntimeEvent",
    "RuntimeEventKind",
    "RuntimeState",
    "Standing",
    "Term",
    "TradingMode",
]

Dialect = Literal["ibc", "ibcontroller"]
"""Which controller types the login, and so how its log reads and how it wants its password file."""


# ---------------------------------------------------------------------------------------------- followers


class FollowerStore(Protocol):
    """Who should have a gateway."""

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailableError` when the store is away; may be called again."""

    async def close(self) -> None:
        """Let go of everything; safe to call twice and when never opened."""

    async def load(self) -> Roster:
        """Read all records. Raises `StoreUnavailableError`; a broken record is in `faulty`, never an exception."""

    def hints(self) -> AsyncIterator[None]:
        """Yield whenever the records may have changed ("load again"). Survives outages; ends only when closed."""


# ---------------------------------------------------------------------------------------------- records


class RecordStore(Protocol):
    """What must survive the manager. All methods raise `StoreUnavailableError` when the store is away.

    Every write is durable when it returns. Reservations are atomic over all managers that share the store.
    """

    async def open(self) -> None:
        """Connect or create; may be called again after a failure."""

    async def close(self) -> None:
        """Safe to call twice and when never opened."""

    async def load(self) -> Mapping[FollowerId, Record]:
        """All records. A damaged one is an error that names it, never silently dropped."""

    async def save(self, record: Record) -> None:
        """Write one record whole (last writer wins)."""

    async def reserve_login(self, attempt: LoginAttempt, limit: int | None) -> LoginRefusal | None:
        """Reserve one login, or say why not, in one atomic step.

        Refused as `in_progress` while the user has an unsettled attempt of any manager; as `budget` when `limit` or
        more attempts that count were reserved in the 24 h before `attempt.reserved_at`; as `throttled` while one of
        the user's attempts has a `not_before` after `attempt.reserved_at`. `limit=None` (an operator's own attempt)
        skips the budget and nothing else.
        """

    async def mark_started(self, attempt_id: AttemptId, container_id: ContainerId, at: datetime) -> bool:
        """Written just before the container starts: from here on the attempt counts until it is settled.

        False: nothing was written, since it was settled meanwhile, or is not there. Then the container must not start.
        """

    async def settle_login(
        self, attempt_id: AttemptId, outcome: LoginOutcome, at: datetime, *, not_before: datetime | None = None
    ) -> None:
        """Write how it ended. The first outcome stays; settling again, or an unknown id, changes nothing."""

    async def unsettled_logins(self) -> Sequence[LoginAttempt]:
        """Attempts without an outcome, oldest first: what a manager that died left open."""

    async def counted_logins(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Attempts of this user reserved at or after `since` whose outcome counts, oldest first."""

    async def report(self, mappings: Sequence[GatewayMapping] | None, history: Sequence[HistoryEntry]) -> None:
        """Replace the mappings by these (None: leave them) and append these history entries, unless their id is there."""

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """Keep the newest line of this audit trail (host and path), for `audit verify`; an older one changes nothing."""

    async def audit_head(self, trail: str) -> AuditHead | None:
        """The newest line that was kept of this trail."""


class Standing(Protocol):
    """What a term says of this manager at one moment."""

    @property
    def held(self) -> bool:
        """Whether this manager acts."""

    @property
    def sentence(self) -> str:
        """Who acts, and since or until when."""

    @property
    def overrode(self) -> bool:
        """Whether the term was just taken by the operator's word alone."""


class Term(Protocol):
    """Which of several managers on one record store may create, start and remove. An embedded store has one manager only."""

    @property
    def held(self) -> bool:
        """Whether this manager may act now, by a clock of its own: False from the instant at which it lapsed."""

    async def keep(self, told: Callable[[Standing], None], *, take_over: bool = False) -> None:
        """Take, renew, lose, take again, until cancelled; `told` is called whenever that changes.

        `take_over` is an operator's word that a silent manager on another engine is gone with its gateways.
        """

    async def resign(self) -> None:
        """Give it back, so that the next manager need not wait. Raises `StoreUnavailableError`."""


# ---------------------------------------------------------------------------------------------- credentials


@dataclass(frozen=True, slots=True)
class Login:
    """What the courier tells of a secret it has read: everything but the password."""

    user: str
    version: str
    """Names this content of the secret; another content has another version."""
    source: Literal["vault", "stored"]
    dated: datetime | None
    """When this version was written."""
    ticket: str
    """Good for one `deliver` within 30 s."""
    notice: str | None = None
    """A sentence for the snapshot, e.g. that stored credentials are used because Vault is away."""


class CredentialDesk(Protocol):
    """The manager's side of the courier. The password stays in the courier's process."""

    @property
    def renew_within(self) -> float | None:
        """Seconds within which `version` should be asked again, so that a token is renewed in time; None: no matter."""

    async def read(self, ref: str, dialect: Dialect, *, follower_id: FollowerId) -> Login:
        """Have the secret read and checked for what this controller can take.

        Raises `CredentialsUnavailableError` (may pass by itself) or `CredentialsRefusedError` (will not).
        """

    async def deliver(self, ticket: str, door: Mapping[str, str]) -> None:
        """Have the password of `ticket` brought through `door`. Raises `DeliveryError`; then the container is removed."""

    async def version(self, ref: str, *, follower_id: FollowerId | None = None) -> str:
        """The newest version without reading the secret. Raises as `read` does."""

    async def close(self) -> None:
        """End every courier."""


# ---------------------------------------------------------------------------------------------- gateways


@dataclass(frozen=True, slots=True)
class Leases:
    """What one gateway holds from the two ranges."""

    host_port: int
    client_id: int


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


class RuntimeState(str, Enum):
    """What the runtime says of one container."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One container as the runtime sees it: `find`, `start` and `inspect` answer it. Its labels carry the leases."""

    container_id: ContainerId
    name: str
    follower_id: FollowerId
    leases: Leases
    trading_mode: TradingMode
    user: str | None = field(default=None, repr=False)
    """The IBKR user that it was made for, as far as its own configuration says."""
    spec_digest: str
    dialect: Dialect
    image: str
    state: RuntimeState
    host: str = "127.0.0.1"
    started_at: datetime | None = None
    """Start of this life; facts of another start belong to another life."""
    exit_code: int | None = None
    health: str | None = None
    vnc: str | None = None
    """ "host:port" of the screen, or None."""
    notices: tuple[str, ...] = ()
    """Sentences for the snapshot (an outdated image, an OOM kill)."""


@dataclass(frozen=True, slots=True)
class Created:
    """A container that exists and waits for its secret on `door`; nothing runs in it yet."""

    container_id: ContainerId
    name: str
    door: Mapping[str, str]
    """How the courier reaches its standard input; JSON-able, understood by `credentials.doors`."""


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a removed container left: its exit code and the last lines of its log."""

    exit_code: int | None
    lines: Sequence[str]


class RuntimeEventKind(str, Enum):
    """What changed; `GAP` means events may have been missed: list again."""

    STARTED = "started"
    DIED = "died"
    PAUSED = "paused"
    RESUMED = "resumed"
    REMOVED = "removed"
    HEALTH = "health"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """A hint that a container changed. Deciding uses the state that `inspect` or `find` gives afterwards."""

    kind: RuntimeEventKind
    follower_id: FollowerId | None = None
    container_id: ContainerId | None = None
    exit_code: int | None = None
    detail: str | None = None


def unguarded() -> None:
    """The guard of a runtime on which nobody else acts."""


class GatewayRuntime(Protocol):
    """Where gateways run. It knows names, labels, ports and logs; it knows no policy and retries nothing but reads.

    Nothing here is a transaction: after a cancelled or failed call the caller lists again. All methods raise
    `RuntimeUnavailableError` when the runtime can't be reached, `LaunchError` when it refuses.
    """

    guard: Callable[[], None]
    """Called right before each request that creates, starts, stops or removes a container, with nothing of our own awaited in
    between (only the way to the engine may still have to be opened); what it raises ends the call. By itself it does nothing.
    """

    async def open(self) -> None:
        """Reach the runtime; raises `RuntimeUnavailableError` with the cure. May be called again."""

    async def close(self) -> None:
        """Let go without touching any gateway; safe to call twice and when never opened."""

    async def engine_id(self) -> str:
        """Names what the containers run on: two managers that see the same containers get the same answer."""

    async def prepare(self, spec: GatewaySpec) -> Dialect:
        """Have everything at hand that `create` needs (the image), and say which controller it holds."""

    async def find(self) -> Sequence[Gateway]:
        """Every container that bears our labels, whatever its state."""

    async def inspect(self, container_id: ContainerId) -> Gateway | None:
        """One container, or None when it is gone."""

    async def create(self, spec: GatewaySpec, leases: Leases) -> Created:
        """Create the follower's container. Raises `NameTakenError` when the follower has one already."""

    async def start(self, container_id: ContainerId) -> Gateway:
        """Start it, once. Raises `PortTakenError` when the host port is not free (it may be removed then)."""

    async def remove(self, container_id: ContainerId, *, grace: float) -> LastWords:
        """Stop it (SIGTERM, after `grace` seconds SIGKILL) and remove it; returns when it is gone. Gone already: fine.

        `grace=0` kills at once. Settings kept for the follower's next start stay.
        """

    async def forget_secret(self, container_id: ContainerId) -> None:
        """Remove the password file inside; harmless when repeated, when gone, or when there is none."""

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """All events of our containers from the moment of the first `anext`; reconnects by itself and says `GAP` then.

        The first event is always a `GAP`, yielded once the subscription stands. Ends only when the runtime is closed.
        """

    def log(self, gateway: Gateway) -> AsyncIterator[str]:
        """The log lines of this life from its start (or as far back as the runtime keeps), then live; ends with it."""
