from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from spreadpilot_core.ibkr.model.events import Event, EventBus, EventsMissed, NoticeGiven, StateChanged
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.states import State

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
    bus = EventBus(limit=3)
    reader = bus.subscribe()
    for number in range(10):
        bus.publish(notice(number))
    gap = await anext(reader)

    assert isinstance(gap, EventsMissed)
    assert (gap.count, gap.sentence, gap.at) == (7, "7 events were missed here.", NOW)
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


def test_an_event_is_json_with_its_name_first() -> None:
    """Times are ISO 8601, states, codes and severities their words."""
    event = StateChanged(
        id=7,
        at=NOW,
        follower_id="anna",
        severity=Severity.WARNING,
        reason_code=ReasonCode.IBKR_LINK_LOST,
        sentence="Why. Then.",
        before=None,
        after=State.DEGRADED,
        reason="Why.",
        next_action="Then.",
        facts={"gateways": 3},
    )

    assert event.as_dict() == {
        "name": "StateChanged",
        "id": 7,
        "at": "2026-11-24T14:00:00+00:00",
        "follower_id": "anna",
        "severity": "warning",
        "reason_code": "IBKR_LINK_LOST",
        "sentence": "Why. Then.",
        "trace_id": None,
        "span_id": None,
        "before": None,
        "after": "degraded",
        "reason": "Why.",
        "next_action": "Then.",
        "facts": {"gateways": 3},
    }


VALUES = {int: 1, str: "x", bool: True, datetime: NOW}


@pytest.mark.parametrize("kind", Event.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_kind_of_event_is_json_whatever_it_holds(kind: type[Event]) -> None:
    """Nothing lives in an event: what `json` can't write is no fact."""
    hints = get_type_hints(kind)
    values = {each.name: a_value(hints[each.name]) for each in fields(kind)}

    assert json.loads(json.dumps(kind(**values).as_dict()))["name"] == kind.__name__


def a_value(hint: Any) -> Any:
    """Something of this type."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return (a_value(arguments[0]),)
    if origin is not None and issubclass(origin, Mapping):
        return {"fact": 1.5}
    return a_value(arguments[0]) if arguments else VALUES[hint]


def ids(events: list[Event]) -> list[int]:
    return [event.id for event in events]


async def all_of(bus: EventBus, after: int) -> list[Event]:
    """What a reader that comes back gets, up to now."""
    reader = bus.subscribe(after=after)
    reader.end()
    return [event async for event in reader]


async def test_a_reader_that_comes_back_goes_on_after_the_last_event_it_knows() -> None:
    """Ids grow by one; nothing is given twice, nothing is left out, and what comes then follows."""
    bus = EventBus()
    first = bus.subscribe()
    for number in range(5):
        bus.publish(notice(number))
    known = ids([await anext(first) for _ in range(5)])
    assert known == list(range(known[0], known[0] + 5))

    again = bus.subscribe(after=known[1])
    bus.publish(notice(5))
    assert [(await anext(again)).sentence for _ in range(4)] == [f"number {number}" for number in range(2, 6)]


async def test_a_reader_that_was_away_for_too_long_is_told_how_many_it_missed() -> None:
    """The gap comes first and bears the id of the last event in it, so that going on after it misses nothing more."""
    bus = EventBus(limit=3)
    first = bus.subscribe()
    bus.publish(notice(0))
    known = (await anext(first)).id
    for number in range(1, 10):
        bus.publish(notice(number))
    gap, *rest = await all_of(bus, known)

    assert isinstance(gap, EventsMissed)
    assert (gap.count, gap.at, ids(rest)) == (6, NOW, [known + 7, known + 8, known + 9])
    assert ids(await all_of(bus, gap.id)) == ids(rest)
    bus.publish(notice(10))
    slow = bus.subscribe(after=known)
    bus.publish(notice(11))
    gap = await anext(slow)
    assert isinstance(gap, EventsMissed)
    assert gap.count == 8


async def test_a_reader_of_an_earlier_manager_is_told_that_some_are_missing_and_gets_all_of_this_one() -> None:
    """The ids of a later manager are higher; how many of the earlier one were missed nobody can say."""
    earlier, later = EventBus(), EventBus(clock=lambda: NOW)
    earlier.publish(notice(0))
    (known,) = [event.id for event in (earlier._recent)]
    empty = await anext(later.subscribe(after=known))
    assert isinstance(empty, EventsMissed)
    assert empty.at == NOW
    for number in range(2):
        later.publish(NoticeGiven(at=NOW + timedelta(seconds=1), sentence=f"number {number}"))
    gap, *rest = await all_of(later, known)

    assert isinstance(gap, EventsMissed)
    assert gap.count is None
    assert known < gap.id < rest[0].id < rest[1].id
