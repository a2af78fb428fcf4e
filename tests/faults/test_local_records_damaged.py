"""The embedded record store on a file that is damaged, locked, newer, moved away, or on a disk that is full."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import (
    GatewayManagerError,
    LoginRefusedError,
    StoreDamagedError,
    StoreUnavailableError,
)
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.store.local.records import LocalRecords
from spreadpilot_core.ibkr.store.outbox import Outbox
from spreadpilot_core.ibkr.store.outboxed_records import OutboxedRecords
from support.command import Command
from support.home import Home, eventually, seen
from support.stores import BUDGET, NOON, LocalRecordsUnderTest, a_record, an_attempt
from support.waiting import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "records.sqlite3"


async def filled(path: Path) -> None:
    """A store with enough in it to have many pages."""
    store = LocalRecords(path)
    await store.open()
    for number in range(100):
        await store.save(a_record(f"follower-{number}", last_words="line\n" * 100))
    await store.close()


async def test_file_is_its_owners_alone(path: Path) -> None:
    """Directory and files, those of the write-ahead log too, are closed to everybody else."""
    store = LocalRecords(path)
    await store.open()
    await store.save(a_record())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    await store.close()


@pytest.mark.parametrize("spoiled", ["all", "beginning", "middle"])
async def test_damaged_file_is_named_with_its_cure(path: Path, spoiled: str) -> None:
    """Garbage anywhere in the file is found when it is opened; the error names the file and what to do, and what it costs."""
    await filled(path)
    content = bytearray(path.read_bytes())
    start, end = {"all": (0, len(content)), "beginning": (0, 100), "middle": (4096, 40960)}[spoiled]
    content[start:end] = b"\x5a" * (end - start)
    path.write_bytes(content)
    store = LocalRecords(path)
    for _ in range(2):
        with pytest.raises(StoreDamagedError) as raised:
            await store.open()
        assert f"{path} is damaged: " in str(raised.value)
        assert "move the file aside and start with `gateway-manager run --accept-lost-records`" in str(raised.value)
        with pytest.raises(StoreDamagedError, match="is damaged"):  # whoever else asks is told no other story
            await store.audit_head("trail")
    path.unlink()
    await store.open()
    assert not await store.load()
    await store.close()


async def test_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    """A file whose layout this version doesn't know is refused and not touched."""
    await filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    store = LocalRecords(path)
    with pytest.raises(StoreDamagedError, match=r"newer version of the gateway manager \(layout 99, known 2\)"):
        await store.open()
    await store.close()


async def test_locked_file_is_waited_for_a_bounded_time(path: Path) -> None:
    """While another program holds the file, writes wait and then fail with a sentence; afterwards they work."""
    store = LocalRecords(path, busy_wait=0.3)
    await store.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match=r"has been locked by another program for 0\.3 s"):
            await store.reserve_login(an_attempt(), BUDGET)
        assert not await store.load(), "reading goes on"
        other.execute("ROLLBACK")
    assert await store.reserve_login(an_attempt(), BUDGET) is None
    await store.close()


async def test_short_lock_is_waited_out(path: Path) -> None:
    """A lock that ends in time costs nobody an error."""
    store = LocalRecords(path)
    await store.open()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    assert await store.reserve_login(an_attempt(), BUDGET) is None
    release.join()
    other.close()
    await store.close()


async def test_file_that_is_moved_away_keeps_nothing_silently(path: Path) -> None:
    """A write into a file that no longer has its name would be lost at the next start: it is refused instead."""
    store = LocalRecords(path)
    await store.open()
    await store.save(a_record())
    path.rename(path.with_suffix(".old"))
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="is gone, or is another file than the one that was opened"):
            await store.save(a_record(client_id=1))
    path.with_suffix(".old").rename(path)
    await store.open()
    assert list((await store.load()).usable.values()) == [a_record()]
    await store.close()


async def test_unusable_directory_is_told(tmp_path: Path) -> None:
    """A path that can't hold a file is an error in the system's words."""
    (tmp_path / "state").write_text("a file, not a directory")
    store = LocalRecords(tmp_path / "state" / "records.sqlite3")
    with pytest.raises(StoreUnavailableError, match="can't be used: "):
        await store.open()
    await store.close()


async def test_full_disk_is_told_and_passes(path: Path) -> None:
    """When the disk is full the write fails with that cause, nothing of it stays, and later writes work."""
    store = LocalRecords(path)
    await store.open()
    await store.save(a_record())

    def limit(pages: int) -> None:
        connection = store._file._connection
        assert connection is not None
        connection.execute(f"PRAGMA max_page_count={pages}")

    await store._file._in_thread(lambda: limit(1))
    with pytest.raises(StoreUnavailableError, match="full"):
        await store.save(a_record("big", last_words="x" * 200_000))
    await store._file._in_thread(lambda: limit(10_000))
    await store.save(a_record("bert"))
    assert list((await store.load()).usable) == ["anna", "bert"]
    await store.close()


async def test_call_on_a_closed_store_is_an_error(path: Path) -> None:
    """Neither before open nor after close anything pretends to be written."""
    store = LocalRecords(path)
    with pytest.raises(StoreUnavailableError, match="is not open"):
        await store.settle_login(an_attempt().id, LoginOutcome.FAILED, NOON)
    await store.open()
    await store.close()
    with pytest.raises(StoreUnavailableError, match="is not open"):
        await store.load()


async def test_close_waits_for_what_runs(path: Path) -> None:
    """A write that was under way when the store was closed is whole."""
    store = LocalRecords(path)
    await store.open()
    writes = [asyncio.create_task(store.save(a_record(str(number)))) for number in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    await store.open()
    assert len((await store.load()).usable) == 20
    await store.close()
    assert [each.name for each in path.parent.iterdir()] == ["records.sqlite3"], "the log was merged into the file"


async def test_one_damaged_record_keeps_its_own_follower_from_logging_in_and_nobody_else() -> None:
    """The others are adopted; this one is named with the cure by status and doctor, and what is left of it stays."""
    home = Home()
    try:
        await home.add("anna", "ben")
        async with home.manager(on_exit="detach") as manager:
            await eventually(lambda: manager.is_healthy("anna") and manager.is_healthy("ben"), manager.list_gateways)
            container = seen(manager, "anna").container
        under_test = LocalRecordsUnderTest(home.directory)
        await under_test.damage_record("ben", "no time")
        async with home.manager(on_exit="detach") as manager:
            await eventually(lambda: manager.is_healthy("anna"), manager.list_gateways)
            assert seen(manager, "anna").container == container
            damaged = seen(manager, "ben")
            assert (damaged.state, damaged.reason_code) == (State.NEEDS_HUMAN, ReasonCode.RECORD_DAMAGED)
            assert "updated_at" in (damaged.reason or "")
            for asked in (manager.launch_gateway("ben"), manager.launch_gateway("ben", retry_login=True)):
                with pytest.raises(LoginRefusedError, match="is damaged"):
                    await asked
            with pytest.raises(GatewayManagerError, match=r"ben was not stopped: .* is damaged"):  # it is left as it is
                await manager.stop_gateway("ben")
        [row] = await asyncio.to_thread(under_test._run, "SELECT document FROM records WHERE follower_id = 'ben'")
        assert '"yesterday"' in row[0]
        doctor = await asyncio.to_thread(Command(home), "doctor")
        assert "ben: The record of follower 'ben'" in doctor.stdout
    finally:
        await home.end()


async def test_a_local_file_that_is_locked_is_an_absence_too(path: Path) -> None:
    """Another program holds it for longer than anybody waits: writes are kept meanwhile, as for a server that is away."""
    records = OutboxedRecords(LocalRecords(path, busy_wait=0.1), Outbox(path.with_name("outbox.sqlite3")))
    await records.open()
    try:
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
            await asyncio.to_thread(holder.execute, "BEGIN IMMEDIATE")
            await records.save(a_record())
            assert records.waiting == 1
            await asyncio.to_thread(holder.execute, "ROLLBACK")
        await until(lambda: not records.waiting)
        assert list((await records.load()).usable) == ["anna"]
    finally:
        await records.close()
