"""The embedded record store while its users race and die."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.store.local.records import LocalRecords
from support.store_writers import forked, reserve_many, write_for_ever
from support.stores import NOON, LocalRecordsUnderTest, noon

ROUNDS = 20
WITHIN = 60.0


async def test_killed_writer_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Killed twenty times in the middle of writing: whatever was acknowledged is there, and the file is whole."""
    under_test = LocalRecordsUnderTest(tmp_path)
    acknowledged = -1
    for round_ in range(ROUNDS):
        acknowledged = _write_and_kill(under_test.path, acknowledged + 1, at_least=round_ % 7)
        store = under_test.store()
        await store.open()
        for open_one in await store.unsettled_logins():
            assert open_one.id == f"attempt-{acknowledged + 1}", "only the write that was under way may be half-done"
            await store.settle_login(open_one.id, LoginOutcome.UNFINISHED, NOON)
        history = await under_test.history()
        assert history == [f"Sentence {number}." for number in range(len(history))]
        assert len(history) in {acknowledged + 1, acknowledged + 2}
        assert max(record.client_id or 0 for record in (await store.load()).usable.values()) >= acknowledged
        counted = {each.id for each in await store.full_logins("anna01", NOON)}
        assert counted >= {f"attempt-{number}" for number in range(acknowledged + 1)}
        await store.close()
    with closing(sqlite3.connect(under_test.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _write_and_kill(path: Path, first: int, *, at_least: int) -> int:
    """Have a process write from number `first` on and kill it; the last number that it had acknowledged."""
    receiver, sender = forked().Pipe(duplex=False)
    process = forked().Process(target=write_for_ever, args=(partial(LocalRecords, path, clock=noon), first, sender))
    process.start()
    sender.close()
    last = first - 1
    while last < first + at_least:
        last = int(receiver.recv_bytes())
    process.kill()
    process.join(WITHIN)
    with suppress(EOFError):
        while True:
            last = int(receiver.recv_bytes())
    return last


def test_processes_never_reserve_the_same_login(tmp_path: Path) -> None:
    """Four processes that try for the same 50 users at the same moment are granted each user exactly once."""
    new_store = partial(LocalRecords, tmp_path / "records.sqlite3", busy_wait=WITHIN)  # a slow disk is no lock
    pipes = [forked().Pipe(duplex=False) for _ in range(4)]
    processes = [
        forked().Process(target=reserve_many, args=(new_store, name, 50, sender))
        for name, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    granted = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join(WITHIN)
    assert sorted(number for numbers in granted for number in numbers) == list(range(50))
