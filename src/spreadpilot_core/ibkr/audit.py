"""The append-only trail of every secret read, delivery, local change and operator act: who, what, when, never the value.

One JSON object a line in `audit.jsonl` (mode 0600) of the state directory, each with the SHA-256 of the line before it,
so that `verify` finds a line that was altered, removed or cut. Whoever can write the file can also make the whole chain
anew: therefore the newest hash is kept in the record store too, and `verify` looks for it in the chain.

Written by couriers, manager and commands, under one file lock; a line is on disk when `append` returns, or `AuditError` is
raised and nothing was written. A full file is renamed to `audit-SERIAL.jsonl` (the serial of its first line) and the
chain goes on in a new one; the same when something else renames it to `audit.jsonl.N`. Files are never deleted here.

Standard library only, since the courier loads it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.errors import AuditError
from spreadpilot_core.ibkr.records import AuditHead

FILE_NAME = "audit.jsonl"
BEGINNING = "0" * 64
"""What the first line has for the hash of the line before it."""
BROKEN = "broken"
"""What the manager writes when a line that it knew is gone, so that later lines can't hide that."""
ROTATE_AT = 16 * 2**20
"""Bytes after which a new file is begun: some 50,000 lines."""
SPARE = 2**20
"""Bytes that must be free on the disk before a secret is read, so that what follows can be written down."""
_READY_FOR = 1.0
"""Seconds for which a disk that had room is not asked again; a write that fails ends them."""
_LOCK_PATIENCE = 10.0
_LONGEST_LINE = 2**16


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What `verify` found."""

    lines: int
    head: AuditHead | None
    findings: tuple[str, ...]
    """One sentence for each trouble; empty when the trail is whole."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest line at one moment, and where it ends: enough to see at once whether it is still there."""

    head: AuditHead
    inode: int
    end: int


class AuditTrail:
    """The trail of one state directory. Safe to use from threads and processes at once; blocks while it writes."""

    def __init__(self, directory: Path, *, rotate_at: int = ROTATE_AT) -> None:
        self.path = directory / FILE_NAME
        self._rotate_at = rotate_at
        self._turn = threading.Lock()
        self._arriving = threading.Lock()
        self._waiting: list[_Line] = []
        self._ready_until = 0.0
        self._known: tuple[int, int, AuditHead] | None = None
        """Inode, size and head as this process left the file, to spare the next append from reading it."""

    def ready(self) -> None:
        """Make sure that a line can be written now.

        Raises:
            AuditError: it can't; nothing may be done that must be audited.
        """
        if time.monotonic() < self._ready_until:
            return
        with self._exclusive() as descriptor:
            disk = os.fstatvfs(descriptor)
            if disk.f_bavail * disk.f_frsize < SPARE:
                raise self._unwritable(f"less than {SPARE // 1024} KiB are free on its disk")
        self._ready_until = time.monotonic() + _READY_FOR

    def append(self, act: str, *, who: str, outcome: str = "done", **facts: str | None) -> AuditHead:
        """Write one line; it is durable when this returns.

        Args:
            act: what was done: "read", "fallback", "deliver", "set", "remove", "retry-login", …
            who: who did it, as `actor` says it.
            outcome: "done", or in a few words why not.
            facts: `follower`, `ref`, `version`, `source`, `detail`; and `at`, where it did not happen just now. None is
                left out. Never a secret.

        Raises:
            AuditError: it could not be written; the trail is as before.
        """
        line = _Line({"act": act, "outcome": outcome, **_told(facts), "who": who})
        with self._arriving:
            self._waiting.append(line)
        with self._turn:
            if line.fate is None:  # whoever comes first writes for all who wait
                self._write_waiting()
        if isinstance(line.fate, AuditError):
            raise line.fate
        assert line.fate is not None  # every line that waited has met its fate
        return line.fate

    def head(self) -> AuditHead | None:
        """The newest line, or None when there is none.

        Raises:
            AuditError: the trail can't be read.
        """
        with self._exclusive() as descriptor:
            return self._head_of(descriptor)[0]

    def mark(self) -> Mark | None:
        """The newest line and its place, or None when there is none. Raises `AuditError`."""
        with self._exclusive() as descriptor:
            head, stat = self._head_of(descriptor)[0], os.fstat(descriptor)
            if stat.st_size == 0 and head is not None:
                stat = self._files()[-2].stat()
            return Mark(head, stat.st_ino, stat.st_size) if head is not None else None

    def holds(self, known: Mark | AuditHead) -> bool:
        """Whether this line is still there, unaltered; of one without its place every line is looked at."""
        if isinstance(known, AuditHead):
            return any(_hash(raw) == known.hash for _, raw in self._lines())
        for path in self._files():
            with suppress(FileNotFoundError), path.open("rb") as file:
                if os.fstat(file.fileno()).st_ino == known.inode:
                    content = os.pread(file.fileno(), min(known.end, _LONGEST_LINE), max(0, known.end - _LONGEST_LINE))
                    return _hash(content.removesuffix(b"\n").rpartition(b"\n")[2]) == known.head.hash
        return False

    def entries(self) -> Iterator[dict[str, Any]]:
        """All lines that can be read, oldest first."""
        for _, raw in self._lines():
            if (entry := _parsed(raw)) is not None:
                yield entry

    def verify(self, recorded: str | None = None) -> AuditVerdict:
        """Go through the whole chain.

        Args:
            recorded: the hash that the record store kept; it must be in the chain, and lines after it are fine.
        """
        previous: AuditHead | None = None
        findings: list[str] = []
        seen_recorded = recorded is None
        lines = 0
        for place, raw in self._lines():
            lines += 1
            findings += _faults(place, raw, previous)
            entry = _parsed(raw)
            serial = entry["serial"] if entry else (previous.serial + 1 if previous else 1)
            previous = AuditHead(serial, _hash(raw))
            seen_recorded = seen_recorded or previous.hash == recorded
        if not seen_recorded:
            findings.append(
                f"The hash that was kept ({(recorded or '')[:12]}…) is not in the chain: "
                "the line it belongs to, or an earlier one, was removed or altered."
            )
        return AuditVerdict(lines, previous, tuple(findings))

    @property
    def name(self) -> str:
        """What the record store calls this trail: host and path, since managers on several hosts may share a store."""
        return f"{socket.gethostname()}:{self.path.absolute()}"

    # ------------------------------------------------------------------ inside

    def _write_waiting(self) -> None:
        """Write every line that waits, with one flush to the disk for all. The caller has the turn."""
        with self._arriving:
            lines, self._waiting = self._waiting, []
        try:
            with self._locked() as descriptor:
                self._write(descriptor, lines)
        except AuditError as error:
            self._ready_until = 0.0
            for line in lines:
                line.fate = error

    def _write(self, descriptor: int, lines: list[_Line]) -> None:
        head, content = self._head_of(descriptor)
        for line in lines:
            raw = line.following(head)
            content += raw + b"\n"
            line.fate = head = AuditHead((head.serial if head else 0) + 1, _hash(raw))
        assert head is not None  # at least the caller's own line was there
        before = os.fstat(descriptor).st_size
        try:
            _write(descriptor, content)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
        stat = os.fstat(descriptor)
        self._known = (stat.st_ino, stat.st_size, head)
        if stat.st_size >= self._rotate_at:
            with suppress(OSError):  # the lines are written; the next one tries again
                self._rotate()

    @contextmanager
    def _exclusive(self) -> Iterator[int]:
        """The open file, while nobody else appends, here or in another process."""
        with self._turn, self._locked() as descriptor:
            yield descriptor

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The open file, while no other process appends. The caller has the turn."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _opened(self.path.with_suffix(".lock")) as lock:
                _await_lock(lock)
                with _opened(self.path) as descriptor:
                    yield descriptor
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from None

    def _unwritable(self, why: str) -> AuditError:
        return AuditError(
            f"The audit trail {self.path} can't be written: {why}.",
            hint="No secret is read until it can be.",
        )

    def _head_of(self, descriptor: int) -> tuple[AuditHead | None, bytes]:
        """The newest line, and what must be written before the next one (a line break after a line that was cut)."""
        stat = os.fstat(descriptor)
        if self._known is not None and self._known[:2] == (stat.st_ino, stat.st_size):
            return self._known[2], b""
        if stat.st_size == 0:
            older = self._files()[:-1]
            return (_head_in(older[-1].read_bytes()) if older else None), b""
        content = os.pread(descriptor, _LONGEST_LINE, max(0, stat.st_size - _LONGEST_LINE))
        return _head_in(content), b"" if content.endswith(b"\n") else b"\n"

    def _rotate(self) -> None:
        with self.path.open("rb") as file:
            first = _parsed(file.readline().rstrip(b"\n"))
        self.path.rename(self.path.with_name(f"audit-{first['serial'] if first else 0:09d}.jsonl"))
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(descriptor)
        os.close(descriptor)

    def _files(self) -> list[Path]:
        """Every file of the trail, oldest first; the one that is written now comes last."""
        folder = self.path.parent
        older = {*folder.glob("audit-*.jsonl"), *folder.glob(f"{FILE_NAME}.*")}
        return [*sorted(older, key=_first_serial), self.path]

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        try:
            for path in self._files():
                if path.exists():
                    with path.open("rb") as file:
                        for number, raw in enumerate(file, 1):
                            yield f"{path.name}, line {number}", raw.removesuffix(b"\n")
        except OSError as error:
            msg = f"The audit trail {self.path} can't be read ({error.strerror})."
            raise AuditError(msg) from None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _await_lock(descriptor: int) -> None:
    """Hold the file's lock until it is closed. (`flock` itself: some 3 µs, where filelock takes 100 for each read.)"""
    until = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError(None, f"another program has held its lock for {_LOCK_PATIENCE:.0f} s") from None
            time.sleep(0.002)
        else:
            return


def actor(program: str) -> str:
    """Who acts: the program, the user it runs as (and who called sudo), host and process."""
    user = _user_name(os.getuid())
    behind = os.environ.get("SUDO_USER")
    return f"{program}, {f'{behind} as {user}' if behind else user} on {socket.gethostname()}, process {os.getpid()}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class _Line:
    """A line on its way into the trail, and what became of it."""

    def __init__(self, entry: Mapping[str, str]) -> None:
        self._entry = entry
        self.fate: AuditHead | AuditError | None = None

    def following(self, head: AuditHead | None) -> bytes:
        """The line as it stands behind `head`."""
        serial, previous = (head.serial + 1, head.hash) if head else (1, BEGINNING)
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"serial": serial, "at": at, **self._entry, "previous": previous}).encode()


def _told(facts: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in facts.items() if value is not None}


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """The line's entry, or None when it is not whole."""
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("serial"), int) and isinstance(entry.get("previous"), str)
    return entry if whole else None


def _head_in(content: bytes) -> AuditHead | None:
    """The last line of `content`; one that is not whole counts as the one after the last that is."""
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    for back, raw in enumerate(reversed(lines)):
        if entry := _parsed(raw):
            return AuditHead(entry["serial"] + back, _hash(lines[-1]))
    return AuditHead(len(lines), _hash(lines[-1])) if lines else None


def _first_serial(path: Path) -> int:
    with path.open("rb") as file:
        entry = _parsed(file.readline().rstrip(b"\n"))
    return entry["serial"] if entry else 0


def _faults(place: str, raw: bytes, previous: AuditHead | None) -> list[str]:
    """What is wrong with one line, seen from the one before it."""
    entry = _parsed(raw)
    if entry is None:
        return [f"{place} is not whole: it was altered, or cut short (a crash can do that to the last line)."]
    expected = previous.serial + 1 if previous else 1
    if entry["serial"] != expected:
        missing = entry["serial"] - expected
        lines = "1 line before it is" if missing == 1 else f"{missing} lines before it are"
        gone = f"{lines} gone" if missing > 0 else "lines were inserted or put in another order"
        return [f"{place} has serial {entry['serial']} instead of {expected}: {gone}."]
    if entry["previous"] != (previous.hash if previous else BEGINNING):
        return [f"The line before {place} (serial {expected - 1}) was altered."]
    return [f"{place} tells of lines that were removed or altered before it."] if entry.get("act") == BROKEN else []
