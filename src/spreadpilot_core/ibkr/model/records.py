"""What must survive the manager, as data: records, logins that were written down, what other services read.

Part of the seams (see `seams`): the record stores write it, the ledger and deciding read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Literal, NewType

from spreadpilot_core.ibkr.model.followers import Follower, FollowerId, TradingMode
from spreadpilot_core.ibkr.model.reasons import Reason, Severity
from spreadpilot_core.ibkr.model.users import canonical_user

ContainerId = NewType("ContainerId", str)
AttemptId = NewType("AttemptId", str)
DAY = timedelta(hours=24)
"""For how long IBKR counts a failed login."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Identities:
    """Whose containers a manager takes for its own."""

    own: str
    """What new containers bear; empty while it is not known."""
    adopted: tuple[str, ...] = ()
    """Of managers that have ended."""

    @property
    def all(self) -> tuple[str, ...]:
        """Its own first; none while it is not known."""
        return (self.own, *self.adopted) if self.own else ()

    def __contains__(self, identity: object) -> bool:
        return identity in self.all


NOBODY = Identities("")


class LoginOutcome(str, Enum):
    """How one reserved login ended."""

    SUCCEEDED = "succeeded"
    VOID = "void"
    """Never marked started, its container never left `created`, or its controller typed nothing: costs nothing."""
    REJECTED = "rejected"
    THROTTLED = "throttled"
    SECOND_FACTOR_MISSED = "second_factor_missed"
    FAILED = "failed"
    """Any other failure the log told."""
    UNFINISHED = "unfinished"
    """Marked started and its container is gone without an outcome; counts like a failure."""
    BROKEN_OFF = "broken_off"
    """We ended it before it was known how it goes: counts like a failure, and costs no pause."""
    BROKEN_OFF_ACCEPTED = "broken_off_accepted"
    """We ended it after IBKR had accepted the password: a full login, and no failed one."""

    DROPPED_IN_RESET = "dropped_in_reset"
    """Failed or unfinished in IBKR's reset hours, which drop logins without an answer: costs no budget."""

    @property
    def counts(self) -> bool:
        """Whether this outcome uses up login budget."""
        free = (LoginOutcome.SUCCEEDED, LoginOutcome.VOID, LoginOutcome.BROKEN_OFF_ACCEPTED)
        return self not in (*free, LoginOutcome.DROPPED_IN_RESET)

    @property
    def is_full(self) -> bool:
        """Whether a login was made at all, well or badly: that is what `full_login_limit` counts."""
        return self is not LoginOutcome.VOID

    @property
    def pauses(self) -> bool:
        """Whether the next login waits after it."""
        return self.counts and self is not LoginOutcome.BROKEN_OFF


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAttempt:
    """One login of one IBKR user, written down before anything is created."""

    id: AttemptId
    user: str
    follower_id: FollowerId
    secret_version: str
    reserved_at: datetime
    container_id: ContainerId | None = None
    started_at: datetime | None = None
    outcome: LoginOutcome | None = None
    settled_at: datetime | None = None
    not_before: datetime | None = None
    """IBKR named this wait when it ended the attempt: no login of this user before it."""
    by_operator: bool = False
    """The operator took this one on purpose (`--retry-login`): neither budget nor rejection refused it."""
    phone: str | None = None
    """Whose phone it asks; None: nobody's."""
    reset_from: datetime | None = None
    """From then on IBKR's reset explains that it ends without an answer; None: nothing does."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", canonical_user(self.user))

    @property
    def counts(self) -> bool:
        """Whether it ended, and uses up login budget."""
        return self.outcome is not None and self.outcome.counts

    @property
    def is_full(self) -> bool:
        """Whether it ended, and was a login at all."""
        return self.outcome is not None and self.outcome.is_full


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginLimits:
    """What a reservation may not exceed within 24 h, per IBKR user; None leaves that rule out."""

    counted: int | None = None
    """Logins that count as failed."""
    full: int | None = None
    """Logins of any outcome but void."""
    prompts: int | None = None
    """Those of them that asked a phone and that no operator took on purpose."""
    operator_gap: timedelta = timedelta(0)
    """How long the last login that an operator took on purpose must lie back."""


NO_LIMITS = LoginLimits()
OPERATOR_LIMITS = LoginLimits(counted=8, operator_gap=timedelta(seconds=60))
"""Of `--retry-login`: IBKR locks a user at 10 failed logins, whoever asked for them."""
AUTOMATIC_PROMPTS = 4
"""Phone approvals in 24 h that nobody asked for: more at night than anybody approves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What must survive the manager, one per follower that ever had a gateway."""

    follower_id: FollowerId
    client_id: int | None = None
    host_port: int | None = None
    """Host port of the running (or last) gateway, which the next one gets as long as it is free."""
    trading_mode: TradingMode | None = None
    """The mode of the last launch, or the one that an operator has confirmed since: paper does not become live by itself."""
    last_good: Follower | None = None
    """The newest reading of its record that was in force: it stays so while the record is broken, or gone by an accident."""
    removal_held: bool = False
    """Its record went together with too many others: only an operator's word, or the record's return, ends the waiting."""
    stopped_by_operator: bool = False
    user: str | None = None
    """IBKR user of the running (or last) gateway."""
    user_unproven: bool = False
    """That gateway was adopted without a record that named it, and its user not yet found to be that of the stored login."""
    secret_version: str | None = None
    """Version of the secret that the running (or last) gateway was given."""
    launch_id: str | None = None
    """Of the running (or last) gateway's launch, written before its container is created, which bears it too."""
    earlier_launches: tuple[str, ...] = ()
    """The launches before it, newest last: what an engine was asked for by a manager that died may come to be after the next launch."""
    container_id: ContainerId | None = None
    """The running (or last) gateway's container, written before it is started; None: its launch was cut off before that."""
    engine_id: str | None = None
    """What that container runs on, written with its launch; None: that engine has said that it is gone."""
    rejected_version: str | None = None
    """Version of the secret that IBKR rejected; no login with it again."""
    rejected_user: str | None = None
    logged_in_before: ContainerId | None = None
    """The container whose login once completed: a rejection in it may be the known false one (facts 1.4)."""
    false_rejection_used: datetime | None = None
    """When the one new container after such a rejection was spent."""
    losses: int = 0
    """Gateways lost after a good login, one after the other without a stable session in between."""
    last_loss: str = ""
    """How the last of them was lost (a sentence)."""
    lost_container: ContainerId | None = None
    """Its container: the next manager may find it again, and counts it no second time."""
    ended_with_manager: bool = False
    """The last gateway was stopped since its manager ended: a program that stops its gateways pays for each start."""
    last_login_at: datetime | None = None
    """When the newest container of this follower began, and with it its newest login."""
    asks_phone: bool = False
    """A login of this follower was once asked for the phone, whatever its trading mode."""
    logins_booked: int = 0
    """How many logins that the present container's controller typed are in the ledger."""
    needs_human: Reason | None = None
    """What a human must see to before anything happens again; an operator's `launch` clears it."""
    last_reason: str | None = None
    last_words: str | None = None
    """Last log lines and exit code of the previous container."""
    updated_at: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("user", "rejected_user"):
            value = getattr(self, name)
            object.__setattr__(self, name, canonical_user(value) if value is not None else None)


def is_same_engine(theirs: object, ours: str) -> bool:
    """Whether what a record or a lease calls an engine is this one; `ours` may name its host too, which older ones leave out."""
    return theirs == ours or theirs == ours.partition("@")[0]


@dataclass(frozen=True, slots=True)
class LoadedRecords:
    """What a record store holds."""

    usable: Mapping[FollowerId, Record] = field(default_factory=dict)
    damaged: Mapping[FollowerId, str] = field(default_factory=dict)
    """Followers whose record can't be understood, each with a sentence: it is left as it is."""

    def __bool__(self) -> bool:
        return bool(self.usable or self.damaged)


def seen_to(record: Record) -> Record:
    """The record once a human has seen to what it asked for."""
    return replace(record, needs_human=None)


def launched_with_words(launched: Record, now: Record, follower: Follower | None) -> Record:
    """The record that a launch brings, with what operators and readings have said since it began."""
    says_mode = follower is not None and follower.trading_mode is now.trading_mode
    return replace(
        launched,
        stopped_by_operator=now.stopped_by_operator,
        removal_held=now.removal_held,
        last_good=now.last_good or launched.last_good,
        trading_mode=now.trading_mode if says_mode else launched.trading_mode,
    )


@dataclass(frozen=True, slots=True)
class LoginRefusal:
    """Why `reserve_login` did not reserve: the attempts that speak against it, oldest first."""

    reason: Literal["budget", "full_logins", "prompts", "operator_gap", "in_progress", "throttled"]
    attempts: Sequence[LoginAttempt]
    until: datetime | None
    """When a place is free again (the oldest counted attempt leaves the 24 h, or the throttle ends); None: when settled."""


def exceeded(attempts: Sequence[LoginAttempt], wanted: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
    """Which of these limits the user's attempts of the last 24 h (oldest first) have used up, so that `wanted` may not be.

    The record stores apply it within the reservation; deciding asks it beforehand, to say why.
    """
    now = wanted.reserved_at
    recent = [each for each in attempts if each.is_full and each.reserved_at > now - DAY]
    counted = [each for each in recent if each.counts]
    if limits.counted is not None and len(counted) >= limits.counted:
        return LoginRefusal("budget", counted, counted[len(counted) - limits.counted].reserved_at + DAY)
    if limits.full is not None and len(recent) >= limits.full:
        return LoginRefusal("full_logins", recent, recent[len(recent) - limits.full].reserved_at + DAY)
    prompts = [each for each in recent if each.phone is not None and not each.by_operator]
    if wanted.phone is not None and limits.prompts is not None and len(prompts) >= limits.prompts:
        return LoginRefusal("prompts", prompts, prompts[len(prompts) - limits.prompts].reserved_at + DAY)
    since = now - limits.operator_gap
    operators = [each for each in recent if each.by_operator and each.reserved_at > since]
    if limits.operator_gap and operators:
        return LoginRefusal("operator_gap", operators, operators[-1].reserved_at + limits.operator_gap)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayMapping:
    """What other services read: one per running gateway."""

    follower_id: FollowerId
    container_id: ContainerId
    container_name: str
    host_port: int
    client_id: int
    status: str
    last_updated: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of the manager's own history. `id` makes writing it twice harmless."""

    id: str
    """Sorts as the entries of one manager happened."""
    at: datetime
    follower_id: FollowerId | None
    name: str
    severity: Severity = Severity.INFO
    reason_code: str | None = None
    """A `ReasonCode`, perhaps of another version."""
    sentence: str


@dataclass(frozen=True, slots=True)
class HistoryPlace:
    """A place in the history: what is older than this entry comes after it."""

    at: datetime
    id: str

    def __str__(self) -> str:
        """As an address may have it: microseconds since 1970, and the id."""
        return f"{(self.at - _EPOCH) // timedelta(microseconds=1)}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> HistoryPlace:
        """Raises `ValueError` for what is no place."""
        moment, _, entry_id = text.partition("-")
        try:
            return cls(_EPOCH + timedelta(microseconds=int(moment)), entry_id)
        except OverflowError:
            msg = f"{text!r} is no place in the history"
            raise ValueError(msg) from None


MOST_OF_A_PAGE = 1000
"""Entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery:
    """Which part of the history is wanted."""

    follower_id: FollowerId | None = None
    """None: everybody's, with what concerns the whole manager."""
    since: datetime | None = None
    before: HistoryPlace | None = None
    limit: int = 200


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Some of it, newest first."""

    entries: Sequence[HistoryEntry]
    older: HistoryPlace | None
    """Where the next page begins; None: this was the last."""


def history_page(found: Sequence[HistoryEntry], query: HistoryQuery) -> HistoryPage:
    """The page, of entries that a store has found: newest first, and one more where there is one."""
    entries = found[: query.limit]
    return HistoryPage(entries, HistoryPlace(entries[-1].at, entries[-1].id) if len(found) > len(entries) else None)
