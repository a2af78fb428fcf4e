"""What must survive the manager, in MongoDB.

    gateway_records    one document per follower
    gateway_logins     one per IBKR user (see `mongo_logins`)
    gateway_mappings   one per running gateway, for other services; gone when the gateway is
    gateway_events     the manager's history, pruned here by age and count

While the server is away, records, settlements and history go to an outbox on this host's disk and are written on
return, in order. A reservation never does: unreachable means that nobody logs in. Whatever is read first waits for
the outbox to be written, so nobody reads past their own writes. Mappings are no history: the newest are written on return.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import structlog

from spreadpilot_core.ibkr.errors import StoreDamagedError, StoreUnavailableError
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
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.documents import HISTORY, MAPPINGS, RECORDS, timestamp
from spreadpilot_core.ibkr.store.mongo_database import Document, MongoDatabase
from spreadpilot_core.ibkr.store.mongo_logins import MongoLogins
from spreadpilot_core.ibkr.store.outbox import Outbox
from spreadpilot_core.ibkr.tasks import Tasks

log = structlog.get_logger(__name__)

RECORDS_COLLECTION = "gateway_records"
MAPPINGS_COLLECTION = "gateway_mappings"
HISTORY_COLLECTION = "gateway_events"
AUDIT_COLLECTION = "gateway_audit_heads"
OUTBOX_FILE = "mongodb-outbox.sqlite3"
HISTORY_AGE = timedelta(days=90)
HISTORY_COUNT = 20_000
PRUNE_EVERY = 100
"""Reports with history between two prunings."""
AT_ONCE = 200
"""Entries of the outbox that are written before they are forgotten together."""
RETRY_AFTER = (0.5, 5.0)
"""Seconds before the outbox is tried again: first, and at most (doubling)."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MongoRecords:
    """What must survive the manager, in MongoDB.

    Args:
        database: where.
        outbox: what waits while it is away.
        clock: now, in UTC.
        trust_mappings: seconds after which the mappings are read again, since somebody else may have touched them.
        holds_term: whether this manager may say what runs; a manager that lost its term leaves the mappings alone.
    """

    def __init__(
        self,
        database: MongoDatabase,
        outbox: Outbox,
        *,
        clock: Callable[[], datetime] = _utc_now,
        trust_mappings: float = 30,
        holds_term: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._logins = MongoLogins(database)
        self._clock = clock
        self._trust_mappings = trust_mappings
        self._mappings_read_at = 0.0
        self.holds_term = holds_term
        self._mappings_due: Sequence[GatewayMapping] | None = None
        self._mappings_there: Mapping[FollowerId, Document] | None = None
        """As this manager wrote them; None: they must be read."""
        self._reports_until_prune = 0
        self._order = asyncio.Lock()
        self._tasks = Tasks("records in MongoDB")

    @classmethod
    def from_settings(cls, settings: Settings) -> MongoRecords:
        """The store that `mongo_uri` and `mongo_db_name` name; its outbox is in `state_dir`."""
        trusted = settings.full_comparison_interval / 2
        outbox = Outbox(settings.state_dir / OUTBOX_FILE)
        return cls(MongoDatabase.from_settings(settings), outbox, trust_mappings=trusted)

    async def open(self) -> None:
        """Reach the server, and write what an earlier manager could not. Raises `StoreUnavailableError`."""
        await self._outbox.open()
        await self._database.open()
        self._mappings_there = None
        await self._database.index(HISTORY_COLLECTION, "at")
        await self._logins.open()
        await self._write_what_waits()

    async def close(self) -> None:
        """Let go; what waits in the outbox stays for the next manager."""
        await self._tasks.cancel()
        await self._database.close()
        await self._outbox.close()

    @property
    def waiting(self) -> int:
        """How many writes wait for the server."""
        return self._outbox.size + (self._mappings_due is not None)

    # ------------------------------------------------------------------ records

    async def load(self) -> Mapping[FollowerId, Record]:
        """All records. A damaged one is a `StoreDamagedError` that names it."""
        await self._caught_up()
        documents = await self._database.find(RECORDS_COLLECTION)
        where = f"{RECORDS_COLLECTION} of {self._database.label}"
        records = [RECORDS.read(document, where=where) for document in documents]
        return {record.follower_id: record for record in records}

    async def save(self, record: Record) -> None:
        """Write one record whole; into the outbox while the server is away."""
        document = RECORDS.dump(record)
        await self._write_or_keep(lambda: self._put_record(document), [("record", document)])

    async def _put_record(self, document: Mapping[str, Any]) -> None:
        await self._database.put(RECORDS_COLLECTION, {"_id": document["follower_id"], **document})

    # ------------------------------------------------------------------ logins

    async def reserve_login(self, attempt: LoginAttempt, limit: int | None) -> LoginRefusal | None:
        """Reserve one login, or say why not. Never through the outbox: raises `StoreUnavailableError` instead."""
        await self._caught_up()
        try:
            return await self._logins.reserve(attempt, limit)
        except StoreDamagedError:
            raise
        except (StoreUnavailableError, asyncio.CancelledError):
            withdrawal = {"id": attempt.id, "user": attempt.user}
            await asyncio.shield(self._keep([("withdrawal", withdrawal)]))
            raise

    async def mark_started(self, attempt_id: AttemptId, container_id: ContainerId, at: datetime) -> bool:
        """Write that the container is about to start; False: it must not. Never through the outbox: raises instead."""
        await self._caught_up()
        return await self._logins.mark_started(attempt_id, container_id, at)

    async def settle_login(
        self, attempt_id: AttemptId, outcome: LoginOutcome, at: datetime, *, not_before: datetime | None = None
    ) -> None:
        """Write how it ended; into the outbox while the server is away."""
        document = {
            "id": attempt_id,
            "outcome": outcome.value,
            "at": timestamp(at),
            "not_before": timestamp(not_before) if not_before else None,
        }
        await self._write_or_keep(
            lambda: self._logins.settle(attempt_id, outcome, at, not_before), [("settlement", document)]
        )

    async def unsettled_logins(self) -> Sequence[LoginAttempt]:
        """Attempts without an outcome, oldest first."""
        await self._caught_up()
        return await self._logins.unsettled()

    async def counted_logins(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Attempts of this user reserved at or after `since` whose outcome counts, oldest first."""
        await self._caught_up()
        return await self._logins.counted(user, since)

    # ------------------------------------------------------------------ mappings and history

    async def report(self, mappings: Sequence[GatewayMapping] | None, history: Sequence[HistoryEntry]) -> None:
        """Replace the mappings, unless None, and append the history; while the server is away, on its return."""
        self._mappings_due = self._mappings_due if mappings is None else mappings
        documents = [HISTORY.dump(entry) for entry in history]
        await self._write_or_keep(
            lambda: self._write_report(documents), [("history", document) for document in documents]
        )

    async def _write_report(self, history: Sequence[Mapping[str, Any]]) -> None:
        await self._add_history(history)
        await self._write_mappings()

    async def _write_mappings(self) -> None:
        due = self._mappings_due
        if due is None:
            return
        if self.holds_term():
            wanted = {mapping.follower_id: _for_services(MAPPINGS.dump(mapping), "last_updated") for mapping in due}
            await self._replace_mappings(wanted)
        else:
            self._mappings_there = None
        if self._mappings_due is due:
            self._mappings_due = None

    async def _replace_mappings(self, wanted: Mapping[FollowerId, Document]) -> None:
        """While this manager holds the term nobody else should write them: what was written is trusted for a while."""
        present, self._mappings_there = self._mappings_there, None
        if present is None or time.monotonic() - self._mappings_read_at > self._trust_mappings:
            self._mappings_read_at = time.monotonic()
            present = {each.pop("_id"): each for each in await self._database.find(MAPPINGS_COLLECTION)}
        changed = [{"_id": each, **document} for each, document in wanted.items() if present.get(each) != document]
        await self._database.put_all(MAPPINGS_COLLECTION, changed)
        if gone := [each for each in present if each not in wanted]:
            await self._database.delete(MAPPINGS_COLLECTION, {"_id": {"$in": gone}})
        self._mappings_there = wanted

    async def _add_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        if not history:
            return
        documents = [{"_id": each["id"], **_for_services(each, "at")} for each in history]
        await self._database.add_new(HISTORY_COLLECTION, documents)
        if self._reports_until_prune == 0:
            await self._prune()
            self._reports_until_prune = PRUNE_EVERY
        self._reports_until_prune -= 1

    async def _prune(self) -> None:
        oldest = self._clock() - HISTORY_AGE
        surplus = await self._database.newest(HISTORY_COLLECTION, "at", skip=HISTORY_COUNT)
        if surplus is not None:
            oldest = max(oldest, surplus["at"])
        await self._database.delete(HISTORY_COLLECTION, {"at": {"$lt": oldest}})

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """Keep the newest line of this audit trail. Each trail has one writer, its manager: the newest comes last."""
        known = await self.audit_head(trail)
        if known is None or known.serial < head.serial:
            await self._database.put(AUDIT_COLLECTION, {"_id": trail, "serial": head.serial, "hash": head.hash})

    async def audit_head(self, trail: str) -> AuditHead | None:
        """The newest line that was kept of this trail."""
        found = await self._database.find(AUDIT_COLLECTION, {"_id": trail})
        return AuditHead(int(found[0]["serial"]), str(found[0]["hash"])) if found else None

    # ------------------------------------------------------------------ the outbox

    async def _write_or_keep(self, write: Callable[[], Any], entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Write now when nothing waits before it; else keep it, in order."""
        async with self._order:
            if self._outbox.size == 0:
                try:
                    await write()
                except StoreDamagedError:
                    raise
                except StoreUnavailableError as error:
                    log.warning("MongoDB is away, what must be written is kept here", error=str(error))
                else:
                    return
            await self._keep(entries)

    async def _keep(self, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        await self._outbox.append(entries)
        if len(self._tasks) == 0:
            self._tasks.begin("write what was kept", self._write_kept())

    async def _write_kept(self) -> None:
        """Try until nothing waits any more."""
        pause, longest = RETRY_AFTER
        while self.waiting:
            try:
                await self._write_what_waits()
            except StoreUnavailableError:
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
        log.info("what was kept while MongoDB was away is written")

    async def _caught_up(self) -> None:
        """Nothing in the outbox stands before what is asked now. Raises `StoreUnavailableError`."""
        if self._outbox.size:
            await self._write_what_waits()

    async def _write_what_waits(self) -> None:
        """Write all that waits, in order. Raises `StoreUnavailableError` and keeps what is left."""
        async with self._order:
            while entries := await self._outbox.oldest(AT_ONCE):
                for kind, run in groupby(entries, key=lambda entry: entry.kind):
                    await self._write_run(kind, [entry.document for entry in run])
                await self._outbox.forget(entries[-1].number)
            await self._write_mappings()

    async def _write_run(self, kind: str, documents: Sequence[Mapping[str, Any]]) -> None:
        """Write entries of one kind that stand one after the other."""
        if kind == "history":
            await self._add_history(documents)
            return
        for document in documents:
            match kind:
                case "record":
                    await self._put_older_record(document)
                case "withdrawal":
                    await self._logins.withdraw(AttemptId(document["id"]), document["user"])
                case "settlement":
                    await self._settle_later(document)

    async def _settle_later(self, document: Mapping[str, Any]) -> None:
        not_before = document["not_before"]
        await self._logins.settle(
            AttemptId(document["id"]),
            LoginOutcome(document["outcome"]),
            datetime.fromisoformat(document["at"]),
            datetime.fromisoformat(not_before) if not_before else None,
        )

    async def _put_older_record(self, document: Mapping[str, Any]) -> None:
        """Write a record that waited, unless another manager has written a newer one meanwhile."""
        known = await self._database.find(RECORDS_COLLECTION, {"_id": document["follower_id"]}, fields=["updated_at"])
        written = (known[0].get("updated_at") or "") if known else ""
        if written <= (document["updated_at"] or ""):
            await self._put_record(document)


def _for_services(document: Mapping[str, Any], moment: str) -> dict[str, Any]:
    """The document as other services read it: its time as MongoDB's own type, which keeps milliseconds."""
    at = datetime.fromisoformat(document[moment])
    return {**document, moment: at.replace(microsecond=at.microsecond // 1000 * 1000)}
