"""What must survive the manager, in MongoDB.

    gateway_identity   whose records these are (see `identity`)
    gateway_records    one document per follower
    gateway_logins     one per IBKR user (see `logins`)
    gateway_mappings   one per running gateway, for other services; gone when the gateway is
    gateway_events     the manager's history (see `history`)

Every call answers or raises in bounded time; what was written while the server was away is the outbox's affair
(`store.outboxed_records`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.model.followers import FollowerId
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
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.documents import HISTORY, MAPPINGS, RECORDS, is_newer, parse_records
from spreadpilot_core.ibkr.store.mongodb.database import Document, MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.history import MongoHistory, at_as_time
from spreadpilot_core.ibkr.store.mongodb.logins import MongoLogins
from spreadpilot_core.ibkr.system.clock import Clock, utc_now

IDENTITY_COLLECTION = "gateway_identity"
IDENTITY = "manager"
RECORDS_COLLECTION = "gateway_records"
MAPPINGS_COLLECTION = "gateway_mappings"
AUDIT_COLLECTION = "gateway_audit_heads"


class MongoRecords:
    """What must survive the manager, in MongoDB.

    Args:
        database: where.
        clock: now, in UTC.
        trust_mappings: seconds after which the mappings are read again, since somebody else may have touched them.
        is_leader: whether this manager may say what runs; a manager that lost its lease leaves the mappings alone.
    """

    def __init__(
        self,
        database: MongoDatabase,
        *,
        clock: Clock = utc_now,
        trust_mappings: float = 30,
        is_leader: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._logins = MongoLogins(database)
        self._history = MongoHistory(database, clock=clock)
        self._trust_mappings = trust_mappings
        self._mappings_read_at = 0.0
        self.is_leader = is_leader
        self._mappings_there: Mapping[FollowerId, Document] | None = None
        """As this manager wrote them; None: they must be read."""

    @classmethod
    def from_settings(cls, settings: Settings, clock: Clock = utc_now) -> MongoRecords:
        """The store that `mongo_uri` and `mongo_db_name` name."""
        trusted = settings.full_comparison_interval / 2
        return cls(MongoDatabase.from_settings(settings), clock=clock, trust_mappings=trusted)

    async def open(self) -> None:
        """Reach the server. Raises `StoreUnavailableError`."""
        await self._database.open()
        self._mappings_there = None
        await self._history.open()
        await self._logins.open()

    async def close(self) -> None:
        """Let go."""
        await self._database.close()

    # ------------------------------------------------------------------ identity

    async def identify(self, offered: Identities) -> Identities:
        """Whose records these are; a store that has no identity keeps the one that is offered."""
        await self._database.insert(IDENTITY_COLLECTION, {"_id": IDENTITY, "identities": list(offered.all)})
        return await self._identities()

    async def adopt_identity(self, identity: str) -> Identities:
        """Add one to those that are there; only the manager that is the leader does."""
        known = (await self._identities()).all
        if identity not in known:
            await self._database.put(IDENTITY_COLLECTION, {"_id": IDENTITY, "identities": [*known, identity]})
        return await self._identities()

    async def _identities(self) -> Identities:
        if (found := await read_identities(self._database)) is not None:
            return found
        raise StoreDamagedError(
            f"The document {IDENTITY!r} of {IDENTITY_COLLECTION} in {self._database.label} names no identity.",
            hint="Delete it: the next start writes the one that the state directory keeps.",
        )

    # ------------------------------------------------------------------ records

    async def load(self) -> LoadedRecords:
        """All records, and whose are damaged."""
        return await read_records(self._database)

    async def save(self, *records: Record, unless_newer: bool = False) -> None:
        """Write these records, each whole."""
        for record in records:
            await self._save(record, unless_newer=unless_newer)

    async def _save(self, record: Record, *, unless_newer: bool) -> None:
        document = RECORDS.dump(record)
        if unless_newer:
            known = await self._database.find(RECORDS_COLLECTION, {"_id": record.follower_id}, fields=["updated_at"])
            if known and is_newer(known[0], document):
                return
        await self._database.put(RECORDS_COLLECTION, {"_id": record.follower_id, **document})

    # ------------------------------------------------------------------ logins

    async def reserve_login(self, attempt: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
        """Reserve one login, or say why not."""
        return await self._logins.reserve(attempt, limits)

    async def withdraw_login(self, attempt_id: AttemptId, user: str) -> None:
        """Make sure that it is not reserved, and never will be."""
        await self._logins.withdraw(attempt_id, user)

    async def mark_started(self, attempt_id: AttemptId, container_id: ContainerId, at: datetime) -> bool:
        """Write that the container is about to start; False: it must not."""
        return await self._logins.mark_started(attempt_id, container_id, at)

    async def settle_login(
        self, attempt_id: AttemptId, outcome: LoginOutcome, at: datetime, *, not_before: datetime | None = None
    ) -> None:
        """Write how it ended."""
        await self._logins.settle(attempt_id, outcome, at, not_before)

    async def unsettled_logins(self) -> Sequence[LoginAttempt]:
        """Attempts without an outcome, oldest first."""
        return await self._logins.unsettled()

    async def full_logins(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Attempts of this user reserved at or after `since` that ended and are not void, oldest first."""
        return await self._logins.full(user, since)

    # ------------------------------------------------------------------ mappings and history

    async def report(self, mappings: Sequence[GatewayMapping]) -> None:
        """Replace the mappings, as long as this manager is the leader."""
        if not self.is_leader():
            self._mappings_there = None
            return
        await self._replace_mappings(
            {each.follower_id: at_as_time(MAPPINGS.dump(each), "last_updated") for each in mappings}
        )

    async def append_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Append it, unless the ids are there."""
        await self._history.add([HISTORY.dump(entry) for entry in entries])

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        """One page, newest first."""
        return await self._history.read(query)

    async def _replace_mappings(self, wanted: Mapping[FollowerId, Document]) -> None:
        """While this manager is the leader nobody else should write them: what was written is trusted for a while."""
        present, self._mappings_there = self._mappings_there, None
        if present is None or time.monotonic() - self._mappings_read_at > self._trust_mappings:
            self._mappings_read_at = time.monotonic()
            present = {each.pop("_id"): each for each in await self._database.find(MAPPINGS_COLLECTION)}
        changed = [{"_id": each, **document} for each, document in wanted.items() if present.get(each) != document]
        await self._database.put_all(MAPPINGS_COLLECTION, changed)
        if gone := [each for each in present if each not in wanted]:
            await self._database.delete(MAPPINGS_COLLECTION, {"_id": {"$in": gone}})
        self._mappings_there = wanted

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """Keep the newest line of this audit trail. Each trail has one writer, its manager: the newest comes last."""
        known = await self.audit_head(trail)
        if known is None or known.serial <= head.serial:
            await self._database.put(AUDIT_COLLECTION, {"_id": trail, "serial": head.serial, "hash": head.hash})

    async def audit_head(self, trail: str) -> AuditHead | None:
        """The newest line that was kept of this trail."""
        found = await self._database.find(AUDIT_COLLECTION, {"_id": trail})
        if not found:
            return None
        serial, digest = found[0].get("serial"), found[0].get("hash")
        if not isinstance(serial, int) or not isinstance(digest, str):
            raise StoreDamagedError(f"The audit hash of {trail:.200} in {AUDIT_COLLECTION} is damaged.")
        return AuditHead(serial, digest)


async def read_records(database: MongoDatabase) -> LoadedRecords:
    """The records of this database, which is open. Raises `StoreUnavailableError`."""
    documents = await database.find(RECORDS_COLLECTION)
    return parse_records(
        ((str(document.get("_id")), document) for document in documents),
        where=f"{RECORDS_COLLECTION} of {database.label}",
    )


async def read_identities(database: MongoDatabase) -> Identities | None:
    """Whose records these are; None where they don't say."""
    match await database.find(IDENTITY_COLLECTION, {"_id": IDENTITY}):
        case [{"identities": [str(own), *adopted]}]:
            return Identities(own, tuple(map(str, adopted)))
    return None
