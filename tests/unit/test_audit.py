from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.audit.trail import GENESIS, AuditTrail, actor
from spreadpilot_core.ibkr.errors import AuditError

ROOT = Path(__file__).parents[2]


def fill(trail: AuditTrail, lines: int = 5) -> list[str]:
    return [trail.append("read", who="tester", follower=f"f{n}", ref="ibkr/f").hash for n in range(lines)]


def rewritten(trail: AuditTrail, change: Callable[[list[bytes]], list[bytes]]) -> None:
    trail.path.write_bytes(b"".join(change(trail.path.read_bytes().splitlines(keepends=True))))


def test_every_act_is_in_the_table_of_the_docs() -> None:
    """Who reads the trail finds what each line means."""
    told = (ROOT / "docs/audit.md").read_text()
    calls = (
        node
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )
    writing = re.compile(r"(auditor|trail)\.(write|note|append)$|\.audit_operator$|self\._note$|^write$")
    acts = {
        call.args[0].value
        for call in calls
        if writing.search(ast.unparse(call.func)) and call.args and isinstance(call.args[0], ast.Constant)
    }
    assert {"deliver", "stop", "confirm-live", "take-over"} <= acts
    assert {act for act in acts if f"`{act}`" not in told} == set()


def test_a_line_says_who_what_when_and_how_it_ended(tmp_path: Path) -> None:
    """Each line is one JSON object with its facts; what is None is left out; the file is its owner's alone."""
    trail = AuditTrail(tmp_path)
    trail.append("read", who="tester", outcome="denied", follower="f1", ref="ibkr/f1", version=None)
    [entry] = trail.entries()
    assert entry.pop("at").endswith("+00:00")
    assert entry == {
        "serial": 1,
        "act": "read",
        "outcome": "denied",
        "follower": "f1",
        "ref": "ibkr/f1",
        "who": "tester",
        "previous": GENESIS,
    }
    assert stat.S_IMODE(trail.path.stat().st_mode) == 0o600


def test_a_whole_trail_verifies(tmp_path: Path) -> None:
    """An untouched chain has no findings, over a new process's append, and with any of its hashes recorded."""
    hashes = fill(AuditTrail(tmp_path))
    trail = AuditTrail(tmp_path)
    hashes += fill(trail)
    for recorded in (None, *hashes):
        verdict = trail.verify(recorded)
        assert verdict.is_whole
        assert verdict.lines == 10
    assert trail.head() == verdict.head
    assert verdict.head is not None
    assert verdict.head.hash == hashes[-1]


def test_an_empty_trail(tmp_path: Path) -> None:
    """Nothing written is whole, unless the record store knows of a line."""
    assert AuditTrail(tmp_path).verify().is_whole
    assert AuditTrail(tmp_path).head() is None
    [finding] = AuditTrail(tmp_path).verify("ab" * 32).findings
    assert "not in the chain" in finding


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (
            lambda lines: [*lines[:2], lines[2].replace(b'"f2"', b'"f9"'), *lines[3:]],
            r"before audit.jsonl, line 4 .* altered",
        ),
        (lambda lines: [*lines[:2], *lines[3:]], r"line 3 has serial 4 instead of 3: 1 line before it is gone"),
        (lambda lines: lines[1:], r"line 1 has serial 2"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], r"line 3 has serial 2"),
        (lambda lines: [*lines[:2], lines[2][:30] + b"\n", *lines[3:]], r"line 3 is not whole"),
        (lambda lines: [*lines[:4], lines[4][:30]], r"line 5 is not whole"),
        (lambda lines: [*lines, b"{}\n"], r"line 6 is not whole"),
    ],
)
def test_damage_in_the_chain_is_found(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]], finding: str
) -> None:
    """An altered, removed, reordered, inserted or cut line is found by the chain alone, with its place."""
    trail = AuditTrail(tmp_path)
    fill(trail)
    rewritten(trail, damage)
    assert any(re.search(finding, found) for found in trail.verify().findings)


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines[:-1], lines[-1].replace(b'"f4"', b'"f9"')],
        lambda _: [],
    ],
)
def test_damage_to_the_end_is_found_by_the_recorded_hash(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]]
) -> None:
    """What the chain can't show (its end removed or altered, even with new lines after it), the recorded hash does."""
    trail = AuditTrail(tmp_path)
    recorded = fill(trail)[-1]
    rewritten(trail, damage)
    assert trail.verify().is_whole
    assert not trail.verify(recorded).is_whole
    fill(AuditTrail(tmp_path))
    assert AuditTrail(tmp_path).verify().is_whole
    assert not AuditTrail(tmp_path).verify(recorded).is_whole


def test_a_line_cut_by_a_crash_stays_to_be_seen(tmp_path: Path) -> None:
    """The next line goes on behind a line that was cut, the cut one is found, and nothing else is."""
    trail = AuditTrail(tmp_path)
    fill(trail)
    trail.path.write_bytes(trail.path.read_bytes()[:-20])
    fill(AuditTrail(tmp_path), 2)
    [finding] = trail.verify().findings
    assert "line 5 is not whole" in finding
    assert [entry["serial"] for entry in trail.entries()] == [1, 2, 3, 4, 6, 7]


def test_rotation_keeps_the_chain(tmp_path: Path) -> None:
    """Full files are put aside and the chain goes on; a missing one of them is found."""
    trail = AuditTrail(tmp_path, rotate_at=600)
    recorded = fill(trail, 10)[3]
    aside = sorted(tmp_path.glob("audit-*.jsonl"))
    assert len(aside) > 2
    assert trail.verify(recorded).is_whole
    assert trail.verify(recorded).lines == 10
    assert [entry["serial"] for entry in trail.entries()] == list(range(1, 11))
    aside[1].unlink()
    assert "lines before it are gone" in trail.verify().findings[0]


def test_rotation_by_somebody_else_keeps_the_chain(tmp_path: Path) -> None:
    """A file that a log rotator renamed is found, and the next line follows its last one."""
    trail = AuditTrail(tmp_path)
    fill(trail)
    trail.path.rename(tmp_path / "audit.jsonl.1")
    fill(trail)
    trail.path.rename(tmp_path / "audit.jsonl.2")
    fill(AuditTrail(tmp_path))
    assert trail.verify().is_whole
    assert trail.verify().lines == 15


def test_many_processes_append_to_one_chain(tmp_path: Path) -> None:
    """Processes and threads that append at once wait for each other; every line is there once, in a whole chain."""
    program = (
        "import sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path\n"
        "from spreadpilot_core.ibkr.audit.trail import AuditTrail\n"
        "trail = AuditTrail(Path(sys.argv[1]), rotate_at=3000)\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    list(pool.map(lambda n: trail.append('read', who=sys.argv[2], ref=str(n)), range(20)))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(n)]) for n in range(4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    verdict = AuditTrail(tmp_path).verify()
    assert verdict.findings == ()
    assert len({(entry["who"], entry["ref"]) for entry in AuditTrail(tmp_path).entries()}) == verdict.lines == 80


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    """A write that the disk refuses is an error that says so, and asks for no secret to be read."""
    (tmp_path / "audit.jsonl").symlink_to("/dev/full")
    with pytest.raises(AuditError, match=r"No space left on device.*No secret is read"):
        AuditTrail(tmp_path).append("read", who="tester")


def test_half_a_write_is_taken_back(tmp_path: Path) -> None:
    """When only a part of a line fits, the trail is left as it was, and whole."""
    trail = AuditTrail(tmp_path)
    fill(trail)
    before = trail.path.read_bytes()
    limit = len(before) + 50
    program = (
        "import resource, sys; from pathlib import Path; from spreadpilot_core.ibkr.audit.trail import AuditTrail\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "AuditTrail(Path(sys.argv[1])).append('read', who='tester')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "AuditError" in done.stderr
    assert "File too large" in done.stderr
    assert trail.path.read_bytes() == before
    assert trail.verify().is_whole


def test_a_disk_nearly_full_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read, room for what must be written down is asked for."""
    AuditTrail(tmp_path).ready()
    real = os.fstatvfs(0)
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result((*real[:4], 3, *real[5:])))
    with pytest.raises(AuditError, match="less than 1024 KiB are free"):
        AuditTrail(tmp_path).ready()


def test_readiness_that_was_seen_ends_with_a_failed_write(tmp_path: Path) -> None:
    """A disk that had room a moment ago is not asked again, until a write on it fails."""
    trail = AuditTrail(tmp_path)
    trail.ready()
    trail.path.unlink()
    trail.path.mkdir()
    trail.ready()
    with pytest.raises(AuditError):
        trail.append("read", who="tester")
    with pytest.raises(AuditError):
        trail.ready()


def test_lines_that_arrive_together_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst of lines waits for few flushes of the disk, and fails together when the disk fails."""
    trail = AuditTrail(tmp_path)
    flushed = []

    def slow(descriptor: int) -> None:
        flushed.append(descriptor)
        threading.Event().wait(0.05)

    monkeypatch.setattr(os, "fsync", slow)
    with ThreadPoolExecutor(50) as pool:
        heads = list(pool.map(lambda number: trail.append("read", who=str(number)), range(50)))
    assert len(flushed) < 25
    assert sorted(head.serial for head in heads) == list(range(1, 51))
    assert trail.verify().is_whole


def test_a_lock_that_is_never_let_go_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program that holds the lock for too long is an error, not a wait for ever."""
    monkeypatch.setattr("spreadpilot_core.ibkr.audit.trail._LOCK_PATIENCE", 0.1)
    with (tmp_path / "audit.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(AuditError, match="another program has held its lock"):
            AuditTrail(tmp_path).append("read", who="tester")
    AuditTrail(tmp_path).append("read", who="tester")


def test_a_trail_that_cannot_be_read(tmp_path: Path) -> None:
    """What can't be read can't be verified, and says so."""
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(AuditError, match="can't be read"):
        AuditTrail(tmp_path).verify()


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    """A trail that can't be opened is an error with the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match=r"can't be written: (File exists|Not a directory)"):
        AuditTrail(tmp_path / "file").ready()


def test_the_actor_names_program_user_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever acts is told with the person behind sudo, where there is one."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert actor("manager").startswith("manager, ")
    assert actor("manager").endswith(f"process {os.getpid()}")
    monkeypatch.setenv("SUDO_USER", "alice")
    assert actor("command").startswith("command, alice as ")


def test_lines_stay_json_whatever_they_hold(tmp_path: Path) -> None:
    """A follower id with line breaks or quotes stays one line."""
    trail = AuditTrail(tmp_path)
    trail.append("read", who="tester", follower='a\n"b"\u2028')
    assert json.loads(trail.path.read_text())["follower"] == 'a\n"b"\u2028'
    assert trail.verify().is_whole


# ---------------------------------------------------------------------------------------------- what others put beside it


def odd_entry(directory: Path, kind: str) -> None:
    """Something that is named like a file of the trail."""
    place = directory / "audit.jsonl.x"
    match kind:
        case "directory":
            place.mkdir()
        case "pipe":
            os.mkfifo(place)
        case "link to nowhere":
            place.symlink_to(directory / "nothing")
        case "link to a device":
            place.symlink_to("/dev/zero")
        case "link to itself":
            place.symlink_to(place)


@pytest.mark.parametrize("kind", ["directory", "pipe", "link to nowhere", "link to a device", "link to itself"])
def test_what_only_bears_a_name_of_the_trail_changes_nothing(tmp_path: Path, kind: str) -> None:
    """Append, head, mark, holds and verify go on as if it were not there."""
    trail = AuditTrail(tmp_path, rotate_at=600)
    recorded = fill(trail)[-1]
    mark = trail.mark()
    odd_entry(tmp_path, kind)
    for fresh in (trail, AuditTrail(tmp_path)):
        fill(fresh)
        assert fresh.mark() is not None
        assert mark is not None
        assert fresh.holds(mark)
    verdict = AuditTrail(tmp_path).verify(recorded)
    assert verdict.findings == ()
    assert verdict.lines == 15


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_a_trail_that_is_no_file_is_an_error_at_every_door(tmp_path: Path, kind: str) -> None:
    """Nothing hangs and nothing but `AuditError` comes out, whatever is asked."""
    trail = AuditTrail(tmp_path)
    fill(trail)
    mark = trail.mark()
    assert mark is not None
    trail.path.unlink()
    trail.path.mkdir() if kind == "directory" else os.mkfifo(trail.path)
    for ask in (trail.verify, trail.head, trail.mark, lambda: list(trail.entries()), lambda: fill(trail)):
        with pytest.raises(AuditError):
            ask()
    with pytest.raises(AuditError):
        trail.holds(mark.head)


def test_too_many_open_files_is_an_error_at_every_door(tmp_path: Path) -> None:
    """Without a free descriptor each call raises `AuditError`, and with one again the chain goes on whole."""
    fill(AuditTrail(tmp_path))
    program = (
        "import os, sys; from pathlib import Path\n"
        "from spreadpilot_core.ibkr.audit.trail import AuditTrail, AuditError\n"
        "trail, held = AuditTrail(Path(sys.argv[1])), []\n"
        "mark = trail.mark()\n"
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "try:\n"
        "    while True: held.append(os.dup(0))\n"
        "except OSError: pass\n"
        "refused = 0\n"
        "for spare in (0, 1):\n"
        "    for ask in (trail.mark, trail.head, trail.verify, lambda: trail.holds(mark), lambda: trail.holds(mark.head),\n"
        "                lambda: trail.append('read', who='tester')):\n"
        "        try: ask()\n"
        "        except AuditError: refused += 1\n"
        "    os.close(held.pop())\n"
        "for descriptor in held: os.close(descriptor)\n"
        "trail.append('read', who='tester')\n"
        "print(refused, trail.verify(mark.head.hash).is_whole)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    refused, whole = done.stdout.split()
    assert int(refused) >= 6
    assert whole == "True"


FORGED = {"at": "", "act": "read", "outcome": "done", "who": "nobody", "previous": "0" * 64}


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"serial": 10**30, **FORGED}),
        json.dumps({"serial": 10**15, **FORGED}),
        json.dumps({"serial": -1, **FORGED}),
        json.dumps({"serial": True, **FORGED}),
        json.dumps({"serial": 1.5, **FORGED}),
        '{"serial": ' + "9" * 5000 + ', "previous": ""}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "x" * 200_000,
        "\\ud800",
        "",
        "null",
        "\x00" * 70_000,
    ],
)
def test_a_line_that_somebody_appended_is_found_and_stops_nothing(tmp_path: Path, line: str) -> None:
    """Whatever it says, the chain goes on behind it in numbers that a store takes, and `verify` names it for ever."""
    recorded = fill(AuditTrail(tmp_path))[-1]
    for _ in range(2):
        with (tmp_path / "audit.jsonl").open("a") as file:
            file.write(f"{line}\n")
        trail = AuditTrail(tmp_path)
        heads = [trail.append("read", who="tester") for _ in range(2)]
        assert [head.serial for head in heads] == sorted(head.serial for head in heads)
        assert 5 < heads[-1].serial < 2**63
        assert AuditTrail(tmp_path).head() == heads[-1]
        mark = trail.mark()
        assert mark is not None
        assert trail.holds(mark)
        assert trail.holds(mark.head)
        verdict = AuditTrail(tmp_path).verify(recorded)
        assert not verdict.is_whole
        assert verdict.head == heads[-1]
        assert not any("not in the chain" in each for each in verdict.findings)
    assert len(list(trail.entries())) >= 9


def test_rubbish_is_told_in_a_few_sentences(tmp_path: Path) -> None:
    """A file of a hundred thousand lines that are none of ours is no page of findings."""
    fill(AuditTrail(tmp_path))
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b"x\n" * 100_000)
    verdict = AuditTrail(tmp_path).verify()
    assert len(verdict.findings) == 21
    assert "99980 more" in verdict.findings[-1]


@pytest.mark.parametrize("letter", ["a", "\N{SNAKE}", '"', "\x00"])
def test_a_value_of_any_length_makes_a_line_that_is_read(tmp_path: Path, letter: str) -> None:
    """What is long is cut, in whatever script, so that the trail stays whole and every reader takes the line."""
    trail = AuditTrail(tmp_path)
    long = letter * 1_500_000
    fill(trail)
    head = trail.append(long, who=long, outcome=long, follower=long, ref=long, version=long, source=long, detail=long)
    fill(trail)
    assert trail.verify(head.hash).findings == ()
    assert len(list(AuditTrail(tmp_path).entries())) == 11
    assert all(len(value) <= 512 for value in list(trail.entries())[5].values() if isinstance(value, str))


def test_a_file_put_aside_is_never_written_over(tmp_path: Path) -> None:
    """Files whose first lines were spoiled get names of their own, and what is in the way of one stays."""
    trail = AuditTrail(tmp_path, rotate_at=600)
    for _ in range(3):
        trail.path.write_bytes(b"spoiled\n" + (trail.path.read_bytes() if trail.path.exists() else b""))
        fill(AuditTrail(tmp_path, rotate_at=600), 3)
    kept = sum(path.read_bytes().count(b"spoiled") for path in tmp_path.glob("audit*.jsonl"))
    assert kept == 3
