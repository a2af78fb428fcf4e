"""Who acts where several managers share an engine, and several engines the records: made-up time, documents in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from spreadpilot_core.ibkr import seams
from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.leadership import lease
from spreadpilot_core.ibkr.leadership.among_engines import LeaseAmongEngines
from spreadpilot_core.ibkr.leadership.lease import LeaderLease
from spreadpilot_core.ibkr.store.mongodb.versions import Version
from support.lease_documents import SharedDocument, StandingClock
from support.waiting import until


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_EVERY", 0.005)
    monkeypatch.setattr(LeaderLease, "pause", 0.005)


class Engine:
    """What the managers of one engine share, and what their engine shares with others."""

    def __init__(self, name: str, clock: StandingClock, records: SharedDocument) -> None:
        self.name, self.clock = name, clock
        self.document, self.records = SharedDocument(clock), records
        self._keeping: list[asyncio.Task[None]] = []

    def manager(self, name: str, *, take_over: bool = False) -> Manager:
        """One more that acts or stands by."""
        made = Manager(
            LeaseAmongEngines(
                self._lease(self.document, f"{self.name}/{name}"),
                self._lease(self.records, f"engine {self.name}"),
            )
        )
        self._keeping.append(asyncio.create_task(made.lease.keep(made.told.append, take_over=take_over)))
        made.keeping = self._keeping[-1]
        return made

    def _lease(self, document: SharedDocument, holder: str) -> LeaderLease[Version]:
        return LeaderLease(document, holder=holder, engine_id=self.name, leader_lease=10, clock=self.clock)

    async def end(self) -> None:
        """End them all, as a stop would, without resigning."""
        for task in self._keeping:
            task.cancel()
        await asyncio.wait(self._keeping)


class Manager:
    """One manager, and what it was told."""

    keeping: asyncio.Task[None]

    def __init__(self, lease: LeaseAmongEngines) -> None:
        self.lease = lease
        self.told: list[seams.Leadership] = []

    @property
    def says(self) -> str:
        """Its newest sentence."""
        return self.told[-1].sentence if self.told else ""


async def sometime(is_so: Callable[[], bool], clock: StandingClock) -> None:
    """Let time pass until it is so. Whoever stands by counts from when it saw the last version itself, which may be a moment from now."""

    def later() -> bool:
        so = is_so()
        clock.now += 0 if so else 11
        return so

    await until(later)


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
async def engines(clock: StandingClock) -> AsyncIterator[Callable[[str], Engine]]:
    made: list[Engine] = []
    records = SharedDocument(clock)

    def make(name: str) -> Engine:
        made.append(Engine(name, clock, records))
        return made[-1]

    yield make
    for engine in made:
        await engine.end()


async def test_the_managers_of_an_engine_take_turns_without_asking_an_operator(
    engines: Callable[[str], Engine], clock: StandingClock
) -> None:
    """The second stands by for the first by the engine's own lease, and holds the records in the engine's name after it."""
    one = engines("one")
    first = one.manager("a")
    await until(lambda: first.lease.held)
    second = one.manager("b")
    await until(lambda: "one/a is the leader" in second.says)
    first.keeping.cancel()
    await asyncio.wait({first.keeping})
    await sometime(lambda: second.lease.held, clock)
    assert not first.lease.held
    assert one.records.version.content["holder"] == "engine one"
    assert "takes over from one/a" in second.says


async def test_another_engine_stands_by_for_ever_until_an_operator_speaks(
    engines: Callable[[str], Engine], clock: StandingClock
) -> None:
    """Each engine has a leader by its own lease; of these one acts. By the operator's word the other does, and the first ends."""
    here, other = engines("here").manager("a"), engines("there")
    await until(lambda: here.lease.held)
    there = other.manager("b")
    await until(lambda: "engine here, on another engine, is the leader" in there.says)
    assert not there.lease.held
    assert other.document.version.content["holder"] == "there/b"
    here.keeping.cancel()
    await asyncio.wait({here.keeping})
    await sometime(lambda: "run --take-over" in there.says, clock)
    assert not there.lease.held
    await other.end()
    told = other.manager("b", take_over=True)
    await until(lambda: "engine here, on another engine, is the leader" in told.says)
    clock.now += 11
    await until(lambda: told.lease.held)
    assert [each.overrode for each in told.told if each.held] == [True]


async def test_records_that_are_away_end_nothing_and_begin_nothing(
    engines: Callable[[str], Engine], clock: StandingClock
) -> None:
    """Who is the leader stays it without the record store; who would become it does not before the store was asked."""
    one = engines("one")
    first = one.manager("a")
    await until(lambda: first.lease.held)
    one.records.away = True
    for _ in range(10):
        clock.now += 5
        await asyncio.sleep(0.02)  # it renews the engine's own lease meanwhile
        assert first.lease.held
    second = one.manager("b")
    first.keeping.cancel()
    await asyncio.wait({first.keeping})
    await until(lambda: second.told != [])
    clock.now += 11
    await until(lambda: "can't be the leader" in second.says)
    assert not second.lease.held
    one.records.away = False
    await until(lambda: second.lease.held)


async def test_the_engines_own_lease_ends_it_whatever_the_records_say(
    engines: Callable[[str], Engine], clock: StandingClock
) -> None:
    """A manager that was frozen acts no more, by its own clock, before it asks anybody."""
    one = engines("one")
    first = one.manager("a")
    await until(lambda: first.lease.held)
    one.document.away = True
    clock.now += 11
    assert not first.lease.held
    await until(lambda: "can't be the leader" in first.says)
    one.document.away = False
    await until(lambda: first.lease.held)


async def test_resigning_frees_both(engines: Callable[[str], Engine]) -> None:
    """Who ends in good order leaves another engine nothing to wait for, and no operator to ask; also one lease is freed alone."""
    one, two = engines("one"), engines("two")
    first = one.manager("a")
    await until(lambda: first.lease.held)
    await one.end()
    await first.lease.resign()
    second = two.manager("b")
    await until(lambda: second.lease.held)
    await two.end()
    two.records.away = True
    with pytest.raises(StoreUnavailableError):
        await second.lease.resign()
    assert two.document.version.content["holder"] is None
