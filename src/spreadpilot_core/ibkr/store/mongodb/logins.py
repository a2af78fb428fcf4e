"""The login ledger in MongoDB: one document per IBKR user holds all its attempts, so one write is atomic.

    gateway_logins   {_id: "7:USER", name: USER, version: 7, attempts: [...]}   (see `versions`)

Every change takes the newest version, applies the rule and writes the next one; another manager's write in between
means: read again. No transaction and no server clock is needed. What was read or written here last is good enough for
a change, which comes to nothing if another manager wrote since; a refusal is told only of what was read just now.

A reservation whose answer was lost may have been written, and may even arrive later. Nobody would ever settle it, so
the caller has it withdrawn: that takes it out and moves the version on, after which a late write comes to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.model.records import (
    AttemptId,
    ContainerId,
    LoginAttempt,
    LoginLimits,
    LoginOutcome,
    LoginRefusal,
)
from spreadpilot_core.ibkr.model.users import canonical_user
from spreadpilot_core.ibkr.store.documents import LOGINS, open_logins
from spreadpilot_core.ibkr.store.login_budget import full_since, in_order, is_outlived, refusal
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.versions import MongoVersions, Version
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

COLLECTION = "gateway_logins"


class MongoLogins:
    """The attempts of every user. All methods raise `StoreUnavailableError`."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self._versions = MongoVersions(database, COLLECTION)
        self._users: dict[AttemptId, str] = {}
        """Of the attempts that were reserved here and not settled."""

    async def open(self) -> None:
        """Have the server find attempts and users fast."""
        for field in ("name", "attempts.id"):
            await self._database.index(COLLECTION, field)

    async def reserve(self, attempt: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
        """Reserve it, or say why not. One that is there already stays as it is."""
        read, just_now = await self._versions.recall(attempt.user), False
        while True:
            known = self._attempts(read)
            refused = refusal(known, attempt, limits)
            there = any(other.id == attempt.id for other in known)
            if not refused and not there:
                remaining = [other for other in known if not is_outlived(other, attempt.reserved_at)]
                if await self._write(read, [*remaining, attempt]):
                    break
            elif just_now and not there:
                return refused
            elif just_now:
                break
            read, just_now = await self._versions.read(attempt.user), True
        self._users[attempt.id] = attempt.user
        return None

    async def withdraw(self, attempt_id: AttemptId, user: str) -> None:
        """Make sure that an attempt whose reservation got no answer is not there, and never will be."""
        while True:
            read = await self._versions.read(user)
            remaining = [
                each for each in self._attempts(read) if each.id != attempt_id or each.started_at or each.outcome
            ]
            if await self._write(read, remaining):
                return

    async def mark_started(self, attempt_id: AttemptId, container_id: ContainerId, at: datetime) -> bool:
        """Write that its container is about to start; False when it is settled already, or nobody knows it."""
        return await self._change(
            attempt_id, lambda open_one: replace(open_one, container_id=container_id, started_at=at)
        )

    async def settle(
        self, attempt_id: AttemptId, outcome: LoginOutcome, at: datetime, not_before: datetime | None
    ) -> None:
        """Write how it ended; the first outcome stays."""
        await self._change(
            attempt_id, lambda open_one: replace(open_one, outcome=outcome, settled_at=at, not_before=not_before)
        )
        self._users.pop(attempt_id, None)

    async def unsettled(self) -> Sequence[LoginAttempt]:
        """Those without an outcome, oldest first."""
        known: list[object] = []
        for version in await self._versions.find(on_damaged=_tell):
            try:
                known += self._documents(version)
            except StoreDamagedError as error:
                _tell(version.name, self._versions.damaged(version.name, error.what))
        return in_order(open_logins(known, where=self._versions.label))

    async def full(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Those of `user` reserved at or after `since` that ended and are not void, oldest first."""
        return full_since(self._attempts(await self._versions.read(canonical_user(user))), since)

    # ------------------------------------------------------------------ one user's document

    async def _change(self, attempt_id: AttemptId, changed: Callable[[LoginAttempt], LoginAttempt]) -> bool:
        """Change it while it has no outcome; False when it has one, or is not there."""
        user = self._users.get(attempt_id) or await self._user_of(attempt_id)
        if user is None:
            return False
        read, just_now = await self._versions.recall(user), False
        while True:
            known = self._attempts(read)
            if any(each.id == attempt_id and each.outcome is None for each in known):
                if await self._write(read, [changed(each) if each.id == attempt_id else each for each in known]):
                    return True
            elif just_now:
                return False
            read, just_now = await self._versions.read(user), True

    async def _user_of(self, attempt_id: AttemptId) -> str | None:
        matching = await self._versions.find({"attempts.id": attempt_id})
        return matching[0].name if matching else None

    def _attempts(self, version: Version) -> list[LoginAttempt]:
        try:
            return [LOGINS.read(each, where=self._versions.label) for each in self._documents(version)]
        except StoreDamagedError as error:
            self._versions.forget(version.name)  # once it is mended, that counts
            raise self._versions.damaged(version.name, error.what.rstrip(".")) from None

    def _documents(self, version: Version) -> list[object]:
        found = version.content.get("attempts")
        if found is not None and not (isinstance(found, list) and all(isinstance(each, dict) for each in found)):
            raise StoreDamagedError("its attempts are no list of documents")
        return found or []

    async def _write(self, read: Version, attempts: Sequence[LoginAttempt]) -> bool:
        return await self._versions.write(read, {"attempts": [LOGINS.dump(each) for each in in_order(attempts)]})


def _tell(user: str, error: StoreDamagedError) -> None:
    """Its own user does not log in; nobody else is held up."""
    log.warning("the logins of a user can't be understood", user=user, sentence=str(error))
