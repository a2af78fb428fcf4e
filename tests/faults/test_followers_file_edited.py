"""`followers.toml` under the hands of real editors: no moment of an edit is ever taken for the owner's will."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import StoreDamagedError, StoreUnavailableError
from spreadpilot_core.ibkr.store import local_followers
from spreadpilot_core.ibkr.store.local import LocalFollowers
from support.stores import POLL_INTERVAL

WITHIN = 30.0
NAMES = [f"follower-{number:02}" for number in range(20)]


def content_with(names: list[str]) -> str:
    return "".join(
        f'[[follower]]\nid = "{name}"\nvault_secret_ref = "ibkr/{name}"\nenabled = true\n\n' for name in names
    )


def write_in_place(path: Path, content: str) -> None:
    """As `nano` does: cut to nothing, then written piece by piece."""
    with path.open("w") as file:
        for start in range(0, len(content), 200):
            file.write(content[start : start + 200])
            file.flush()
            time.sleep(0.002)


def write_aside_and_rename(path: Path, content: str) -> None:
    """As many editors and every deployment tool do."""
    aside = path.with_suffix(".new")
    aside.write_text(content)
    aside.replace(path)


def move_away_and_write(path: Path, content: str) -> None:
    """As `vim` does with a backup: for a moment there is no file."""
    backup = path.with_suffix(".toml~")
    path.replace(backup)
    path.write_text(content)
    backup.unlink()


def delete_and_write(path: Path, content: str) -> None:
    """As a careless script does."""
    path.unlink()
    write_in_place(path, content)


EDITORS = [write_in_place, write_aside_and_rename, move_away_and_write, delete_and_write]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "followers.toml"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[LocalFollowers]:
    store = LocalFollowers(path, poll_interval=POLL_INTERVAL)
    await store.open()
    yield store
    await store.close()


async def test_no_moment_of_an_edit_is_believed(
    path: Path, store: LocalFollowers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While twenty followers become twenty-one, again and again, nobody who reads ever sees fewer than twenty."""
    monkeypatch.setattr(local_followers, "LOSS_SETTLED", 20.0)  # a busy machine may hold the editor up in mid-edit
    monkeypatch.setattr(local_followers, "SETTLE_WITHIN", 60.0)
    path.write_text(content_with(NAMES))
    await store.load()
    ended = asyncio.Event()

    async def read_all_the_time() -> set[int]:
        sizes = set()
        while not ended.is_set():
            sizes.add(len((await store.load()).usable))
        return sizes

    reader = asyncio.create_task(read_all_the_time())
    for number, edit in enumerate(EDITORS * 2):
        await asyncio.to_thread(edit, path, content_with(NAMES if number % 2 == 0 else [*NAMES, "new"]))
        await asyncio.sleep(0.05 * number)
    async with asyncio.timeout(WITHIN):
        while len((await store.load()).usable) != 21:
            await asyncio.sleep(0.05)
    ended.set()
    assert await reader <= {20, 21}


@pytest.mark.parametrize("half", ["", content_with(NAMES[:7]), content_with(NAMES).rpartition("vault")[0], None])
async def test_editor_that_is_held_up_halfway_takes_nobody_away(
    path: Path, store: LocalFollowers, monkeypatch: pytest.MonkeyPatch, half: str | None
) -> None:
    """Four times as long as a change of any other kind needs, the file is empty, cut short, or gone: nobody is lost."""
    monkeypatch.setattr(local_followers, "SETTLED", 0.1)
    monkeypatch.setattr(local_followers, "LOSS_SETTLED", 20.0)
    monkeypatch.setattr(local_followers, "SETTLE_WITHIN", 60.0)
    path.write_text(content_with(NAMES))
    assert len((await store.load()).usable) == 20
    reading = asyncio.create_task(store.load())
    path.write_text(half) if half is not None else path.unlink()
    await asyncio.sleep(0.4)
    path.write_text(content_with([*NAMES, "new"]))
    assert len((await reading).usable) == 21


@pytest.mark.parametrize("edit", EDITORS)
async def test_every_editor_is_noticed(path: Path, store: LocalFollowers, edit: Callable[[Path, str], None]) -> None:
    """However the file is written, a hint comes and the next load has the new content."""
    path.write_text(content_with(["old"]))
    async with aclosing(store.hints()) as hints, asyncio.timeout(WITHIN):
        await anext(hints)
        await asyncio.to_thread(edit, path, content_with(["new"]))
        while list((await store.load()).usable) != ["new"]:
            await anext(hints)


async def test_file_that_is_gone_for_good_means_nobody(path: Path, store: LocalFollowers) -> None:
    """A file that was removed and stays away is an empty roster, after the moment that an editor would take."""
    path.write_text(content_with(["anna"]))
    assert list((await store.load()).usable) == ["anna"]
    path.unlink()
    assert dict((await store.load()).usable) == {}
    path.write_text(content_with(["bert"]))
    assert list((await store.load()).usable) == ["bert"]


async def test_invalid_content_is_an_error_until_it_is_mended(path: Path, store: LocalFollowers) -> None:
    """Broken TOML raises with line and cause, so that the last good roster stays in force, and mending it is enough."""
    path.write_text(content_with(["anna"]) + "[[follower\n")
    with pytest.raises(StoreDamagedError, match=r"followers\.toml can't be understood: line 6, column 11: "):
        await store.load()
    path.write_text(content_with(["anna"]))
    assert list((await store.load()).usable) == ["anna"]


async def test_file_that_never_rests_is_said_to(
    path: Path, store: LocalFollowers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that writes the file all the time makes loads fail with that sentence, not hang."""
    monkeypatch.setattr(local_followers, "SETTLED", 3.0)  # longer than a busy disk holds the writer up
    monkeypatch.setattr(local_followers, "SETTLE_WITHIN", 0.6)
    path.write_text(content_with(["anna"]))

    async def write_all_the_time() -> None:
        while True:
            await asyncio.to_thread(path.write_text, content_with(["anna"]))
            await asyncio.sleep(0.02)

    writer = asyncio.create_task(write_all_the_time())
    with pytest.raises(StoreUnavailableError, match="has been changing all the time"):
        await store.load()
    writer.cancel()


async def test_directory_where_a_file_should_be_is_told(path: Path, store: LocalFollowers) -> None:
    """What the system refuses to read is an error with the cause in the system's words."""
    path.mkdir()
    with pytest.raises(StoreUnavailableError, match=r"followers\.toml can't be used: Is a directory\."):
        await store.load()


async def test_watch_outlives_its_directory(path: Path, tmp_path: Path) -> None:
    """The directory is removed and made again: hints go on coming."""
    directory = tmp_path / "state"
    store = LocalFollowers(directory / path.name, poll_interval=0.1)
    await store.open()
    async with aclosing(store.hints()) as hints, asyncio.timeout(WITHIN):
        await anext(hints)
        for round_ in range(3):
            await asyncio.to_thread(shutil.rmtree, directory)
            await asyncio.to_thread(directory.mkdir)
            await asyncio.to_thread((directory / path.name).write_text, content_with([f"round-{round_}"]))
            while list((await store.load()).usable) != [f"round-{round_}"]:
                await anext(hints)
    await store.close()


async def test_polling_alone_is_enough(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system can't watch (its limit is reached), the file's status tells of changes."""

    async def no_watch(*_: object, **__: object) -> AsyncIterator[None]:
        raise OSError(28, "inotify watch limit reached")
        yield

    monkeypatch.setattr(local_followers, "awatch", no_watch)
    store = LocalFollowers(path, poll_interval=0.1)
    await store.open()
    async with aclosing(store.hints()) as hints, asyncio.timeout(WITHIN):
        await anext(hints)
        path.write_text(content_with(["anna"]))
        await anext(hints)
    assert list((await store.load()).usable) == ["anna"]
    await store.close()
