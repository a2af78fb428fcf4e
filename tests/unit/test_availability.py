"""The availability ledger, in made-up time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.availability import AvailabilityDay, Share, SpellKind, Verdict, summed
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reset_windows import reset_hours
from spreadpilot_core.ibkr.reporting.availability import AvailabilityLedger, Condition
from spreadpilot_core.ibkr.reporting.exchange_hours import ExchangeHours, Sessions, read_sessions

ANNA, BERT = FollowerId("anna"), FollowerId("bert")
MONDAY = datetime(2026, 11, 30, tzinfo=UTC)
OPENS, CLOSES = MONDAY + timedelta(hours=14, minutes=30), MONDAY + timedelta(hours=21)
STEP = timedelta(seconds=60)


class Store:
    """Keeps days; may be away."""

    def __init__(self) -> None:
        self.days: dict[str, AvailabilityDay] = {}
        self.is_away = False

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def keep_availability(self, days: Sequence[AvailabilityDay]) -> None:
        """Unless it is away."""
        if self.is_away:
            raise StoreUnavailableError("The store is away.")
        self.days |= {each.id: each for each in days}

    async def availability(self, month: str) -> Sequence[AvailabilityDay]:
        """All of them."""
        return [each for each in self.days.values() if each.day.startswith(month)]


class Bench:
    """A ledger and the hands of a clock."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.hours = ExchangeHours(read=lambda mic, now: Sessions([OPENS], [CLOSES], now) if mic == "XNYS" else None)
        self.ledger = AvailabilityLedger(self.store, self.hours)
        self.now = MONDAY + timedelta(hours=12)

    def stands(self, verdict: Verdict | None, code: str | None = None, exchange: str | None = None) -> None:
        """From now on anna's gateway stands like this."""
        standing = Condition(verdict, code, reset_hours(None), exchange) if verdict is not None else None
        self.ledger.see(ANNA, standing, self.now)

    def pass_time(self, span: timedelta) -> None:
        """As a manager sees it pass: with a look each minute."""
        until = self.now + span
        while self.now < until:
            self.now = min(until, self.now + STEP)
            self.ledger.advance(self.now)

    @property
    def seconds(self) -> dict[SpellKind, float]:
        """Of anna, by kind."""
        return {kind: seconds for (_, kind), seconds in self.ledger.totals.items()}


def kind(verdict: Verdict, code: str | None = None, *, reset: bool = False, open_: bool = True) -> SpellKind:
    return SpellKind(verdict, code, in_reset_hours=reset, exchange_open=open_)


def test_each_verdict_has_its_seconds_and_its_cause() -> None:
    """To the second, whenever the ledger is looked at in between."""
    bench = Bench()
    bench.stands(Verdict.DOWN, "WAITING_FOR_PERMIT")
    bench.pass_time(timedelta(seconds=90))
    bench.stands(Verdict.READY)
    bench.pass_time(timedelta(hours=1))
    bench.stands(Verdict.DEGRADED, "IBKR_LINK_LOST")
    bench.pass_time(timedelta(seconds=5))
    assert bench.seconds == {
        kind(Verdict.DOWN, "WAITING_FOR_PERMIT"): 90,
        kind(Verdict.READY): 3600,
        kind(Verdict.DEGRADED, "IBKR_LINK_LOST"): 5,
    }


def test_reset_hours_are_cut_out_where_they_begin_and_end() -> None:
    """The long hours of North America: 23:30 to 01:45 New York, here 04:30 to 06:45 UTC."""
    bench = Bench()
    bench.now = MONDAY + timedelta(hours=4)
    bench.stands(Verdict.DOWN)
    bench.pass_time(timedelta(hours=4))
    assert bench.seconds == {
        kind(Verdict.DOWN): (30 + 75) * 60,
        kind(Verdict.DOWN, reset=True): 135 * 60,
    }


async def test_the_exchanges_hours_are_cut_out_to_the_second() -> None:
    """A look that comes late cuts at the bell all the same."""
    bench = Bench()
    await bench.hours.learn({"XNYS", "XXXX"}, bench.now)
    bench.now = OPENS - timedelta(seconds=30)
    bench.stands(Verdict.READY, exchange="XNYS")
    bench.now += timedelta(minutes=2)
    bench.ledger.advance(bench.now)
    bench.now = CLOSES - timedelta(seconds=10)
    bench.stands(None)
    bench.stands(Verdict.READY, exchange="XNYS")
    bench.pass_time(timedelta(seconds=25))
    assert bench.seconds == {kind(Verdict.READY, open_=False): 30 + 15, kind(Verdict.READY): 90 + 10}


async def test_an_exchange_that_nobody_knows_is_always_open() -> None:
    """As one that is not named."""
    bench = Bench()
    await bench.hours.learn({"XXXX"}, bench.now)
    bench.stands(Verdict.READY, exchange="XXXX")
    bench.pass_time(timedelta(hours=1))
    assert bench.seconds == {kind(Verdict.READY): 3600}


def test_nobody_counts_what_nobody_wants_and_what_nobody_saw() -> None:
    """A stopped gateway, a manager that stands by, a machine that slept, a clock that was set back."""
    bench = Bench()
    bench.stands(Verdict.READY)
    bench.pass_time(timedelta(minutes=1))
    bench.stands(None)
    bench.pass_time(timedelta(hours=1))
    bench.stands(Verdict.READY)
    bench.now += timedelta(hours=3)
    bench.ledger.advance(bench.now)
    bench.now -= timedelta(hours=1)
    bench.ledger.advance(bench.now)
    bench.pass_time(timedelta(minutes=2))
    assert bench.seconds == {kind(Verdict.READY): 180}


async def test_days_are_written_whole_and_several_runs_add_up() -> None:
    """A day goes on in the next run of a manager; midnight (UTC) begins another; writing twice changes nothing."""
    first = Bench()
    first.now = MONDAY - timedelta(minutes=10)
    first.stands(Verdict.READY)
    first.pass_time(timedelta(minutes=20))
    await first.ledger.write(first.now)
    await first.ledger.write(first.now)
    second = Bench(first.store)
    second.stands(Verdict.DOWN)
    second.pass_time(timedelta(minutes=5))
    await second.ledger.write(second.now)
    assert sorted(each.day for each in first.store.days.values()) == ["2026-11-29", "2026-11-30", "2026-11-30"]
    (found,) = summed(await first.store.availability("2026-11"), "2026-11")
    assert found.total == Share(ready=1200, down=300)
    assert found.total.available == 0.8


async def test_with_the_store_away_nothing_is_lost() -> None:
    """It is written when the store is back, over midnight as well."""
    bench = Bench()
    bench.now = MONDAY - timedelta(minutes=1)
    bench.store.is_away = True
    bench.stands(Verdict.READY)
    for _ in range(3):
        bench.pass_time(timedelta(minutes=1))
        with pytest.raises(StoreUnavailableError):
            await bench.ledger.write(bench.now)
    bench.store.is_away = False
    await bench.ledger.write(bench.now)
    (found,) = summed(await bench.store.availability("2026-11"), "2026-11")
    assert found.total == Share(ready=180)


async def test_the_sum_of_a_month_leaves_out_reset_hours_and_then_what_is_no_exchange_hour() -> None:
    """Three views of the same time."""
    bench = Bench()
    await bench.hours.learn({"XNYS"}, bench.now)
    bench.now = MONDAY + timedelta(hours=4)
    bench.stands(Verdict.DOWN, exchange="XNYS")
    bench.pass_time(timedelta(hours=10, minutes=30))
    bench.stands(Verdict.READY, exchange="XNYS")
    bench.pass_time(timedelta(hours=9))
    await bench.ledger.write(bench.now)
    (found,) = summed(await bench.store.availability("2026-11"), "2026-11")
    assert (found.total.ready, found.total.down) == (9 * 3600, 10.5 * 3600)
    assert found.outside_reset.down == (10.5 - 2.25) * 3600
    assert (found.exchange_hours.ready, found.exchange_hours.down) == (6.5 * 3600, 0)


@pytest.mark.filterwarnings("ignore:Series.values")  # what the calendars' package is told by its own library
def test_the_hours_of_a_real_exchange() -> None:
    """New York on the Monday after Thanksgiving, and not on Thanksgiving itself."""
    sessions = read_sessions("XNYS", MONDAY)
    assert sessions is not None
    assert not sessions.is_open(OPENS - timedelta(seconds=1))
    assert sessions.is_open(OPENS)
    assert not sessions.is_open(CLOSES)
    assert sessions.next_change(OPENS) == CLOSES
    assert not sessions.is_open(datetime(2026, 11, 26, 16, tzinfo=UTC))
    assert read_sessions("XXXX", MONDAY) is None
