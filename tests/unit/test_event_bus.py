from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime

from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.events import ClientStale, EventBus, EventsMissed, NoticeGiven, StateChanged

NOW = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)


def notice(number: int) -> NoticeGiven:
    return NoticeGiven(at=NOW, sentence=f"number {number}")


async def test_every_subscription_gets_every_event_from_its_call_on() -> None:
    """Subscribing counts from the call, not from the first read."""
    bus = EventBus()
    bus.publish(notice(0))
    first, second = bus.subscribe(), bus.subscribe()
    bus.publish(notice(1))

    assert (await anext(first)).sentence == (await anext(second)).sentence == "number 1"


async def test_a_slow_reader_is_told_how_many_events_it_missed_in_their_place() -> None:
    """The newest are kept, and the gap is said before them."""
    bus = EventBus(kept=3)
    reader = bus.subscribe()
    for number in range(10):
        bus.publish(notice(number))
    gap = await anext(reader)

    assert isinstance(gap, EventsMissed)
    assert gap.count == 7
    assert [(await anext(reader)).sentence for _ in range(3)] == ["number 7", "number 8", "number 9"]


async def test_a_reader_that_waits_is_woken_and_ends_with_the_bus() -> None:
    """The end comes after what was published before it."""
    bus = EventBus()
    reader = bus.subscribe()

    async def read() -> list[str]:
        return [event.sentence async for event in reader]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    bus.publish(notice(1))
    bus.publish(notice(2))
    bus.close()

    assert await reading == ["number 1", "number 2"]


async def test_a_reader_that_went_away_costs_nothing() -> None:
    """A subscription that nobody holds any more is forgotten."""
    bus = EventBus()
    reader = bus.subscribe()
    assert len(bus._subscriptions) == 1
    del reader
    gc.collect()

    assert len(bus._subscriptions) == 0


async def test_closing_a_subscription_ends_it_at_once() -> None:
    """What was not read yet is dropped."""
    bus = EventBus()
    reader = bus.subscribe()
    bus.publish(notice(1))
    await reader.aclose()

    assert [event async for event in reader] == []


def test_an_event_is_json_with_its_name_first_and_without_the_client() -> None:
    """Times are ISO 8601, states their words; the client object stays in the process."""
    event = StateChanged(at=NOW, follower_id="anna", sentence="Why.", before=None, after=State.READY)

    assert event.as_dict() == {
        "name": "StateChanged",
        "at": "2026-11-24T14:00:00+00:00",
        "follower_id": "anna",
        "sentence": "Why.",
        "before": None,
        "after": "ready",
    }
    assert "client" not in ClientStale(at=NOW, sentence="x", client=object(), client_serial=1).as_dict()
