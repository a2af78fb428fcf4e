"""Background work does not end: whatever ends it is told, and it begins again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from spreadpilot_core.ibkr import tasks
from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.events import EventBus
from spreadpilot_core.ibkr.reporting.notices import LONGEST_NOTICE, Notices
from spreadpilot_core.ibkr.tasks import Tasks, keep_running
from support.home import eventually


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "RETRY_FIRST", 0.001)
    monkeypatch.setattr(tasks, "RETRY_CAP", 0.002)


async def cancelled_by_somebody_else() -> None:
    waited_for = asyncio.ensure_future(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(waited_for.cancel)
    await waited_for


async def ends() -> None:
    return


def raises(error: Exception) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (raises(StoreUnavailableError("The disk is full.")), "begins again: The disk is full."),
        (raises(OSError(24, "Too many open files")), "Too many open files"),
        (raises(OverflowError("int too large")), "OverflowError"),
        (raises(KeyError("k" * 10_000)), "KeyError"),
        (cancelled_by_somebody_else, "something that it waits for was cancelled"),
        (ends, "it ended, which it never should"),
    ],
)
async def test_whatever_ends_work_is_told_and_it_begins_again(
    end: Callable[[], Awaitable[None]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of ours or the system's, a stray cancellation, a normal end: a short notice until it goes well, and work."""
    monkeypatch.setattr(tasks, "STEADY", 0.05)
    notices = Notices(EventBus(), lambda: datetime.now(UTC))
    told: list[str] = []
    rounds = 0
    ended_often, owner = asyncio.Event(), Tasks("test")

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds > 3:
            ended_often.set()
            told.extend(notices.sentences)
            await asyncio.sleep(3600)
        await end()

    owner.begin("work", keep_running("keep watch", work, tell=notices.tell))
    await eventually(ended_often.is_set)
    await eventually(lambda: not notices.sentences)
    await owner.cancel()

    [sentence] = told
    assert sentence.startswith("The manager's work to keep watch failed and begins again: ")
    assert why in sentence
    assert len(sentence) <= LONGEST_NOTICE


async def test_work_with_an_end_of_its_own_may_end() -> None:
    """It begins again after a failure, and its end clears the notice."""
    told: list[str | None] = []
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 3:
            raise ValueError

    await keep_running("read", work, tell=lambda _, sentence: told.append(sentence), may_end=True)

    assert rounds == 3
    assert told[-1] is None
    assert len(told) == 3


async def test_who_is_cancelled_ends() -> None:
    """The owner's word ends it, in the middle of its work and in the pause before it begins again."""
    for work in (lambda: asyncio.sleep(3600), raises(ValueError())):
        owner = Tasks("test")
        task = owner.begin("work", keep_running("work", work))
        await asyncio.sleep(0.01)
        await owner.cancel()
        assert task.cancelled()


async def test_a_notice_is_an_event_once_and_stands_until_it_is_over() -> None:
    """The same sentence again is no news; another one takes its place; None ends it."""
    bus = EventBus()
    heard: list[str] = []
    bus.listen(lambda event: heard.append(event.sentence))
    notices = Notices(bus, lambda: datetime.now(UTC))
    for sentence in ("It is away.", "It is away.", "It is full."):
        notices.tell("store", sentence)
    notices.tell("other", "Something else.")
    assert heard == ["It is away.", "It is full.", "Something else."]
    assert notices.sentences == ("It is full.", "Something else.")
    notices.tell("store", None)
    notices.tell("store", None)
    assert notices.sentences == ("Something else.",)
