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
import itertools
import json
import os
import pwd
import socket
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from spreadpilot_core.ibkr.errors import AuditError
from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.system.regular_files import open_regular

FILE_NAME = "audit.jsonl"
GENESIS = "0" * 64
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
"""Bytes. No line that is written here gets so long; of one that somebody else made longer its end counts."""
_LONGEST_FACT = 512
"""Characters of one value, cut beyond: ten of them in any script, escaped, are shorter than a line may be."""
_LAST_SERIAL = 10**15
"""Beyond it a line is not ours; it fits every store's numbers."""
_MOST_FINDINGS = 20
"""Told one by one; of further ones the number."""


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
        self._lock = threading.Lock()
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
            who: who did it, as `actor` says it; this and every other value is cut to 512 characters.
            outcome: "done", or in a few words why not.
            facts: `follower`, `ref`, `version`, `source`, `detail`; and `at`, where it did not happen just now. None is
                left out. Never a secret.

        Raises:
            AuditError: it could not be written; the trail is as before.
        """
        line = _Line(_as_texts({"act": act, "outcome": outcome, **facts, "who": who}))
        with self._arriving:
            self._waiting.append(line)
        with self._lock:
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
            head, there = self._head_of(descriptor)[0], os.fstat(descriptor)
            if there.st_size == 0 and (older := self._files()[:-1]):  # the newest line is in the file before
                there = older[-1].stat()
            return Mark(head, there.st_ino, there.st_size) if head is not None else None

    def holds(self, known: Mark | AuditHead) -> bool:
        """Whether this line is still there, unaltered; of one without its place every line is looked at. Raises `AuditError`."""
        if isinstance(known, AuditHead):
            return any(_hash(raw) == known.hash for _, raw in self._lines())
        with self._readable():
            for path in self._files():
                # What is no file, in the trail's place, says nothing of its lines.
                with suppress(FileNotFoundError), open_regular(path) as file:
                    if os.fstat(file.fileno()).st_ino == known.inode:
                        return _hash(_tail(file.fileno(), known.end)[-1]) == known.head.hash
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

        Raises:
            AuditError: it can't be read.
        """
        previous: AuditHead | None = None
        findings = _Findings()
        seen_recorded = recorded is None
        lines = 0
        for place, raw in self._lines():
            lines += 1
            entry = _parsed(raw)
            findings.add(_faults(place, entry, previous))
            previous = _numbered(raw, entry, previous)
            seen_recorded = seen_recorded or previous.hash == recorded
        missing = [] if seen_recorded else [_not_in_the_chain(recorded or "")]
        return AuditVerdict(lines, previous, (*findings.sentences(), *missing))

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
        except Exception as error:  # noqa: BLE001  # whoever waits must be told, whatever it is
            self._ready_until = 0.0
            for line in lines:
                line.fate = error if isinstance(error, AuditError) else self._unwritable(repr(error))

    def _write(self, descriptor: int, lines: list[_Line]) -> None:
        head, content = self._head_of(descriptor)
        for line in lines:
            raw = line.following(head)
            content += raw + b"\n"
            line.fate = head = AuditHead(_after(head), _hash(raw))
        assert head is not None  # at least the caller's own line was there
        before = os.fstat(descriptor).st_size
        try:
            _write(descriptor, content)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
        there = os.fstat(descriptor)
        self._known = (there.st_ino, there.st_size, head)
        if there.st_size >= self._rotate_at:
            with suppress(OSError):  # the lines are written; the next one tries again
                self._rotate()

    @contextmanager
    def _exclusive(self) -> Iterator[int]:
        """The open file, while nobody else appends, here or in another process."""
        with self._lock, self._locked() as descriptor:
            yield descriptor

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The open file, while no other process appends. The caller has the turn."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _open_file(self.path.with_suffix(".lock")) as lock:
                _await_lock(lock)
                with _open_file(self.path) as descriptor:
                    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                        raise OSError(None, "it is a pipe")  # noqa: TRY301  # told as what the system itself refuses
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
        there = os.fstat(descriptor)
        if self._known is not None and self._known[:2] == (there.st_ino, there.st_size):
            return self._known[2], b""
        if there.st_size == 0:
            older = self._files()[:-1]
            if not older:
                return None, b""
            with _open_file(older[-1], os.O_RDONLY) as before:
                return _head_in(_tail(before, os.fstat(before).st_size)) or self._counted(), b""
        ended = os.pread(descriptor, 1, there.st_size - 1) == b"\n"
        return _head_in(_tail(descriptor, there.st_size)) or self._counted(), b"" if ended else b"\n"

    def _counted(self) -> AuditHead | None:
        """The newest line where none near the end is whole, found as `verify` finds it."""
        head: AuditHead | None = None
        for _, raw in self._lines():
            head = _numbered(raw, _parsed(raw), head)
        return head

    def _rotate(self) -> None:
        with self.path.open("rb") as file:
            first = _parsed(file.readline(_LONGEST_LINE).rstrip(b"\n"))
        name = f"audit-{first['serial'] if first else 0:09d}"
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        self.path.rename(next(aside for each in names if not (aside := self.path.with_name(f"{each}.jsonl")).exists()))
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(descriptor)
        os.close(descriptor)

    def _files(self) -> list[Path]:
        """Every file of the trail, oldest first; the one that is written now comes last. What is no file holds no lines."""
        folder = self.path.parent
        older = {*folder.glob("audit-*.jsonl"), *folder.glob(f"{FILE_NAME}.*")}
        return [*sorted((path for path in older if path.is_file()), key=_first_serial), self.path]

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        with self._readable():
            for path in self._files():
                if not path.exists():
                    continue
                if not path.is_file():  # a pipe would be waited for, a device never ends
                    raise IsADirectoryError(None, "it is no file")
                with path.open("rb") as file:
                    for number, raw in enumerate(_raw_lines(file), 1):
                        yield f"{path.name}, line {number}", raw

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            msg = f"The audit trail {self.path} can't be read ({error.strerror or error})."
            raise AuditError(msg) from None


@contextmanager
def _open_file(path: Path, how: int = os.O_RDWR | os.O_CREAT | os.O_APPEND) -> Iterator[int]:
    descriptor = os.open(path, how | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
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
        previous = head.hash if head else GENESIS
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"serial": _after(head), "at": at, **self._entry, "previous": previous}).encode()


def _as_texts(facts: Mapping[str, str | None]) -> dict[str, str]:
    return {name: _cut(value) for name, value in facts.items() if value is not None}


def _cut(value: str) -> str:
    return value if len(value) <= _LONGEST_FACT else f"{value[: _LONGEST_FACT - 1]}…"


def _after(head: AuditHead | None) -> int:
    """The serial of the next line. Who forged the last one there can be can't make us write one that nobody reads."""
    return min(head.serial + 1, _LAST_SERIAL) if head else 1


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw[-_LONGEST_LINE:]).hexdigest()


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Each line without its end; of one that is longer than any of ours its last bytes alone, so that none fills the memory."""
    raw = b""
    while piece := file.readline(_LONGEST_LINE):
        raw = (raw + piece)[-_LONGEST_LINE - 1 :]
        if piece.endswith(b"\n"):
            yield raw[:-1][-_LONGEST_LINE:]
            raw = b""
    if raw:
        yield raw[-_LONGEST_LINE:]


def _tail(descriptor: int, end: int) -> list[bytes]:
    """The last lines before this place, oldest first; of a longer one its last bytes, as `_raw_lines` gives them."""
    content = os.pread(descriptor, min(end, _LONGEST_LINE + 2), max(0, end - _LONGEST_LINE - 2))
    return [raw[-_LONGEST_LINE:] for raw in content.removesuffix(b"\n").split(b"\n")]


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """The line's entry, or None when it is not whole."""
    if len(raw) >= _LONGEST_LINE:
        return None
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    serial = entry.get("serial") if isinstance(entry, dict) else None
    whole = type(serial) is int and 0 < serial <= _LAST_SERIAL and isinstance(entry.get("previous"), str)
    return entry if whole else None


def _numbered(raw: bytes, entry: Mapping[str, Any] | None, previous: AuditHead | None) -> AuditHead:
    """This line's serial and hash; one that is not whole counts as the one after the line before it."""
    return AuditHead(entry["serial"] if entry else _after(previous), _hash(raw))


def _head_in(lines: Sequence[bytes]) -> AuditHead | None:
    """The last of these lines, where one of them is whole to count from."""
    for back, raw in enumerate(reversed(lines)):
        if entry := _parsed(raw):
            return AuditHead(min(entry["serial"] + back, _LAST_SERIAL), _hash(lines[-1]))
    return None


def _first_serial(path: Path) -> int:
    try:
        with path.open("rb") as file:
            entry = _parsed(file.readline(_LONGEST_LINE).rstrip(b"\n"))
    except FileNotFoundError:  # renamed just now, by who rotates
        return 0
    return entry["serial"] if entry else 0


class _Findings:
    """What `verify` found, so that a file full of rubbish is told in a few sentences."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._more = 0

    def add(self, findings: Sequence[str]) -> None:
        room = _MOST_FINDINGS - len(self._sentences)
        self._sentences += findings[:room]
        self._more += len(findings[room:])

    def sentences(self) -> list[str]:
        return [*self._sentences, f"So it goes on: {self._more} more like these."] if self._more else self._sentences


def _not_in_the_chain(recorded: str) -> str:
    return (
        f"The hash that was kept ({recorded[:12]}…) is not in the chain: "
        "the line it belongs to, or an earlier one, was removed or altered."
    )


def _faults(place: str, entry: Mapping[str, Any] | None, previous: AuditHead | None) -> list[str]:
    """What is wrong with one line, seen from the one before it."""
    if entry is None:
        return [f"{place} is not whole: it was altered, or cut short (a crash can do that to the last line)."]
    expected = previous.serial + 1 if previous else 1
    if entry["serial"] != expected:
        missing = entry["serial"] - expected
        lines = "1 line before it is" if missing == 1 else f"{missing} lines before it are"
        gone = f"{lines} gone" if missing > 0 else "lines were inserted or put in another order"
        return [f"{place} has serial {entry['serial']} instead of {expected}: {gone}."]
    if entry["previous"] != (previous.hash if previous else GENESIS):
        return [f"The line before {place} (serial {expected - 1}) was altered."]
    return [f"{place} tells of lines that were removed or altered before it."] if entry.get("act") == BROKEN else []
