"""Which of several managers acts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.leadership import lease
from spreadpilot_core.ibkr.leadership.lease import LeaderLease, Leadership
from spreadpilot_core.ibkr.store.mongodb.versions import Version
from support.lease_documents import SharedDocument, StandingClock
from support.waiting import until


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def document(clock: StandingClock) -> SharedDocument:
    return SharedDocument(clock)


def a_lease(document: SharedDocument, holder: str, engine_id: str = "engine 1") -> LeaderLease[Version]:
    return LeaderLease(document, holder=holder, engine_id=engine_id, leader_lease=10, clock=document.clock)


async def test_first_one_takes_it_and_the_second_stands_by(document: SharedDocument) -> None:
    """An unheld lease is taken at once; whoever comes later is told for whom it stands by."""
    first, second = a_lease(document, "host-a"), a_lease(document, "host-b")
    assert await first.step() == Leadership(True, 1, "host-a", "It takes leader lease 1 and acts.")
    assert await second.step() == Leadership(False, 1, "host-a", "It stands by: host-a is the leader and acts.")
    assert (first.held, second.held) == (True, False)


async def test_silent_holder_is_succeeded_on_the_same_engine(document: SharedDocument, clock: StandingClock) -> None:
    """After the whole lease without a sign of life, by the waiter's own clock, the waiter acts, and not before."""
    first, second = a_lease(document, "host-a"), a_lease(document, "host-b")
    await first.step()
    await second.step()
    clock.now += 9.9
    assert not first.held, "the holder leaves a part of its lease unused"
    assert not (await second.step()).held
    clock.now += 0.1
    assert await second.step() == Leadership(
        True, 2, "host-b", "It takes over from host-a, silent for 10 s, leader lease 2 and acts."
    )


async def test_cloned_machines_are_two_engines(document: SharedDocument, clock: StandingClock) -> None:
    """A machine cloned with its Docker Engine has the engine's id, and a name of its own: its manager takes over no more than any other's."""
    first, second = a_lease(document, "host-a", "docker:ID@host-a"), a_lease(document, "host-b", "docker:ID@host-b")
    await first.step()
    await second.step()
    clock.now += 60
    leadership = await second.step()
    assert (leadership.held, leadership.needs_operator) == (False, True)
    assert "on another engine" in leadership.sentence


async def test_a_holder_that_did_not_name_its_host_is_on_this_engine(
    document: SharedDocument, clock: StandingClock
) -> None:
    """As managers before this one wrote it: an upgrade needs no operator."""
    await a_lease(document, "host-a", "docker:ID").step()
    second = a_lease(document, "host-b", "docker:ID@host-a")
    await second.step()
    clock.now += 60
    assert (await second.step()).held


async def test_holder_that_renews_keeps_it(document: SharedDocument, clock: StandingClock) -> None:
    """As long as it is heard from, nobody succeeds it, and the number of the leader lease stays."""
    first, second = a_lease(document, "host-a"), a_lease(document, "host-b")
    for _ in range(20):
        assert (await first.step()).number == 1
        clock.now += first.pause
        assert first.held
        assert not (await second.step()).held
    assert first.pause == 2.5


async def test_frozen_holder_finds_out_by_its_own_clock(document: SharedDocument, clock: StandingClock) -> None:
    """A holder that was stopped for longer than its lease does not act when it goes on, before it asks anybody."""
    first, second = a_lease(document, "host-a"), a_lease(document, "host-b")
    await first.step()
    await second.step()
    clock.now += 11
    assert not first.held
    assert (await second.step()).held
    assert await first.step() == Leadership(False, 2, "host-b", "It stands by: host-b is the leader and acts.")


async def test_other_engine_needs_an_operators_word(document: SharedDocument, clock: StandingClock) -> None:
    """On another engine silence is not enough; with the operator's word it is, but never before the leader lease is over."""
    first, second = a_lease(document, "host-a"), a_lease(document, "host-b", "engine 2")
    await first.step()
    leadership = await second.step(take_over=True)
    assert (leadership.held, leadership.needs_operator) == (False, False)
    assert leadership.sentence == "It stands by: host-a, on another engine, is the leader and acts."
    clock.now += 60
    leadership = await second.step()
    assert (leadership.held, leadership.needs_operator) == (False, True)
    assert "host-a, on another engine, has been silent for 60 s" in leadership.sentence
    assert "gateway-manager run --take-over" in leadership.sentence
    leadership = await second.step(take_over=True)
    assert (leadership.held, leadership.overrode) == (True, True)
    assert not (await second.step(take_over=True)).overrode


async def test_an_override_is_told_though_the_store_was_slow_to_take_it(
    document: SharedDocument, clock: StandingClock
) -> None:
    """The lease was over before the answer came: it is told, once and with whom it was taken from, as soon as it is held."""
    first, second = a_lease(document, "host-a"), a_lease(document, "host-b", "engine 2")
    await first.step()
    await second.step()
    clock.now += 60
    document.takes = 6
    assert not (await second.step(take_over=True)).held
    document.takes = 0
    leadership = await second.step(take_over=True)
    assert (leadership.held, leadership.overrode) == (True, True)
    assert "takes over from host-a, silent for" in leadership.sentence
    assert not (await second.step(take_over=True)).overrode


async def test_the_operators_word_overrides_nothing_on_the_same_engine(
    document: SharedDocument, clock: StandingClock
) -> None:
    """What is taken without need of it is no take-over to be audited: a free lease, one's own, a silent neighbour's."""
    first, second = a_lease(document, "host-a"), a_lease(document, "host-b")
    assert not (await first.step(take_over=True)).overrode
    await second.step(take_over=True)
    clock.now += 11
    leadership = await second.step(take_over=True)
    assert (leadership.held, leadership.overrode) == (True, False)
    assert not (await a_lease(document, "host-b").step(take_over=True)).overrode


async def test_resigning_lets_the_next_one_act_at_once(document: SharedDocument) -> None:
    """A tidy end costs nobody a lease of waiting; resigning twice is harmless."""
    first, second = a_lease(document, "host-a"), a_lease(document, "host-b", "engine 2")
    await first.step()
    await second.step()
    await first.resign()
    await first.resign()
    assert not first.held
    assert (await second.step()).held


async def test_restarted_manager_takes_up_its_own_lease(document: SharedDocument) -> None:
    """A manager that died and comes again under its name need not wait for itself; its former self has lost."""
    before, after = a_lease(document, "host-a"), a_lease(document, "host-a")
    await before.step()
    assert (await after.step()).number == 2
    assert (await after.step()).held


async def test_unreachable_store_ends_the_lease_by_time(document: SharedDocument, clock: StandingClock) -> None:
    """Without the store the holder acts to the end of its lease, then no more; back again and unsucceeded it goes on."""
    first = a_lease(document, "host-a")
    await first.step()
    document.away = True
    clock.now += 8.9
    with pytest.raises(StoreUnavailableError):
        await first.step()
    assert first.held
    clock.now += 0.2
    assert not first.held
    document.away = False
    assert await first.step() == Leadership(True, 1, "host-a", "It goes on to hold leader lease 1 and acts.")


async def test_slow_answer_does_not_lengthen_the_lease(document: SharedDocument) -> None:
    """The lease counts from before the question: with answers that take longer than the leader lease nobody ever acts."""
    document.takes = 5
    first = a_lease(document, "host-a")
    assert not (await first.step()).held
    assert not first.held


async def test_keeper_tells_every_change_once(document: SharedDocument, clock: StandingClock) -> None:
    """The loop tells when it is first known and when it changes, also that the leader lease ended while the store was away."""
    first, told = a_lease(document, "host-a"), []
    moved = asyncio.Event()

    def hear(leadership: Leadership) -> None:
        told.append(leadership)
        moved.set()

    keeper = asyncio.create_task(first.keep(hear))
    async with asyncio.timeout(30):
        await moved.wait()
        moved.clear()
        document.away = True
        clock.now += 20
        await moved.wait()
    keeper.cancel()
    assert [(each.held, each.number) for each in told] == [(True, 1), (False, 1)]
    assert told[1].sentence == "It can't be the leader and doesn't act: MongoDB at db:27017 does not answer."


async def test_keeper_tells_that_it_now_takes_an_operator(
    document: SharedDocument, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder on another engine that falls silent is told once, though neither holder nor lease changes."""
    monkeypatch.setattr(lease, "POLL_EVERY", 0.01)
    first, second, told = a_lease(document, "host-a"), a_lease(document, "host-b", "engine 2"), []
    await first.step()
    keeper = asyncio.create_task(second.keep(told.append))
    await until(lambda: len(told) == 1)
    clock.now += 11
    await until(lambda: len(told) == 2)
    keeper.cancel()
    assert [each.needs_operator for each in told] == [False, True]


moves = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("time"), st.floats(0, 15), st.booleans()),
        st.tuples(st.just("resign"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("takes"), st.sampled_from([0.0, 0.1, 4.0, 11.0]), st.booleans()),
    ),
    max_size=60,
)


@given(moves)
@settings(max_examples=300)
def test_never_two_hold_it(history: list[tuple[str, Any, bool]]) -> None:
    """Whatever is frozen, slow, away or impatient in whatever order: at no moment two managers may act."""
    clock = StandingClock()
    document = SharedDocument(clock)
    managers = [a_lease(document, name, engine) for name, engine in (("a", "1"), ("b", "1"), ("c", "2"))]

    async def play() -> None:
        for move, argument, flag in history:
            try:
                match move:
                    case "step":
                        await managers[argument].step(take_over=flag)
                    case "time":
                        clock.now += argument
                        document.away = flag and not document.away
                    case "resign":
                        await managers[argument].resign()
                    case "takes":
                        document.takes = argument
            except StoreUnavailableError:
                pass
            assert sum(manager.held for manager in managers) <= 1

    asyncio.run(play())


async def test_a_lease_that_is_handed_over_is_taken_by_who_stands_by(document: SharedDocument) -> None:
    """Who detaches need wait for no login when another manager watches from now on."""
    first, second = a_lease(document, "a"), a_lease(document, "b")
    await first.step()
    await second.step()
    handing_over = asyncio.create_task(first.hand_over(within=5))
    await until(lambda: document.version.content.get("holder") is None)
    assert (await second.step()).held
    assert await handing_over
    assert not first.held


async def test_a_lease_that_nobody_takes_is_taken_up_again(document: SharedDocument) -> None:
    """Nobody stands by: who detaches is told so, and goes on to watch until its logins have ended."""
    first = a_lease(document, "a")
    await first.step()
    document.takes = 2.0
    assert not await first.hand_over(within=5)
    document.takes = 0.0
    assert (await first.step()).held


async def test_a_lease_that_is_handed_over_is_offered_to_its_own_engine_first(
    document: SharedDocument, clock: StandingClock
) -> None:
    """Another engine's manager can't watch what runs here: it takes the lease only when nobody here did, nor took it up again."""
    first, second = a_lease(document, "a"), a_lease(document, "b", "engine 2")
    await first.step()
    await second.step()
    handing_over = asyncio.create_task(first.hand_over(within=5))
    await until(lambda: document.version.content.get("holder") is None)
    leadership = await second.step()
    assert (leadership.held, "a manager there first" in leadership.sentence) == (False, True)
    clock.now += 9.9
    assert not (await second.step()).held
    clock.now += 0.1
    assert (await second.step()).held
    await handing_over
