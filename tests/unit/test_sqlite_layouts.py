"""A file that an older version has laid out is brought up to date as it is opened, with all that is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import HistoryQuery
from spreadpilot_core.ibkr.store.local.records import FILE_NAME, LocalRecords
from spreadpilot_core.ibkr.store.sqlite_file import SqliteFile
from support.stores import a_record, an_entry, noon


async def test_records_of_the_first_layout_keep_their_history(tmp_path: Path) -> None:
    """Its entries are found by follower, also beside one that is damaged, and records are read as before."""
    path = tmp_path / FILE_NAME
    new = LocalRecords(path, clock=noon)
    await new.open()
    await new.save(a_record())
    await new.append_history([an_entry(1), an_entry(2)])
    await new.close()
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("DROP INDEX history_by_follower")
        old.execute("ALTER TABLE history DROP COLUMN follower_id")
        old.execute("INSERT INTO history (id, at, document) VALUES ('x', '2026-03-02', '{')")
        old.execute("PRAGMA user_version=1")

    again = LocalRecords(path, clock=noon)
    await again.open()
    page = await again.read_history(HistoryQuery(follower_id=FollowerId("anna")))
    assert [each.sentence for each in page.entries] == ["Sentence 2.", "Sentence 1."]
    assert list((await again.load()).usable) == ["anna"]
    await again.close()


async def test_a_layout_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """A newer version wrote it: nothing is changed."""
    path = tmp_path / "some.sqlite3"
    newer = SqliteFile(path, layouts=["CREATE TABLE one (x)", "CREATE TABLE two (x)"], cure="")
    await newer.open()
    await newer.close()
    older = SqliteFile(path, layouts=["CREATE TABLE one (x)"], cure="")
    with pytest.raises(StoreDamagedError, match=r"layout 2, known 1"):
        await older.open()
    await older.close()
