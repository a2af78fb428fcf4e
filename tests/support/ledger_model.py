"""The login ledger's rules written a second time, as a hypothesis state machine that holds a record store to them.

The model keeps plain dictionaries and compares numbers; nothing of the product's rule is imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spreadpilot_core.ibkr.model.records import NO_LIMITS, AttemptId, ContainerId, LoginLimits, LoginOutcome
from spreadpilot_core.ibkr.seams import RecordStore
from support.stores import NOON, an_attempt

T = TypeVar("T")
HOUR = 3600 * 10**6
"""Microseconds, the model's unit of time."""
DAY = 24 * HOUR
COSTS = {"rejected", "throttled", "second_factor_missed", "failed", "unfinished", "broken_off"}
FULL = COSTS | {"succeeded", "broken_off_accepted", "dropped_in_reset"}
GAP = HOUR // 60

USERS = st.sampled_from(["anna01", "bert02"])
LIMITS = st.builds(
    LoginLimits,
    counted=st.one_of(st.none(), st.integers(1, 3)),
    full=st.one_of(st.none(), st.integers(1, 5)),
    prompts=st.one_of(st.none(), st.integers(1, 2)),
    operator_gap=st.sampled_from([timedelta(0), timedelta(seconds=60)]),
)
KINDS = st.fixed_dictionaries({"by_operator": st.booleans(), "phone": st.sampled_from([None, "olga"])})
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
        self.attempts: dict[str, dict[str, Any]] = {}

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

    @rule(data=st.data(), off=st.sampled_from([-1, 0, 1]), limits=LIMITS, kind=KINDS)
    def reserve_at_an_edge(self, data: st.DataObject, off: int, limits: LoginLimits, kind: dict[str, Any]) -> None:
        """Just before, at or just after the moment when an attempt leaves the day or a stated wait ends."""
        full = [each for each in self.attempts.values() if each["outcome"] in FULL]
        edges = [(each["at"] + wait, each["user"]) for each in full for wait in (DAY, GAP)]
        edges += [(each["not_before"], each["user"]) for each in self.attempts.values() if each["not_before"]]
        if edges:
            moment, user = data.draw(st.sampled_from(sorted(edges)))
            self.now = max(0, moment + off)
            self.reserved(user, 0, limits, kind)

    @rule(user=USERS, failures=st.integers(1, 3))
    def operator_fails(self, user: str, failures: int) -> None:
        """An operator's own logins, which no budget refuses, each a minute after the other."""
        for _ in range(failures):
            self.now += HOUR // 60
            attempt_id = self.reserved(user, 0, NO_LIMITS, {"by_operator": True, "phone": None})
            if attempt_id is not None:
                at = NOON + timedelta(microseconds=self.now)
                self.run(self.stores[1].settle_login(attempt_id, LoginOutcome.FAILED, at))
                self.attempts[attempt_id]["outcome"] = "failed"

    @rule(user=USERS, through=st.integers(0, 2), limits=LIMITS, kind=KINDS)
    def reserve(self, user: str, through: int, limits: LoginLimits, kind: dict[str, Any]) -> None:
        """One reservation, granted or refused as the model says."""
        self.reserved(user, through, limits, kind)

    def reserved(self, user: str, through: int, limits: LoginLimits, kind: dict[str, Any]) -> AttemptId | None:
        """The attempt that was granted, or None."""
        attempt = an_attempt(len(self.attempts), user=user, after=timedelta(microseconds=self.now), **kind)
        refused = self.run(self.stores[through].reserve_login(attempt, limits))
        reason, until = self.expected(user, limits, kind)
        assert (refused.reason if refused else None) == reason
        assert (refused.until if refused else None) == (None if until is None else NOON + timedelta(microseconds=until))
        if refused is not None:
            return None
        self.attempts[attempt.id] = {"user": user, "at": self.now, "outcome": None, "not_before": None, **kind}
        return attempt.id

    @rule(user=USERS, limit=st.integers(1, 3))
    def race(self, user: str, limit: int) -> None:
        """All managers reserve at once: at most one is granted, and only when the model grants one."""
        limits, kind = LoginLimits(counted=limit), {"by_operator": False, "phone": None}
        numbers = range(len(self.attempts), len(self.attempts) + 3)
        tries = [an_attempt(number, user=user, after=timedelta(microseconds=self.now)) for number in numbers]

        async def all_at_once() -> list[str]:
            pairs = zip(self.stores, tries, strict=True)
            answers = await asyncio.gather(*(store.reserve_login(each, limits) for store, each in pairs))
            return [each.id for each, refused in zip(tries, answers, strict=True) if refused is None]

        granted = self.run(all_at_once())
        assert len(granted) == (1 if self.expected(user, limits, kind)[0] is None else 0)
        for attempt_id in granted:
            self.attempts[attempt_id] = {"user": user, "at": self.now, "outcome": None, "not_before": None, **kind}
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

    def expected(self, user: str, limits: LoginLimits, kind: dict[str, Any]) -> tuple[str | None, int | None]:
        """The model's answer to a reservation of now: reason and until."""
        mine = [each for each in self.attempts.values() if each["user"] == user]
        if any(each["outcome"] is None for each in mine):
            return "in_progress", None
        waits = [each["not_before"] for each in mine if each["not_before"] is not None]
        if waits and max(waits) > self.now:
            return "throttled", max(waits)
        today = [each for each in mine if each["outcome"] in FULL and each["at"] + DAY > self.now]
        prompts = [each for each in today if each["phone"] and not each["by_operator"]] if kind["phone"] else []
        costly = [each for each in today if each["outcome"] in COSTS]
        for reason, limit, those in (
            ("budget", limits.counted, costly),
            ("full_logins", limits.full, today),
            ("prompts", limits.prompts, prompts),
        ):
            if limit is not None and len(those) >= limit:
                return reason, sorted(each["at"] for each in those)[-limit] + DAY
        gap = limits.operator_gap // timedelta(microseconds=1)
        operators = [each["at"] + gap for each in today if each["by_operator"]]
        return ("operator_gap", max(operators)) if gap and max(operators, default=0) > self.now else (None, None)

    @invariant()
    def open_attempts_agree(self) -> None:
        """Every manager sees exactly the attempts that nobody settled."""
        wanted = {name for name, each in self.attempts.items() if each["outcome"] is None}
        for store in self.stores:
            assert {each.id for each in self.run(store.unsettled_logins())} == wanted

    @invariant()
    def full_logins_agree(self) -> None:
        """The logins of the last 24 h are those of the model."""
        since = NOON + timedelta(microseconds=self.now - DAY)
        for user in ("anna01", "bert02"):
            wanted = [
                name
                for name, each in self.attempts.items()
                if each["user"] == user and each["outcome"] in FULL and each["at"] >= self.now - DAY
            ]
            counted = self.run(self.stores[0].full_logins(user, since))
            assert sorted(each.id for each in counted) == sorted(wanted)
            assert [each.reserved_at for each in counted] == sorted(each.reserved_at for each in counted)
