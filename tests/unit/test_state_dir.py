"""The state directory: private, and one manager's at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import AlreadyRunningError, SettingsError
from spreadpilot_core.ibkr.state_dir import HOLDER, LOCK, make_private, own

HOLD = """
import sys, time
from pathlib import Path
from spreadpilot_core.ibkr.state_dir import own
with own(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(600)
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_with_its_parents_and_only_its_owner_gets_in(tmp_path: Path) -> None:
    """Mode 0700, also where it was there already and open to others."""
    fresh, known = tmp_path / "a" / "b", tmp_path / "known"
    known.mkdir(mode=0o755)
    for directory in (fresh, known):
        with own(directory):
            assert mode_of(directory) == 0o700


def test_a_second_owner_is_refused_with_the_name_of_the_first_and_gets_in_afterwards(tmp_path: Path) -> None:
    """Within one process too; the holder's name goes with it."""
    with own(tmp_path):
        with pytest.raises(AlreadyRunningError, match=f"process {os.getpid()}"), own(tmp_path):
            pass
        assert (tmp_path / HOLDER).exists()
    with own(tmp_path):
        pass
    assert not (tmp_path / HOLDER).exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277], ids=oct)
def test_its_files_are_the_owners_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """Also a file that was there and open to others."""
    (tmp_path / HOLDER).touch(mode=0o666)
    before = os.umask(umask)
    try:
        with own(tmp_path):
            assert {path.name: mode_of(path) for path in tmp_path.iterdir()} == {LOCK: 0o600, HOLDER: 0o600}
    finally:
        os.umask(before)


def test_a_killed_owner_owns_nothing_any_more(tmp_path: Path) -> None:
    """Whatever it left behind; and while it lives, it is named."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        with pytest.raises(AlreadyRunningError, match=f"process {process.pid}"), own(tmp_path):
            pass
        process.kill()
    assert (tmp_path / HOLDER).exists()
    with own(tmp_path):
        assert (tmp_path / HOLDER).read_text() == f"process {os.getpid()}\n"


def test_a_holder_that_can_not_be_read_is_still_refused_to(tmp_path: Path) -> None:
    """The lock decides, the name is a courtesy."""
    with own(tmp_path):
        (tmp_path / HOLDER).unlink()
        with pytest.raises(AlreadyRunningError, match="unknown"), own(tmp_path):
            pass


def test_a_name_that_can_not_be_written_keeps_nobody_out(tmp_path: Path) -> None:
    """Owning needs the lock alone."""
    (tmp_path / HOLDER).mkdir()
    with own(tmp_path), pytest.raises(AlreadyRunningError), own(tmp_path):
        pass


def test_what_is_no_directory_or_can_not_be_locked_is_a_wrong_setting(tmp_path: Path) -> None:
    """The sentence names the setting, the path and what is wrong."""
    (tmp_path / "file").write_text("")
    (tmp_path / "odd" / LOCK).mkdir(parents=True)
    for wrong in ("file", "odd"):
        with (
            pytest.raises(SettingsError, match=f"state_dir is '.*{wrong}', but must be a directory"),
            own(tmp_path / wrong),
        ):
            pass
    with pytest.raises(SettingsError, match="state_dir"):
        make_private(tmp_path / "file" / "below")
