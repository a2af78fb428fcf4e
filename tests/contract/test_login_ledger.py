"""The login ledger of every record store: no account can be locked, whatever the order of calls and whoever calls."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from spreadpilot_core.ibkr.model.records import (
    NO_LIMITS,
    OPERATOR_LIMITS,
    AttemptId,
    ContainerId,
    LoginLimits,
    LoginOutcome,
)
from spreadpilot_core.ibkr.seams import RecordStore
from support.ledger_model import LedgerMachine
from support.mongo import mongo_database, mongo_server  # noqa: F401  # fixtures
from support.stores import ADAPTERS, BUDGET, NOON, RecordsUnderTest, an_attempt, records_under_test

DAY = timedelta(hours=24)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
EXAMPLES = {"local": 40}
"""Histories that are played; a real server takes longer for each."""

pytestmark = pytest.mark.parametrize("store_adapter", ADAPTERS)


@pytest.fixture
async def under_test(store_adapter: str, tmp_path: Path, request: pytest.FixtureRequest) -> RecordsUnderTest:
    return records_under_test(store_adapter, tmp_path, request)


@pytest.fixture
async def store(under_test: RecordsUnderTest) -> AsyncIterator[RecordStore]:
    store = under_test.store()
    await store.open()
    yield store
    await store.close()


async def fail(store: RecordStore, number: int, *, after: timedelta) -> None:
    """One whole failed login."""
    attempt = an_attempt(number, after=after)
    assert await store.reserve_login(attempt, BUDGET) is None
    await store.mark_started(attempt.id, ContainerId("c"), attempt.reserved_at)
    await store.settle_login(attempt.id, LoginOutcome.FAILED, attempt.reserved_at + timedelta(seconds=20))


async def test_attempt_is_written_down_whole(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """Reserved, started and settled are each there for the next manager, with every field."""
    attempt = an_attempt(by_operator=True)
    assert await store.reserve_login(attempt, NO_LIMITS) is None
    other = under_test.store()
    await other.open()
    assert list(await other.unsettled_logins()) == [attempt]
    await store.mark_started(attempt.id, ContainerId("c0ffee"), NOON + TICK)
    (open_one,) = await other.unsettled_logins()
    assert (open_one.container_id, open_one.started_at, open_one.outcome) == ("c0ffee", NOON + TICK, None)
    await store.settle_login(attempt.id, LoginOutcome.THROTTLED, NOON + 2 * TICK, not_before=NOON + DAY)
    assert list(await other.unsettled_logins()) == []
    (counted,) = await other.full_logins(attempt.user, NOON)
    assert (counted.outcome, counted.settled_at, counted.not_before) == (
        LoginOutcome.THROTTLED,
        NOON + 2 * TICK,
        NOON + DAY,
    )
    assert (counted.secret_version, counted.by_operator, counted.reserved_at) == ("3", True, NOON)
    await other.close()


async def test_one_open_attempt_per_user(store: RecordStore) -> None:
    """While one login of a user is open every other is refused, also an operator's; other users are free."""
    assert await store.reserve_login(an_attempt(1), BUDGET) is None
    for limit in (BUDGET, NO_LIMITS):
        refused = await store.reserve_login(an_attempt(2), limit)
        assert refused is not None
        assert (refused.reason, [each.id for each in refused.attempts], refused.until) == (
            "in_progress",
            ["attempt-1"],
            None,
        )
    assert await store.reserve_login(an_attempt(3, user="bert02"), BUDGET) is None
    assert [each.id for each in await store.unsettled_logins()] == ["attempt-1", "attempt-3"]


async def test_reserving_again_is_harmless(store: RecordStore) -> None:
    """A reservation repeated after an answer was lost is not refused against itself, and changes nothing."""
    attempt = an_attempt()
    assert await store.reserve_login(attempt, BUDGET) is None
    assert await store.mark_started(attempt.id, ContainerId("c"), NOON)
    assert await store.reserve_login(attempt, BUDGET) is None
    (open_one,) = await store.unsettled_logins()
    assert open_one.container_id == "c"
    await store.settle_login(attempt.id, LoginOutcome.FAILED, NOON)
    assert await store.reserve_login(attempt, BUDGET) is None
    assert list(await store.unsettled_logins()) == []


async def test_budget_refuses_until_the_oldest_leaves_the_day(store: RecordStore) -> None:
    """The fourth login within 24 h is refused to the last microsecond, and free from then on."""
    for number in range(3):
        await fail(store, number, after=timedelta(hours=number))
    refused = await store.reserve_login(an_attempt(9, after=DAY - TICK), BUDGET)
    assert refused is not None
    assert (refused.reason, refused.until) == ("budget", NOON + DAY)
    assert [each.id for each in refused.attempts] == ["attempt-0", "attempt-1", "attempt-2"]
    assert await store.reserve_login(an_attempt(9, after=DAY), BUDGET) is None


async def test_until_tells_when_a_place_is_really_free(store: RecordStore) -> None:
    """With more failures than places (an operator's among them) it is not the oldest whose end frees one."""
    for number in range(3):
        await fail(store, number, after=timedelta(hours=number))
    extra = an_attempt(7, after=timedelta(hours=4), by_operator=True)
    assert await store.reserve_login(extra, NO_LIMITS) is None
    await store.settle_login(extra.id, LoginOutcome.REJECTED, extra.reserved_at)
    refused = await store.reserve_login(an_attempt(8, after=timedelta(hours=5)), BUDGET)
    assert refused is not None
    assert refused.until == NOON + timedelta(hours=1) + DAY
    assert await store.reserve_login(an_attempt(8, after=DAY + timedelta(hours=1) - TICK), BUDGET) is not None
    assert await store.reserve_login(an_attempt(8, after=DAY + timedelta(hours=1)), BUDGET) is None


async def test_clock_set_back_wins_no_login(store: RecordStore) -> None:
    """Attempts that are dated later than now still count."""
    for number in range(3):
        await fail(store, number, after=timedelta(hours=number))
    refused = await store.reserve_login(an_attempt(9, after=timedelta(days=-30)), BUDGET)
    assert refused is not None
    assert refused.reason == "budget"


@pytest.mark.parametrize("outcome", list(LoginOutcome))
async def test_only_some_outcomes_count(store: RecordStore, outcome: LoginOutcome) -> None:
    """What succeeded, was void, was dropped in IBKR's reset, or was broken off once accepted is no failure; all else is."""
    attempt = an_attempt(1)
    await store.reserve_login(attempt, LoginLimits(counted=1))
    await store.mark_started(attempt.id, ContainerId("c"), NOON)
    await store.settle_login(attempt.id, outcome, NOON)
    full = await store.full_logins(attempt.user, NOON - DAY)
    assert [each.outcome for each in full] == ([] if outcome is LoginOutcome.VOID else [outcome])
    free = (LoginOutcome.SUCCEEDED, LoginOutcome.VOID, LoginOutcome.BROKEN_OFF_ACCEPTED, LoginOutcome.DROPPED_IN_RESET)
    assert outcome.counts == (outcome not in free)
    refused = await store.reserve_login(an_attempt(2, after=timedelta(hours=1)), LoginLimits(counted=1))
    assert (refused is not None) == outcome.counts


async def settled(store: RecordStore, number: int, outcome: LoginOutcome, **fields: Any) -> None:
    """One whole login with this outcome, within no limit."""
    attempt = an_attempt(number, **fields)
    assert await store.reserve_login(attempt, NO_LIMITS) is None
    await store.mark_started(attempt.id, ContainerId("c"), attempt.reserved_at)
    await store.settle_login(attempt.id, outcome, attempt.reserved_at + timedelta(seconds=20))


async def test_full_logins_have_a_limit_whatever_their_outcome(store: RecordStore) -> None:
    """Good ones, bad ones and those broken off take a place each until they leave the day; void ones take none."""
    limits = LoginLimits(full=3)
    outcomes = (LoginOutcome.SUCCEEDED, LoginOutcome.VOID, LoginOutcome.BROKEN_OFF_ACCEPTED, LoginOutcome.FAILED)
    for number, outcome in enumerate(outcomes):
        assert await store.reserve_login(an_attempt(90 + number, after=number * HOUR), limits) is None
        await store.settle_login(AttemptId(f"attempt-{90 + number}"), outcome, NOON)
    refused = await store.reserve_login(an_attempt(9, after=DAY - TICK), limits)
    assert refused is not None
    assert (refused.reason, refused.until) == ("full_logins", NOON + DAY)
    assert [each.id for each in refused.attempts] == ["attempt-90", "attempt-92", "attempt-93"]
    assert await store.reserve_login(an_attempt(9, after=DAY), limits) is None


async def test_a_phone_is_asked_only_so_often_by_itself(store: RecordStore) -> None:
    """Logins that an operator took, that asked no phone, or that were void are no prompts; a login without a phone is free."""
    limits = LoginLimits(prompts=2)
    await settled(store, 1, LoginOutcome.SUCCEEDED, phone="olga", after=HOUR)
    await settled(store, 2, LoginOutcome.SUCCEEDED, phone="olga", by_operator=True)
    await settled(store, 3, LoginOutcome.VOID, phone="olga")
    await settled(store, 4, LoginOutcome.SUCCEEDED)
    await settled(store, 5, LoginOutcome.SECOND_FACTOR_MISSED, phone="olga", after=2 * HOUR)
    refused = await store.reserve_login(an_attempt(6, phone="olga", after=DAY + HOUR - TICK), limits)
    assert refused is not None
    assert (refused.reason, refused.until) == ("prompts", NOON + HOUR + DAY)
    assert await store.reserve_login(an_attempt(7, after=3 * HOUR), limits) is None


async def test_an_operators_logins_end_at_eight_and_keep_their_distance(store: RecordStore) -> None:
    """IBKR locks a user at ten failed logins whoever asked: 60 s lie between two, eight that count are the end."""
    for number in range(8):
        attempt = an_attempt(number, by_operator=True, after=number * HOUR)
        assert await store.reserve_login(attempt, OPERATOR_LIMITS) is None
        await store.settle_login(attempt.id, LoginOutcome.FAILED, attempt.reserved_at)
        soon = an_attempt(50, by_operator=True, after=number * HOUR + timedelta(seconds=60) - TICK)
        refused = await store.reserve_login(soon, OPERATOR_LIMITS)
        assert refused is not None
        assert refused.reason == ("budget" if number == 7 else "operator_gap")
        assert refused.until == NOON + (DAY if number == 7 else number * HOUR + timedelta(seconds=60))
    assert await store.reserve_login(an_attempt(51, by_operator=True, after=7 * HOUR), NO_LIMITS) is None


async def test_stated_wait_is_obeyed(store: RecordStore) -> None:
    """Before the time that IBKR named nobody logs this user in, not even an operator; afterwards it is free."""
    until = NOON + timedelta(minutes=15)
    attempt = an_attempt(1)
    await store.reserve_login(attempt, BUDGET)
    await store.settle_login(attempt.id, LoginOutcome.THROTTLED, NOON, not_before=until)
    for limit in (BUDGET, NO_LIMITS):
        refused = await store.reserve_login(an_attempt(2, after=timedelta(minutes=15) - TICK), limit)
        assert refused is not None
        assert (refused.reason, refused.until) == ("throttled", until)
    assert await store.reserve_login(an_attempt(3, user="bert02"), BUDGET) is None
    assert await store.reserve_login(an_attempt(2, after=timedelta(minutes=15)), BUDGET) is None


async def test_stated_wait_outlives_the_day(store: RecordStore) -> None:
    """A wait of weeks is kept as long as it lasts."""
    attempt = an_attempt(1)
    await store.reserve_login(attempt, BUDGET)
    await store.settle_login(attempt.id, LoginOutcome.THROTTLED, NOON, not_before=NOON + 60 * DAY)
    for number, days in ((2, 2), (3, 40), (4, 59)):
        refused = await store.reserve_login(an_attempt(number, after=days * DAY), BUDGET)
        assert refused is not None
        assert refused.reason == "throttled"


async def test_first_outcome_stays(store: RecordStore) -> None:
    """Settling again changes nothing, nor does a start that is told afterwards."""
    attempt = an_attempt()
    await store.reserve_login(attempt, BUDGET)
    await store.settle_login(attempt.id, LoginOutcome.REJECTED, NOON)
    await store.settle_login(attempt.id, LoginOutcome.SUCCEEDED, NOON + DAY, not_before=NOON + 2 * DAY)
    assert not await store.mark_started(attempt.id, ContainerId("late"), NOON + DAY)
    (counted,) = await store.full_logins(attempt.user, NOON)
    assert (counted.outcome, counted.settled_at, counted.not_before) == (LoginOutcome.REJECTED, NOON, None)
    assert counted.container_id is None


async def test_start_is_refused_once_another_manager_has_settled_it(
    under_test: RecordsUnderTest, store: RecordStore
) -> None:
    """Whoever reserved it and was held up hears, when it comes to start, that its login is not open any more."""
    attempt = an_attempt()
    assert await store.reserve_login(attempt, BUDGET) is None
    other = under_test.store()
    await other.open()
    await other.settle_login(attempt.id, LoginOutcome.VOID, NOON)
    assert not await store.mark_started(attempt.id, ContainerId("c"), NOON)
    assert await store.reserve_login(an_attempt(2), BUDGET) is None
    assert await store.mark_started(an_attempt(2).id, ContainerId("c"), NOON)
    await other.close()


async def test_unknown_attempt_changes_nothing(store: RecordStore) -> None:
    """Starting or settling what was never reserved is no error and makes no attempt."""
    assert not await store.mark_started(AttemptId("nobody's"), ContainerId("c"), NOON)
    await store.settle_login(AttemptId("nobody's"), LoginOutcome.FAILED, NOON)
    assert list(await store.unsettled_logins()) == []
    assert list(await store.full_logins("anna01", NOON - DAY)) == []


async def test_full_logins_begin_at_since(store: RecordStore) -> None:
    """The moment itself belongs to it; other users don't; the oldest comes first."""
    for number in range(3):
        await fail(store, number, after=timedelta(hours=number))
    ids = [each.id for each in await store.full_logins("anna01", NOON + timedelta(hours=1))]
    assert ids == ["attempt-1", "attempt-2"]
    assert list(await store.full_logins("anna01", NOON + timedelta(hours=2) + TICK)) == []
    assert list(await store.full_logins("anna", NOON)) == []


async def test_old_attempts_are_forgotten(store: RecordStore) -> None:
    """The ledger of a user doesn't grow for ever: what nobody needs is gone after a month."""
    for number in range(6):
        await fail(store, number, after=20 * number * DAY)
    assert [each.id for each in await store.full_logins("anna01", NOON - DAY)] == ["attempt-4", "attempt-5"]


async def test_cancelled_reservation_leaves_nothing(store: RecordStore) -> None:
    """A reservation whose caller was cancelled at any moment is not left open once it is withdrawn: nobody would ever settle it."""
    for steps in range(30):
        attempt = an_attempt(steps, user=f"user {steps}")
        task = asyncio.create_task(store.reserve_login(attempt, BUDGET))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        answers = await asyncio.gather(task, return_exceptions=True)
        if answers != [
            None
        ]:  # whoever got no answer has it withdrawn; a request that is still under way comes to nothing then
            await store.withdraw_login(attempt.id, attempt.user)
        open_ones = [each.id for each in await store.unsettled_logins()]
        assert (attempt.id in open_ones) == (answers == [None])


async def test_racing_managers_get_one_reservation(under_test: RecordsUnderTest) -> None:
    """Of many reservations at the same moment through several store objects exactly one is granted, round after round."""
    stores = [under_test.store() for _ in range(4)]
    for store in stores:
        await store.open()
    for round_ in range(12):
        attempts = [an_attempt(100 * round_ + number, after=round_ * DAY) for number in range(12)]
        answers = await asyncio.gather(
            *(stores[index % 4].reserve_login(each, LoginLimits(counted=1)) for index, each in enumerate(attempts))
        )
        granted = [attempt for attempt, refused in zip(attempts, answers, strict=True) if refused is None]
        assert len(granted) == 1
        assert {refused.reason for refused in answers if refused is not None} == {"in_progress"}
        await stores[round_ % 4].settle_login(granted[0].id, LoginOutcome.FAILED, granted[0].reserved_at)
    for store in stores:
        await store.close()


def test_every_history_keeps_the_budget(store_adapter: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whatever managers do in whatever order, the store grants and counts exactly what the rules written anew say."""
    directories = (tmp_path / str(number) for number in itertools.count())

    class Machine(LedgerMachine):
        def __init__(self) -> None:
            directory = next(directories)
            directory.mkdir()
            self.new_store = records_under_test(store_adapter, directory, request).store
            super().__init__()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES.get(store_adapter, 8),
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
