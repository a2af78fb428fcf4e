"""The login ledger in MongoDB: one document per IBKR user holds all its attempts, so one conditional write is atomic.

    gateway_logins   {_id: USER, revision: 7, attempts: [...]}

Every change reads the document, applies the rule, and replaces the document only while its revision is still the one
that was read; another manager's write in between means: read again. No transaction and no server clock is needed.

A reservation whose answer was lost may have been written, and may even arrive later. Nobody would ever settle it, so
the caller has it withdrawn: that takes it out and moves the revision on, after which a late write no longer matches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from spreadpilot_core.ibkr.records import AttemptId, ContainerId, LoginAttempt, LoginOutcome, LoginRefusal
from spreadpilot_core.ibkr.store.documents import LOGINS
from spreadpilot_core.ibkr.store.login_budget import counted_since, in_order, is_outlived, refusal
from spreadpilot_core.ibkr.store.mongo_database import MongoDatabase

COLLECTION = "gateway_logins"

Attempts = list[LoginAttempt]


class MongoLogins:
    """The attempts of every user. All methods raise `StoreUnavailableError`."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    async def reserve(self, attempt: LoginAttempt, limit: int | None) -> LoginRefusal | None:
        """Reserve it, or say why not. One that is there already stays as it is."""
        while True:
            document = await self._of_user(attempt.user)
            known = self._attempts(document)
            if any(other.id == attempt.id for other in known):
                return None
            if refused := refusal(known, attempt, limit):
                return refused
            kept = [other for other in known if not is_outlived(other, attempt.reserved_at)]
            if await self._write(attempt.user, document, [*kept, attempt]):
                return None

    async def withdraw(self, attempt_id: AttemptId, user: str) -> None:
        """Make sure that an attempt whose reservation got no answer is not there, and never will be."""
        while True:
            document = await self._of_user(user)
            kept = [
                each for each in self._attempts(document) if each.id != attempt_id or each.started_at or each.outcome
            ]
            if await self._write(user, document, kept):
                return

    async def mark_started(self, attempt_id: AttemptId, container_id: ContainerId, at: datetime) -> None:
        """Write that its container is about to start."""
        await self._change(attempt_id, lambda open_one: replace(open_one, container_id=container_id, started_at=at))

    async def settle(
        self, attempt_id: AttemptId, outcome: LoginOutcome, at: datetime, not_before: datetime | None
    ) -> None:
        """Write how it ended; the first outcome stays."""
        await self._change(
            attempt_id, lambda open_one: replace(open_one, outcome=outcome, settled_at=at, not_before=not_before)
        )

    async def unsettled(self) -> Sequence[LoginAttempt]:
        """Those without an outcome, oldest first."""
        documents = await self._database.find(COLLECTION, {"attempts.outcome": None})
        known = [attempt for document in documents for attempt in self._attempts(document)]
        return in_order(attempt for attempt in known if attempt.outcome is None)

    async def counted(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Those of `user` reserved at or after `since` whose outcome counts, oldest first."""
        return counted_since(self._attempts(await self._of_user(user)), since)

    # ------------------------------------------------------------------ one document

    async def _change(self, attempt_id: AttemptId, changed: Callable[[LoginAttempt], LoginAttempt]) -> None:
        while True:
            documents = await self._database.find(COLLECTION, {"attempts.id": attempt_id})
            if not documents:
                return
            known = self._attempts(documents[0])
            if not any(each.id == attempt_id and each.outcome is None for each in known):
                return
            new = [changed(each) if each.id == attempt_id else each for each in known]
            if await self._write(documents[0]["_id"], documents[0], new):
                return

    async def _of_user(self, user: str) -> Mapping[str, Any] | None:
        documents = await self._database.find(COLLECTION, {"_id": user})
        return documents[0] if documents else None

    def _attempts(self, document: Mapping[str, Any] | None) -> Attempts:
        attempts = document.get("attempts") if document else []
        where = f"{COLLECTION} of {self._database.label}"
        return [LOGINS.read(each, where=where) for each in attempts or []]

    async def _write(self, user: str, read: Mapping[str, Any] | None, attempts: Attempts) -> bool:
        """Write the user's document if it is still as it was read; False means: read again."""
        documents = [LOGINS.dump(attempt) for attempt in in_order(attempts)]
        if read is None:
            return await self._database.insert(COLLECTION, {"_id": user, "revision": 1, "attempts": documents})
        revision = read.get("revision", 0)
        new = {"_id": user, "revision": revision + 1, "attempts": documents}
        return await self._database.replace(COLLECTION, {"_id": user, "revision": revision}, new)
