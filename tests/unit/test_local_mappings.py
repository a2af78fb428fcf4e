"""Mappings in the embedded store: of thousands only those that changed are written, whoever else writes to the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.records import GatewayMapping
from spreadpilot_core.ibkr.store.local.records import LocalRecords
from support.stores import a_mapping


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite3"


@pytest.fixture
def stranger(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program that has the file open."""
    sqlite3.connect(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def followers(connection: sqlite3.Connection) -> list[str]:
    return [str(each) for (each,) in connection.execute("SELECT follower_id FROM mappings ORDER BY follower_id")]


async def test_an_unchanged_mapping_is_written_once(path: Path, stranger: sqlite3.Connection) -> None:
    """A fleet of thousands in which one changes costs one row a second, not thousands."""
    store = LocalRecords(path)
    await store.open()
    fleet: list[GatewayMapping] = [a_mapping(f"follower{each}") for each in range(50)]
    await store.report(fleet)
    stranger.execute("CREATE TABLE written (follower_id TEXT)")
    for happening, row in (("INSERT", "new"), ("DELETE", "old")):
        insert = f"INSERT INTO written VALUES ({row}.follower_id)"  # noqa: S608  # text of this file
        stranger.execute(f"CREATE TRIGGER t{row} AFTER {happening} ON mappings BEGIN {insert}; END")
    await store.report(fleet)  # another has written to the file: all of it anew
    stranger_saw = len(stranger.execute("SELECT * FROM written").fetchall())
    await store.report([a_mapping("follower0", status="STARTING"), *fleet[2:]])
    rows = sorted(each for (each,) in stranger.execute("SELECT follower_id FROM written").fetchall()[stranger_saw:])
    assert rows == ["follower0", "follower1"]
    assert len(followers(stranger)) == 49
    await store.close()


async def test_what_another_changes_is_put_right(path: Path, stranger: sqlite3.Connection) -> None:
    """With the next report, also where nothing has changed here, and after the file was opened anew."""
    store = LocalRecords(path)
    await store.open()
    await store.report([a_mapping("anna"), a_mapping("bert")])
    stranger.execute("DELETE FROM mappings WHERE follower_id = 'anna'")
    stranger.execute("INSERT INTO mappings VALUES ('ghost', '{}')")
    await store.report([a_mapping("anna"), a_mapping("bert")])
    assert followers(stranger) == ["anna", "bert"]
    await store.close()
    stranger.execute("DELETE FROM mappings")
    await store.open()
    await store.report([a_mapping("anna"), a_mapping("bert")])
    assert followers(stranger) == ["anna", "bert"]
    await store.close()
