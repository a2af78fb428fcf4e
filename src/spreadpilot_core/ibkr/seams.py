"""The seams of the Gateway Manager: what its parts hand to each other, and the protocols an adapter fulfils.

`fleet`, `supervisor` and `deciding` know this module and no adapter; an adapter knows this module and its vendor's SDK.
Every protocol has one suite in `tests/contract` that each of its adapters passes.

    FollowerStore     who should have a gateway
    FollowerStatuses  how each one's gateway stands, shown beside its record
    Records           what a manager knows of each follower
    LoginLedger       every login of every IBKR user
    History           what happened, appended and read
    AuditHeads        the newest line of each audit trail
    RecordStore       these four and what other services read, as one store keeps them
    AvailabilityStore   how long gateways were ready
    SharedDocuments   what all managers of one store and its commands share: tokens, sessions, client leases, notifications
    LeaderLease       which of several managers acts
    CredentialBroker    the manager's side of the courier: users and versions, never a password
    CredentialSource  the courier's side: the secret itself (a protocol of `credentials`, never imported from here)
    GatewayRuntime    where gateways run
    ReachedFromContainers   what some of these can besides
    Instrumentation   how long things take and how they end

Times are aware `datetime`s in UTC. Durations are `float` seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.model.details import Picture
from spreadpilot_core.ibkr.model.figures import ContainerFigures, FleetFigures
from spreadpilot_core.ibkr.model.followers import FollowerId, Roster
from spreadpilot_core.ibkr.model.gateways import (
    Controller,
    DeliveryTarget,
    Endpoint,
    ForeignGateway,
    Gateway,
    GatewaySpec,
    LastWords,
    Login,
)
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import (
    AttemptId,
    ContainerId,
    GatewayMapping,
    HistoryEntry,
    HistoryPage,
    HistoryQuery,
    Identities,
    LoadedRecords,
    LoginAttempt,
    LoginLimits,
    LoginOutcome,
    LoginRefusal,
    Record,
)
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State


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


class FollowerStatuses(Protocol):
    """How each follower's gateway stands, shown beside its record by a store that can."""

    async def write_status(self, snapshot: GatewaySnapshot) -> None:
        """Show it, unless there is no such record, or this manager does not act. Raises `StoreUnavailableError`."""


class History(Protocol):
    """What happened, in order. All methods raise `StoreUnavailableError` when the store is away."""

    async def append_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Append these, unless their id is there; what is too old, or too much, goes."""

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        """One page, newest first. A damaged entry is an error that names it."""


class Records(Protocol):
    """What a manager knows of each follower. All methods raise `StoreUnavailableError` when the store is away.

    Every write is durable when it returns.
    """

    async def open(self) -> None:
        """Connect or create; may be called again after a failure."""

    async def close(self) -> None:
        """Safe to call twice and when never opened."""

    async def identify(self, offered: Identities) -> Identities:
        """Whose records these are; a store that has no identity keeps the one that is `offered`. Atomic."""

    async def adopt_identity(self, identity: str) -> Identities:
        """Add one to those that are there, for good; there already: fine."""

    async def load(self) -> LoadedRecords:
        """All records. A damaged one is in `damaged`, never silently dropped, and no error for the others."""

    async def save(self, *records: Record, unless_newer: bool = False) -> None:
        """Write these records, each whole (last writer wins); `unless_newer`: but not in place of one that was updated later.

        Raises `StoreDamagedError` where one of them can't be taken; the others are written then, or not.
        """


class LoginLedger(Protocol):
    """Every login of every IBKR user. All methods raise `StoreUnavailableError` when the store is away.

    Every write is durable when it returns. Reservations are atomic over all managers that share the store.
    """

    async def reserve_login(self, attempt: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
        """Reserve one login, or say why not, in one atomic step.

        Refused as `in_progress` while the user has an unsettled attempt of any manager; as `throttled` while one of the
        user's attempts has a `not_before` after `attempt.reserved_at`; else by the first of `limits` that the attempts
        reserved in the 24 h before it have used up.
        """

    async def withdraw_login(self, attempt_id: AttemptId, user: str) -> None:
        """Make sure that an attempt whose reservation got no answer is not there, and never will be.

        One that has started, or has an outcome, stays.
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

    async def full_logins(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Attempts of this user reserved at or after `since` that ended and are not void, oldest first."""


class AuditHeads(Protocol):
    """The newest line of each audit trail, kept where nobody who alters a trail can reach. Both raise `StoreUnavailableError`."""

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """Keep the newest line of this audit trail (host and path), for `audit verify`; an older one changes nothing."""

    async def audit_head(self, trail: str) -> AuditHead | None:
        """The newest line that was kept of this trail."""


class AvailabilityStore(Protocol):
    """How long gateways were ready. All methods raise `StoreUnavailableError` when the store is away."""

    async def open(self) -> None:
        """Connect or create; may be called again after a failure."""

    async def close(self) -> None:
        """Safe to call twice and when never opened."""

    async def keep_availability(self, days: Sequence[AvailabilityDay]) -> None:
        """Write these days, each in place of what is there under its id; those of more than a year ago may be forgotten."""

    async def availability(self, month: str) -> Sequence[AvailabilityDay]:
        """All days of this month, as "2026-11", of every run."""


class SharedDocuments(Protocol):
    """Small documents that all managers of one store, and the commands beside them, share: tokens, client leases and the like.

    A document is a JSON object. All methods raise `StoreUnavailableError` when the store is away; every write is durable when
    it returns. One that somebody has spoilt is as if it were not there, but its name stays taken.
    """

    async def open(self) -> None:
        """Connect or create; may be called again after a failure."""

    async def close(self) -> None:
        """Safe to call twice and when never opened."""

    async def add(self, kind: str, name: str, document: Mapping[str, Any]) -> bool:
        """Keep it, unless there is one of this kind and name. False: there is, and it stays. Atomic over all managers."""

    async def put(self, kind: str, name: str, document: Mapping[str, Any]) -> None:
        """Keep it in place of what is there (last writer wins)."""

    async def get(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """The one of this kind and name, or None."""

    async def all(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """All of a kind, by name, in order."""

    async def remove(self, kind: str, name: str) -> bool:
        """Whether it was there."""


class RecordStore(Records, LoginLedger, History, AuditHeads, Protocol):
    """What must survive the manager, and what other services read: all that one store keeps beside the followers."""

    async def report(self, mappings: Sequence[GatewayMapping]) -> None:
        """Replace the mappings, which other services read, by these."""


class Leadership(Protocol):
    """What a leader lease says of this manager at one moment."""

    @property
    def held(self) -> bool:
        """Whether this manager acts."""

    @property
    def sentence(self) -> str:
        """Who acts, and since or until when."""

    @property
    def overrode(self) -> bool:
        """Whether the lease was just taken by the operator's word alone."""

    @property
    def is_known(self) -> bool:
        """Whether this was found out just now; False: whoever keeps the lease can't be asked."""


class LeaderLease(Protocol):
    """Which of several managers may create, start and remove: of those on one record store, or in one cluster."""

    @property
    def held(self) -> bool:
        """Whether this manager may act now, by a clock of its own: False from the instant at which it lapsed."""

    async def keep(self, on_change: Callable[[Leadership], None], *, take_over: bool = False) -> None:
        """Take, renew, lose, take again, until cancelled; `on_change` is called whenever that changes.

        `take_over` is an operator's word that a silent manager on another engine is gone with its gateways.
        """

    async def hand_over(self, *, within: float) -> bool:
        """Resign, and say whether another manager has taken it meanwhile. Raises `StoreUnavailableError`."""

    async def resign(self) -> None:
        """Give it back, so that the next manager need not wait. Raises `StoreUnavailableError`."""


class MakeLease(Protocol):
    """Makes the leader lease that a store keeps."""

    def __call__(self, engine_id: str, *, holder: str | None = None) -> LeaderLease:
        """The lease of whoever acts on this engine; `holder` is the name that it is held in, None: this manager's own."""


class CredentialBroker(Protocol):
    """The manager's side of the courier. The password stays in the courier's process."""

    @property
    def renew_within(self) -> float | None:
        """Seconds within which `version` should be asked again, so that a token is renewed in time; None: no matter."""

    def expect(self) -> None:
        """Secrets are about to be read: whatever that needs may start meanwhile. Waits for nothing, and fails at nothing."""

    async def read(self, ref: str, controller: Controller, *, follower_id: FollowerId) -> Login:
        """Have the secret read and checked for what this controller can take.

        Raises `CredentialsUnavailableError` (may pass by itself) or `CredentialsRefusedError` (will not).
        """

    async def deliver(self, ticket: str, delivery_target: DeliveryTarget) -> None:
        """Have the password of `ticket` brought to `delivery_target`. Raises `DeliveryError`; then the container is removed."""

    async def version(self, ref: str, *, follower_id: FollowerId | None = None) -> str:
        """The newest version without reading the secret. Raises as `read` does."""

    def hints(self) -> AsyncIterator[None]:
        """Yield whenever stored secrets may have changed, so that `version` is worth asking now; ends only when closed."""

    async def close(self) -> None:
        """End every courier."""


def unguarded() -> None:
    """The guard of a runtime on which nobody else acts."""


DeliverSecret: TypeAlias = Callable[[DeliveryTarget], Awaitable[None]]
"""Has the password brought to a container that waits for it. Raises `DeliveryError`; then it is not certain that it arrived."""
CommitLogin: TypeAlias = Callable[[ContainerId], Awaitable[None]]
"""Writes the login of this container down as started; what it raises forbids the login."""


class HostPorts(Protocol):
    """What a runtime that publishes gateways on this host should know of their ports; it leases them itself."""

    @property
    def counts(self) -> tuple[int, int]:
        """How many are held, and how many there are."""

    def remember(self, follower_id: FollowerId, port: int) -> None:
        """The follower's last gateway had this port: its next one gets it again, while it is free."""

    def pin(self, follower_id: FollowerId, port: int | None) -> None:
        """The follower's record asks for this port and no other; None: for none."""


class GatewayRuntime(Protocol):
    """Where gateways run. It knows names, labels, addresses and logs; it knows no policy and retries nothing but reads.

    Nothing here is a transaction: after a cancelled or failed call the caller lists again. All methods raise
    `RuntimeUnavailableError` when the runtime can't be reached, `LaunchError` when it refuses.
    """

    guard: Callable[[], None]
    """Called right before each request that creates, starts, stops or removes a container, once there is a connection to send it
    on and with nothing awaited in between; what it raises ends the call. By itself it does nothing.
    """

    identities: Identities
    """Whose containers are found, made and touched; nobody's while they are not known."""
    foreign: Sequence[ForeignGateway]
    """Other managers' gateways, as the last `list` saw them."""

    @property
    def ports(self) -> HostPorts:
        """Of this host, where gateways are published on it; else nothing is done with what is said here."""

    async def open(self) -> None:
        """Reach the runtime; raises `RuntimeUnavailableError` with the cure. May be called again."""

    async def close(self) -> None:
        """Let go without touching any gateway; safe to call twice and when never opened."""

    async def identity(self) -> str:
        """Names what gateways run on: two managers that see the same containers get the same answer."""

    async def prepare(self, spec: GatewaySpec) -> Controller:
        """Have everything at hand that `launch` needs (the image), and say which controller it holds."""

    def reset_hours(self, follower_id: FollowerId) -> str | None:
        """When what this follower's gateway logs in to is reset, as `prepare` found it stated (see `model.reset_windows`).

        None: IBKR's own hours.
        """

    def waits_for(self, follower_id: FollowerId) -> str | None:
        """What the launch of this follower that is under way waits for, as whoever keeps it waiting says; None: it goes on."""

    async def list(self) -> Sequence[Gateway]:
        """Every container that bears an identity of ours, whatever its phase."""

    async def inspect(self, container_id: ContainerId) -> Gateway | None:
        """One container, or None when it is gone or another manager's."""

    async def launch(self, spec: GatewaySpec, client_id: int, *, secret: DeliverSecret, commit: CommitLogin) -> Gateway:
        """Make the follower's container, have its password delivered, and let its controller type the login.

        The order is the engine's own, but `commit` is awaited right before the step that lets the controller type, and `secret`
        once, when the container can take it. What either raises comes through. Until `commit` has returned, a launch that
        fails leaves nothing that could log in, and nothing at all where that could be removed; one that fails later may have
        worked: ask. So may one that was cancelled, as happens to one that waits for its engine and is wanted no more.

        Raises:
            NameTakenError: the follower has one already, or somebody else's bears its name.
            UserTakenError: another manager on this engine has a gateway of the same IBKR user.
            PortTakenError: the host port is not free after all. It may be removed then.
            PortsExhaustedError, PinnedPortError: there is no host port for it.
        """

    async def remove(self, container_id: ContainerId, *, grace: float) -> LastWords:
        """Stop it (SIGTERM, after `grace` seconds SIGKILL) and remove it; returns when it is confirmed gone. Gone already: fine.

        `grace=0` kills at once. Settings kept for the follower's next start stay. While the end is not confirmed this goes on,
        or raises `UnavailableError`; until then it is the follower's gateway, and may be logged in.
        """

    async def forget_secret(self, container_id: ContainerId) -> None:
        """Remove the password file inside; harmless when repeated, when gone, or when there is none."""

    def changes(self) -> AsyncIterator[ContainerId | None]:
        """The id of each container of ours that changed, from the first `anext` on; None: any may have changed, list again.

        Only a hint: what counts is what `inspect` or `list` says afterwards. The first is always None, yielded once the
        subscription stands; it reconnects by itself, and says None then. Of a launch of this runtime's nothing is told before its
        commit. Ends only when the runtime is closed.
        """

    def log(self, gateway: Gateway) -> AsyncIterator[str]:
        """The log lines of this life from its start (or as far back as the runtime keeps), then live; ends with it."""

    async def reach(self, gateway: Gateway) -> Endpoint:
        """Where this process connects to its API: its endpoint, or a way there that the runtime keeps open for us."""

    async def usage(self, container_id: ContainerId) -> ContainerFigures | None:
        """What the container uses now, by the runtime's own figures; None where it has none, or the container is gone."""


class ReachedFromContainers(Protocol):
    """A runtime whose gateways answer on this host alone, and that can let containers reach them."""

    async def endpoint_for(self, gateway: Gateway, address: str) -> Endpoint | None:
        """Where the program with this address connects to its API; None: nowhere.

        What has to be opened for it is open when this returns. Raises `LaunchError` when it can't be.
        """


class LastPictures(Protocol):
    """What gateways' screens showed last before they were given up, kept on this host: the newest few of each follower."""

    async def take(self, gateway: Gateway) -> None:
        """Take one now and keep it; what keeps it from that is logged, and raises nothing. It may be cancelled."""

    async def list(self, follower_id: str) -> Sequence[Picture]:
        """The newest first."""

    async def read(self, follower_id: str, picture_id: str) -> bytes | None:
        """As PNG; None: there is none of this id."""


class Instrumentation:
    """Told how long things take and how they end, on the event loop; neither blocks nor raises. By itself it does nothing.

    No protocol: an adapter overrides what it measures, and the rest stays without effect.
    """

    is_on: bool = False
    """Whether anybody measures: what costs something is done only then."""

    def watch(self, fleet: Callable[[], FleetFigures]) -> None:
        """From now on these are the fleet's figures; they may be asked for on another thread."""

    def state_changed(
        self, follower_id: FollowerId, before: State | None, after: State, code: ReasonCode | None
    ) -> None:
        """The verdict on a gateway changed, and why."""

    def action_ended(
        self, follower_id: FollowerId, kind: str, result: str, seconds: float, *, cause: ReasonCode | None = None
    ) -> None:
        """An action on a gateway ended: `result` is "done" or its failure, `cause` why it was begun."""

    def heartbeat(self, follower_id: FollowerId, seconds: float | None) -> None:
        """A heartbeat was answered after so long; None: it was not."""

    def login_settled(self, follower_id: FollowerId, outcome: LoginOutcome) -> None:
        """A login has its outcome in the ledger."""

    def phone_asked(self, follower_id: FollowerId) -> None:
        """A phone must approve a login now."""

    def phone_answered(self, follower_id: FollowerId, seconds: float, *, approved: bool) -> None:
        """It did, or the login went on, or ended, without."""

    def container_ended(self, follower_id: FollowerId, exit_code: int | None) -> None:
        """A container ended that nobody asked to end; None: it is gone."""

    def dependency_called(self, dependency: str, operation: str, seconds: float, error: str | None) -> None:
        """A store, a runtime or the credentials were asked; `error` is the error's kind."""

    def request_ended(
        self, follower_id: FollowerId, kind: str, seconds: float | None, outcome: str, code: int | None = None
    ) -> None:
        """A request of the IB API ended; None: one that is not answered was sent."""

    def loop_lagged(self, seconds: float) -> None:
        """The event loop came so much later than it should to what was due."""


UNMEASURED = Instrumentation()
"""Nobody measures."""
