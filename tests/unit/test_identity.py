"""A manager's identity: made once, kept beside the store, shown while it lives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.records import NOBODY, Identities
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.runtimes.identity import NOTE, SignOfLife, living, new_identities, read_note, write_note
from spreadpilot_core.ibkr.settings import Settings

SHOWS_LIFE = """
import sys
from spreadpilot_core.ibkr.runtimes.identity import SignOfLife
from spreadpilot_core.ibkr.model.records import Identities
sign = SignOfLife()
sign.show(Identities(sys.argv[1], tuple(sys.argv[2:])))
print("shown", flush=True)
sys.stdin.read()
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a manager's sign of life needs Linux")


def settings(directory: Path, **more: object) -> Settings:
    return Settings.read(**{"state_dir": directory, "store_url": "local:", **more})


def test_two_managers_never_make_the_same_identity() -> None:
    """Nothing but chance tells them apart."""
    assert len({new_identities().own for _ in range(100)}) == 100


def test_the_note_is_kept_for_each_store_apart(tmp_path: Path) -> None:
    """One state directory may serve several stores in turn; what each was told comes back, private to its owner."""
    here, mongo = settings(tmp_path), settings(tmp_path, store_url="mongodb:", mongo_uri="mongodb://h/")
    other = settings(tmp_path, store_url="mongodb:", mongo_uri="mongodb://h/", mongo_db_name="other")
    assert read_note(here) is None
    write_note(here, Identities("one", ("adopted",)))
    write_note(mongo, Identities("two"))
    assert read_note(here) == Identities("one", ("adopted",))
    assert read_note(mongo) == Identities("two")
    assert read_note(other) is None
    assert (tmp_path / NOTE).stat().st_mode & 0o777 == 0o600


def test_the_note_moves_with_its_directory(tmp_path: Path) -> None:
    """Another host, another path: the same manager."""
    (tmp_path / "old").mkdir()
    write_note(settings(tmp_path / "old"), Identities("one"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert read_note(settings(tmp_path / "new")) == Identities("one")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"local:": 1}', '{"local:": []}', '{"local:": [1]}', '{"local:": ["a b"]}', "[" * 9999],
)
def test_a_note_that_makes_no_sense_says_nothing(tmp_path: Path, text: str) -> None:
    """The store decides then; nothing of it becomes a label."""
    (tmp_path / NOTE).write_text(text)
    assert read_note(settings(tmp_path)) is None


@linux
def test_a_manager_shows_life_until_its_process_ends_however_that_happens() -> None:
    """Each identity that it takes for its own is seen by others, and never its own sign by itself."""
    own, adopted = new_identities().own, new_identities().own
    assert living([own, adopted]) == []
    command = [sys.executable, "-c", SHOWS_LIFE, own, adopted]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"shown\n"
        assert {(sign.own, sign.pid) for sign in living([adopted])} == {(own, other.pid)}
        mine = SignOfLife()
        mine.show(Identities(own))
        assert {sign.pid for sign in living([own], but=mine)} == {other.pid}
        assert {sign.pid for sign in living([own])} == {other.pid, os.getpid()}
        other.kill()
        other.wait()
    assert living([own, adopted], but=mine) == []
    mine.close()
    assert living([own, adopted]) == []


def test_nobody_owns_nothing() -> None:
    """While the identity is not known, a container without one is not taken for ours."""
    assert "" not in NOBODY
    assert NOBODY.all == ()


def test_one_user_has_one_digest_however_the_name_is_written() -> None:
    """Case and width are nothing to IBKR, and the name can't be read from it."""
    assert user_digest("Trader1") == user_digest("\uff54rader1") != user_digest("trader2")
    assert "trader" not in user_digest("trader1")
