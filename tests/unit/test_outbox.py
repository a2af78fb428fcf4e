"""What waits on this host's disk to be written to a store that was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import StoreDamagedError, StoreUnavailableError
from spreadpilot_core.ibkr.store.outbox import Entry, Outbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
async def outbox(path: Path) -> AsyncIterator[Outbox]:
    outbox = Outbox(path, limit=10)
    await outbox.open()
    yield outbox
    await outbox.close()


async def test_entries_leave_in_the_order_they_came(outbox: Outbox) -> None:
    """The oldest come first, stay until they are forgotten, and numbers are never used again."""
    await outbox.append([("record", {"n": 1}), ("history", {"n": 2})])
    await outbox.append([("record", {"n": 3})])
    assert await outbox.oldest(2) == [Entry(1, "record", {"n": 1}), Entry(2, "history", {"n": 2})]
    await outbox.forget(2)
    assert (outbox.size, await outbox.oldest(9)) == (1, [Entry(3, "record", {"n": 3})])
    await outbox.forget(3)
    await outbox.append([("record", {"n": 4})])
    assert await outbox.oldest(9) == [Entry(4, "record", {"n": 4})]


async def test_entries_survive(path: Path, outbox: Outbox) -> None:
    """The next manager finds what the last one left, text of every kind included."""
    await outbox.append([("history", {"sentence": "“Zürich” said\nno.", "at": None})])
    await outbox.close()
    again = Outbox(path)
    await again.open()
    assert again.size == 1
    assert (await again.oldest(1))[0].document == {"sentence": "“Zürich” said\nno.", "at": None}
    await again.close()


async def test_full_outbox_refuses_all_or_nothing(outbox: Outbox) -> None:
    """What doesn't fit is refused whole; what was accepted stays."""
    await outbox.append([("history", {"n": number}) for number in range(8)])
    with pytest.raises(StoreUnavailableError, match=r"outbox\.sqlite3 is full: 8 entries wait"):
        await outbox.append([("history", {"n": number}) for number in range(8, 11)])
    await outbox.append([("history", {"n": 8}), ("history", {"n": 9})])
    assert [entry.document["n"] for entry in await outbox.oldest(99)] == list(range(10))


async def test_cancelled_append_is_counted(path: Path) -> None:
    """However an append is cut off, the size is what really waits: else a later write would overtake it."""
    outbox = Outbox(path, limit=1000)
    await outbox.open()
    for steps in range(30):
        task = asyncio.create_task(outbox.append([("history", {"n": steps})]))
        for _ in range(steps % 6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await outbox.append([])  # behind it in the same thread
        assert outbox.size == len(await outbox.oldest(99))
    await outbox.close()


async def test_damaged_file_is_named_with_its_cure(path: Path) -> None:
    """Garbage in its place is an error that says what to do."""
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    outbox = Outbox(path)
    with pytest.raises(StoreDamagedError, match=r"outbox\.sqlite3 is damaged: .* move the file aside and start again"):
        await outbox.open()
    await outbox.close()
