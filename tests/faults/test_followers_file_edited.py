"""`followers.toml` under the hands of real editors: no moment of an edit is ever taken for the owner's will."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.deciding.observation import Wanted
from spreadpilot_core.ibkr.errors import StoreDamagedError, StoreUnavailableError
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.store.local import followers
from spreadpilot_core.ibkr.store.local.followers import LocalFollowers
from spreadpilot_core.ibkr.supervision.desired import DesiredState, Holding
from spreadpilot_core.ibkr.system import file_watch
from support.stores import POLL_INTERVAL

WITHIN = 30.0
NAMES = [f"follower-{number:02}" for number in range(20)]
HOLDINGS = {
    FollowerId(name): Holding(
        Record(
            follower_id=FollowerId(name),
            last_good=Follower(id=FollowerId(name), vault_secret_ref=f"ibkr/{name}", enabled=True),
        ),
        has_gateway=True,
    )
    for name in NAMES
}
"""Each of them has a gateway."""


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


async def test_no_moment_of_an_edit_is_believed(path: Path, store: LocalFollowers) -> None:
    """While twenty followers become twenty-one, again and again, by every kind of editor, all twenty go on as they were.

    An editor that a busy disk holds up halfway shows a file that lacks some: those wait, and are not let go.
    """
    path.write_text(content_with(NAMES))
    desired = DesiredState(removal_delay=30)
    ended = asyncio.Event()
    lost: set[str] = set()

    async def read_all_the_time() -> None:
        while not ended.is_set():
            with suppress(StoreUnavailableError):
                desired.take(await store.load(), datetime.now(UTC))
            desired.weigh(HOLDINGS, datetime.now(UTC))
            found = {name: desired.desired(name, holding).wanted for name, holding in HOLDINGS.items()}
            lost.update(name for name, wanted in found.items() if wanted not in (Wanted.RUN, Wanted.KEEP))
            await asyncio.sleep(0)

    reader = asyncio.create_task(read_all_the_time())
    for number, edit in enumerate(EDITORS * 2):
        await asyncio.to_thread(edit, path, content_with(NAMES if number % 2 == 0 else [*NAMES, "new"]))
        await asyncio.sleep(0.05 * number)
    for half in ("", content_with(NAMES[:7]), content_with(NAMES).rpartition("enabled")[0]):
        path.write_text(half)
        await asyncio.sleep(0.5)
    path.write_text(content_with([*NAMES, "new"]))
    async with asyncio.timeout(WITHIN):
        while len((await store.load()).usable) != 21:
            await asyncio.sleep(0.05)
    ended.set()
    await reader
    assert lost == set()


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
    monkeypatch.setattr(followers, "SETTLED", 3.0)  # longer than a busy disk holds the writer up
    monkeypatch.setattr(followers, "SETTLE_WITHIN", 0.6)
    path.write_text(content_with(["anna"]))

    async def write_all_the_time() -> None:
        while True:
            await asyncio.to_thread(path.write_text, content_with(["anna"]))
            await asyncio.sleep(0.02)

    writer = asyncio.create_task(write_all_the_time())
    with pytest.raises(StoreUnavailableError, match="has been changing all the time"):
        await store.load()
    writer.cancel()


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a socket"])
async def test_what_is_no_file_is_told_and_never_waited_for(path: Path, store: LocalFollowers, kind: str) -> None:
    """A FIFO without a writer, a device without an end, a socket: an error that says what it is, at once."""
    with contextlib.ExitStack() as held:
        if kind == "a FIFO":
            os.mkfifo(path)
        elif kind == "a device":
            path.symlink_to("/dev/zero")
        else:
            held.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        async with asyncio.timeout(WITHIN):
            with pytest.raises(StoreUnavailableError, match=f"can't be used: it is {kind}, not a file"):
                await store.load()
        path.unlink()
        path.write_text(content_with(["anna"]))
        assert list((await store.load()).usable) == ["anna"]


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

    monkeypatch.setattr(file_watch, "awatch", no_watch)
    store = LocalFollowers(path, poll_interval=0.1)
    await store.open()
    async with aclosing(store.hints()) as hints, asyncio.timeout(WITHIN):
        await anext(hints)
        path.write_text(content_with(["anna"]))
        await anext(hints)
    assert list((await store.load()).usable) == ["anna"]
    await store.close()
