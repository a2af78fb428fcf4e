"""A store in memory, for tests of what stands above it and for programs that keep nothing: no file, no server.

The content is an object of its own, as a database is: several adapters may share it, it outlives them, and can be away.
It holds documents, as other stores do, so that a damaged one is what it is elsewhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.model.followers import Roster
from spreadpilot_core.ibkr.model.records import (
    NOBODY,
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
    history_page,
)
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.users import canonical_user
from spreadpilot_core.ibkr.store.documents import (
    AVAILABILITY_RETENTION,
    HISTORY,
    LOGINS,
    MAPPINGS,
    RECORDS,
    is_newer,
    open_logins,
    parse_records,
)
from spreadpilot_core.ibkr.store.login_budget import full_since, in_order, is_outlived, refusal
from spreadpilot_core.ibkr.store.rosters import parse_roster
from spreadpilot_core.ibkr.system.clock import Clock, utc_now

HISTORY_AGE = timedelta(days=90)
HISTORY_ENTRIES = 20_000
_WHERE = "the store in memory"


@dataclass(slots=True)
class MemoryContent:
    """What a store in memory holds."""

    followers: list[Mapping[str, Any]] = field(default_factory=list)
    """Who should have a gateway, as a user writes it."""
    statuses: dict[str, GatewaySnapshot] = field(default_factory=dict)
    """How their gateways stand."""
    records: dict[str, object] = field(default_factory=dict)
    logins: dict[str, dict[str, Any]] = field(default_factory=dict)
    mappings: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: dict[str, dict[str, Any]] = field(default_factory=dict)
    audit_heads: dict[str, AuditHead] = field(default_factory=dict)
    availability: dict[str, AvailabilityDay] = field(default_factory=dict)
    shared: dict[tuple[str, str], str] = field(default_factory=dict)
    """Kind and name to the document's text."""
    identities: list[str] = field(default_factory=list)
    is_away: bool = False
    """Every call fails as long as it is."""
    opens_after: float = 0.0
    """Seconds, as a disk or a server takes some."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, when somebody has changed the followers."""

    def put_followers(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Make these the followers, and say so to who listens."""
        self.followers = [dict(each) for each in documents]
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class _Adapter:
    """What both adapters do alike."""

    def __init__(self, content: MemoryContent) -> None:
        self.content = content
        self._is_open = False

    async def open(self) -> None:
        """Nothing is connected. Raises `StoreUnavailableError` while the content is away."""
        await asyncio.sleep(self.content.opens_after)
        await self._reach()
        self._is_open = True

    async def close(self) -> None:
        """Nothing is held."""
        self._is_open = False
        changed, self.content.changed = self.content.changed, asyncio.Event()
        changed.set()

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.content.is_away:
            raise StoreUnavailableError("The store in memory is away.")

    async def _reach_open(self) -> None:
        await self._reach()
        if not self._is_open:
            raise StoreUnavailableError("The store in memory was not opened.")


class InMemoryFollowers(_Adapter):
    """Fulfils `seams.FollowerStore` and `seams.FollowerStatuses`."""

    def __init__(self, content: MemoryContent, *, ports: range | None = None) -> None:
        super().__init__(content)
        self._ports = ports

    async def load(self) -> Roster:
        """Every record."""
        await self._reach()
        return parse_roster(self.content.followers, ports=self._ports)

    async def write_status(self, snapshot: GatewaySnapshot) -> None:
        """Show it, if there is such a record."""
        await self._reach_open()
        if any(each.get("id") == snapshot.follower_id for each in self.content.followers):
            self.content.statuses[snapshot.follower_id] = snapshot

    async def hints(self) -> AsyncIterator[None]:
        """Yield once at the beginning, and whenever the followers have changed since."""
        while self._is_open:
            changed = self.content.changed
            yield
            await changed.wait()


class InMemoryRecords(_Adapter):
    """Fulfils `seams.RecordStore`. Nothing is awaited between reading and writing, so every call is atomic."""

    def __init__(self, content: MemoryContent, *, clock: Clock = utc_now) -> None:
        super().__init__(content)
        self._clock = clock

    async def identify(self, offered: Identities) -> Identities:
        """Whose records these are; without an identity the one that is offered is kept."""
        await self._reach_open()
        if not self.content.identities:
            self.content.identities.extend(offered.all)
        return self._identities()

    async def adopt_identity(self, identity: str) -> Identities:
        """Add one to those that are there."""
        await self._reach_open()
        if identity not in self.content.identities:
            self.content.identities.append(identity)
        return self._identities()

    def _identities(self) -> Identities:
        own, *adopted = self.content.identities
        return Identities(own, tuple(adopted)) if own else NOBODY

    # ------------------------------------------------------------------ records

    async def load(self) -> LoadedRecords:
        """All records, and whose are damaged."""
        await self._reach_open()
        return parse_records(sorted(self.content.records.items()), where=_WHERE)

    async def save(self, *records: Record, unless_newer: bool = False) -> None:
        """Write these records, each whole."""
        await self._reach_open()
        for record in records:
            document, known = RECORDS.dump(record), self.content.records.get(record.follower_id)
            if not (unless_newer and is_newer(known, document)):
                self.content.records[record.follower_id] = document

    # ------------------------------------------------------------------ logins

    async def reserve_login(self, attempt: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
        """Reserve one login, or say why not. An attempt that is there already stays as it is."""
        await self._reach_open()
        known = self._logins_of(attempt.user)
        if any(other.id == attempt.id for other in known):
            return None
        refused = refusal(known, attempt, limits)
        if refused is None:
            self._put(attempt)
            for other in known:
                if is_outlived(other, attempt.reserved_at):
                    del self.content.logins[other.id]
        return refused

    async def withdraw_login(self, attempt_id: AttemptId, user: str) -> None:
        """Make sure that it is not reserved."""
        await self._reach_open()
        for each in self._logins_of(canonical_user(user)):
            if each.id == attempt_id and each.started_at is None and each.outcome is None:
                del self.content.logins[attempt_id]

    async def mark_started(self, attempt_id: AttemptId, container_id: ContainerId, at: datetime) -> bool:
        """Write that its container is about to log in; False when it is settled already, or not there."""
        await self._reach_open()
        return self._change(attempt_id, lambda each: replace(each, container_id=container_id, started_at=at))

    async def settle_login(
        self, attempt_id: AttemptId, outcome: LoginOutcome, at: datetime, *, not_before: datetime | None = None
    ) -> None:
        """Write how it ended; the first outcome stays."""
        await self._reach_open()
        self._change(attempt_id, lambda each: replace(each, outcome=outcome, settled_at=at, not_before=not_before))

    async def unsettled_logins(self) -> Sequence[LoginAttempt]:
        """Attempts without an outcome, oldest first."""
        await self._reach_open()
        return in_order(open_logins(self.content.logins.values(), where=_WHERE))

    async def full_logins(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Attempts of this user reserved at or after `since` that ended and are not void, oldest first."""
        await self._reach_open()
        return full_since(self._logins_of(canonical_user(user)), since)

    def _logins_of(self, user: str) -> list[LoginAttempt]:
        theirs = [each for each in self.content.logins.values() if each.get("user") == user]
        return [LOGINS.read(each, where=_WHERE) for each in theirs]

    def _change(self, attempt_id: AttemptId, changed: Callable[[LoginAttempt], LoginAttempt]) -> bool:
        document = self.content.logins.get(attempt_id)
        attempt = LOGINS.read(document, where=_WHERE) if document is not None else None
        if attempt is None or attempt.outcome is not None:
            return False
        self._put(changed(attempt))
        return True

    def _put(self, attempt: LoginAttempt) -> None:
        self.content.logins[attempt.id] = LOGINS.dump(attempt)

    # ------------------------------------------------------------------ what others read

    async def report(self, mappings: Sequence[GatewayMapping]) -> None:
        """Replace the mappings."""
        await self._reach_open()
        self.content.mappings = {each.follower_id: MAPPINGS.dump(each) for each in mappings}

    async def append_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Append it, unless the ids are there, and prune it by age and count."""
        await self._reach_open()
        for entry in entries:
            self.content.history.setdefault(entry.id, HISTORY.dump(entry))
        oldest = self._clock() - HISTORY_AGE
        newest = list(self.content.history.items())[-HISTORY_ENTRIES:]
        self.content.history = {key: each for key, each in newest if datetime.fromisoformat(each["at"]) >= oldest}

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        """One page, newest first."""
        await self._reach_open()
        found = [HISTORY.read(each, where=_WHERE) for each in self.content.history.values()]
        asked = sorted((each for each in found if _is_asked(each, query)), key=_place, reverse=True)
        return history_page(asked[: query.limit + 1], query)

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """Keep the newest line of this audit trail; an older one changes nothing."""
        await self._reach_open()
        known = self.content.audit_heads.get(trail)
        if known is None or known.serial <= head.serial:
            self.content.audit_heads[trail] = head

    async def audit_head(self, trail: str) -> AuditHead | None:
        """The newest line that was kept of this trail."""
        await self._reach_open()
        return self.content.audit_heads.get(trail)


def _place(entry: HistoryEntry) -> tuple[datetime, str]:
    return entry.at, entry.id


def _is_asked(entry: HistoryEntry, query: HistoryQuery) -> bool:
    return (
        query.follower_id in (None, entry.follower_id)
        and (query.since is None or entry.at >= query.since)
        and (query.before is None or _place(entry) < (query.before.at, query.before.id))
    )


class InMemoryShared(_Adapter):
    """Fulfils `seams.SharedDocuments`."""

    async def add(self, kind: str, name: str, document: Mapping[str, Any]) -> bool:
        """Keep it, unless there is one of this kind and name."""
        await self._reach_open()
        return self.content.shared.setdefault((kind, name), text := json.dumps(document)) is text

    async def put(self, kind: str, name: str, document: Mapping[str, Any]) -> None:
        """Keep it in place of what is there."""
        await self._reach_open()
        self.content.shared[kind, name] = json.dumps(document)

    async def get(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """The one of this kind and name."""
        await self._reach_open()
        text = self.content.shared.get((kind, name))
        return None if text is None else _object(text)

    async def all(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """All of a kind, by name."""
        await self._reach_open()
        found = sorted((name, text) for (its, name), text in self.content.shared.items() if its == kind)
        return {name: _object(text) for name, text in found}

    async def remove(self, kind: str, name: str) -> bool:
        """Whether it was there."""
        await self._reach_open()
        return self.content.shared.pop((kind, name), None) is not None


def _object(text: str) -> dict[str, Any]:
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


class InMemoryAvailability(_Adapter):
    """Fulfils `seams.AvailabilityStore`."""

    async def keep_availability(self, days: Sequence[AvailabilityDay]) -> None:
        """Each in place of what is there under its id; what is too old beside the newest goes."""
        await self._reach_open()
        there = self.content.availability | {each.id: each for each in days}
        newest = max((each.day for each in there.values()), default="1970-12-31")
        oldest = (date.fromisoformat(newest) - timedelta(days=AVAILABILITY_RETENTION)).isoformat()
        self.content.availability = {name: each for name, each in there.items() if each.day >= oldest}

    async def availability(self, month: str) -> Sequence[AvailabilityDay]:
        """All days of this month, by id."""
        await self._reach_open()
        return [each for _, each in sorted(self.content.availability.items()) if each.day.startswith(f"{month}-")]
