"""The login ledger's rules written a second time, as a hypothesis state machine that holds a record store to them.

The model keeps plain dictionaries and compares numbers; nothing of the product's rule is imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spreadpilot_core.ibkr.protocols import AttemptId, ContainerId, LoginOutcome, RecordStore
from support.stores import NOON, an_attempt

T = TypeVar("T")
HOUR = 3600 * 10**6
"""Microseconds, the model's unit of time."""
DAY = 24 * HOUR
COSTS = {"rejected", "throttled", "second_factor_missed", "failed", "unfinished"}

USERS = st.sampled_from(["anna01", "bert02"])
SOME_TIME = st.one_of(
    st.sampled_from([0, 1, HOUR, DAY - 1, DAY, DAY + 1, 8 * HOUR, -1, -HOUR]), st.integers(0, 30 * HOUR)
)


class LedgerMachine(RuleBasedStateMachine):
    """Three managers on one store reserve, start, settle, die and come again, while time passes in odd steps."""

    new_store: Callable[[], RecordStore]
    """Set by the test that runs the machine: another adapter object on the same content."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stores = [self.new_store() for _ in range(3)]
        for store in self.stores:
            self.run(store.open())
        self.now = 0
        self.attempts: dict[str, dict[str, object]] = {}

    def run(self, work: Awaitable[T]) -> T:
        """Run one call of a store to its end."""

        async def wait() -> T:
            return await work

        return self.runner.run(wait())

    def teardown(self) -> None:
        """Close what was opened."""
        for store in self.stores:
            self.run(store.close())
        self.runner.close()

    # ------------------------------------------------------------------ what happens

    @rule(step=SOME_TIME)
    def time_passes(self, step: int) -> None:
        """Or is set back a little."""
        self.now = max(0, self.now + step)

    @rule(data=st.data(), off=st.sampled_from([-1, 0, 1]), limit=st.integers(1, 3))
    def reserve_at_an_edge(self, data: st.DataObject, off: int, limit: int) -> None:
        """Just before, at or just after the moment when an attempt leaves the day or a stated wait ends."""
        edges = [(each["at"] + DAY, each["user"]) for each in self.attempts.values() if each["outcome"] in COSTS]
        edges += [(each["not_before"], each["user"]) for each in self.attempts.values() if each["not_before"]]
        if edges:
            moment, user = data.draw(st.sampled_from(sorted(edges)))
            self.now = max(0, moment + off)
            self.reserved(user, 0, limit)

    @rule(user=USERS, failures=st.integers(1, 3))
    def operator_fails(self, user: str, failures: int) -> None:
        """An operator's own logins, which no budget refuses, each a minute after the other."""
        for _ in range(failures):
            self.now += HOUR // 60
            attempt_id = self.reserved(user, 0, None)
            if attempt_id is not None:
                at = NOON + timedelta(microseconds=self.now)
                self.run(self.stores[1].settle_login(attempt_id, LoginOutcome.FAILED, at))
                self.attempts[attempt_id]["outcome"] = "failed"

    @rule(user=USERS, through=st.integers(0, 2), limit=st.one_of(st.none(), st.integers(1, 3)))
    def reserve(self, user: str, through: int, limit: int | None) -> None:
        """One reservation, granted or refused as the model says."""
        self.reserved(user, through, limit)

    def reserved(self, user: str, through: int, limit: int | None) -> AttemptId | None:
        """The attempt that was granted, or None."""
        attempt = an_attempt(len(self.attempts), user=user, after=timedelta(microseconds=self.now))
        refused = self.run(self.stores[through].reserve_login(attempt, limit))
        reason, until = self.expected(user, limit)
        assert (refused.reason if refused else None) == reason
        assert (refused.until if refused else None) == (None if until is None else NOON + timedelta(microseconds=until))
        if refused is not None:
            return None
        self.attempts[attempt.id] = {"user": user, "at": self.now, "outcome": None, "not_before": None}
        return attempt.id

    @rule(user=USERS, limit=st.integers(1, 3))
    def race(self, user: str, limit: int) -> None:
        """All managers reserve at once: at most one is granted, and only when the model grants one."""
        numbers = range(len(self.attempts), len(self.attempts) + 3)
        tries = [an_attempt(number, user=user, after=timedelta(microseconds=self.now)) for number in numbers]

        async def all_at_once() -> list[str]:
            pairs = zip(self.stores, tries, strict=True)
            answers = await asyncio.gather(*(store.reserve_login(each, limit) for store, each in pairs))
            return [each.id for each, refused in zip(tries, answers, strict=True) if refused is None]

        granted = self.run(all_at_once())
        assert len(granted) == (1 if self.expected(user, limit)[0] is None else 0)
        for attempt_id in granted:
            self.attempts[attempt_id] = {"user": user, "at": self.now, "outcome": None, "not_before": None}
        for number, attempt in zip(numbers, tries, strict=True):  # numbers stay in step: a refused try never was
            if attempt.id not in granted:
                self.attempts[f"attempt-{number} refused"] = {
                    "user": "",
                    "at": 0,
                    "outcome": "void",
                    "not_before": None,
                }

    @rule(data=st.data(), through=st.integers(0, 2))
    def start(self, data: st.DataObject, through: int) -> None:
        """A known attempt, in whatever state, or an unknown one is marked started."""
        attempt_id = data.draw(st.sampled_from([*self.attempts, "nobody's"]))
        at = NOON + timedelta(microseconds=self.now)
        self.run(self.stores[through].mark_started(AttemptId(attempt_id), ContainerId("c"), at))

    @rule(
        data=st.data(),
        through=st.integers(0, 2),
        outcome=st.sampled_from([each.value for each in LoginOutcome]),
        wait=st.one_of(st.none(), st.integers(0, 3 * DAY)),
    )
    def settle(self, data: st.DataObject, through: int, outcome: str, wait: int | None) -> None:
        """A known attempt, settled or not, or an unknown one is settled."""
        attempt_id = data.draw(st.sampled_from([*self.attempts, "nobody's"]))
        at = NOON + timedelta(microseconds=self.now)
        told = LoginOutcome(outcome)
        wait = wait if told is LoginOutcome.THROTTLED else None
        not_before = None if wait is None else at + timedelta(microseconds=wait)
        self.run(self.stores[through].settle_login(AttemptId(attempt_id), told, at, not_before=not_before))
        attempt = self.attempts.get(attempt_id)
        if attempt is not None and attempt["outcome"] is None:
            attempt["outcome"] = outcome
            attempt["not_before"] = None if wait is None else self.now + wait

    @rule(which=st.integers(0, 2))
    def manager_comes_again(self, which: int) -> None:
        """A manager ends and another one opens the same store."""
        self.run(self.stores[which].close())
        self.stores[which] = self.new_store()
        self.run(self.stores[which].open())

    # ------------------------------------------------------------------ what must be so

    def expected(self, user: str, limit: int | None) -> tuple[str | None, int | None]:
        """The model's answer to a reservation of now: reason and until."""
        mine = [each for each in self.attempts.values() if each["user"] == user]
        if any(each["outcome"] is None for each in mine):
            return "in_progress", None
        waits = [each["not_before"] for each in mine if each["not_before"] is not None]
        if waits and max(waits) > self.now:
            return "throttled", max(waits)
        costly = sorted(each["at"] for each in mine if each["outcome"] in COSTS and each["at"] + DAY > self.now)
        if limit is not None and len(costly) >= limit:
            return "budget", costly[-limit] + DAY
        return None, None

    @invariant()
    def open_attempts_agree(self) -> None:
        """Every manager sees exactly the attempts that nobody settled."""
        wanted = {name for name, each in self.attempts.items() if each["outcome"] is None}
        for store in self.stores:
            assert {each.id for each in self.run(store.unsettled_logins())} == wanted

    @invariant()
    def counted_attempts_agree(self) -> None:
        """What counts in the last 24 h is what the model counts."""
        since = NOON + timedelta(microseconds=self.now - DAY)
        for user in ("anna01", "bert02"):
            wanted = [
                name
                for name, each in self.attempts.items()
                if each["user"] == user and each["outcome"] in COSTS and each["at"] >= self.now - DAY
            ]
            counted = self.run(self.stores[0].counted_logins(user, since))
            assert sorted(each.id for each in counted) == sorted(wanted)
            assert [each.reserved_at for each in counted] == sorted(each.reserved_at for each in counted)
