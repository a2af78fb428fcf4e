"""What the host of simulated gateways keeps in its directory, and how others find it there.

    simulated-host.lock   held (flock) by the living host; the file stays, it is what makes "exactly one host" true
    simulated-host.json   process id, host id and socket of the living host; removed when it ends
    simulated-host.sock   its socket; in a directory of mode 0700 below the temporary one where the path would be too long
    simulated-host.log    only when something went wrong inside the host
    operations.jsonl      who created, started, removed what and when; append-only, kept (see `operations`)
    logins.jsonl          every login that was typed; append-only, kept (see `simulator.login_book`)
    scripts.json          written by the user, never by the host (see `script_book`)

A host that was killed leaves lock file, address and socket; the next host in the directory takes them over. Reading the
address tells where a host should be, only connecting tells whether it is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

LOG = "simulated-host.log"
OPERATIONS = "operations.jsonl"
SCRIPTS = "scripts.json"
_ADDRESS = "simulated-host.json"
_LOCK = "simulated-host.lock"
_SOCKET = "simulated-host.sock"
_ELSEWHERE = "gateway-simulator-"
_LONGEST_PATH = 103
"""Bytes that a Unix socket's path may have on every platform (Linux takes 107, macOS 103)."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a host is, or was."""

    pid: int
    host: str
    """Names this life of the host; another host in the same directory has another."""
    socket: str


def read_address(directory: Path) -> Address | None:
    """The address that the directory's host left, or None; says nothing about whether it lives."""
    address = directory / _ADDRESS
    if not address.is_file():  # a FIFO keeps its reader for ever
        return None
    try:
        found = json.loads(address.read_text())
        return Address(pid=int(found["pid"]), host=str(found["host"]), socket=str(found["socket"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


class HostFiles:
    """The files of the one living host in a directory; used by that host alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: int | None = None
        self._address: Address | None = None

    def lock(self) -> bool:
        """Become the directory's host; False when another one lives. Makes the directory (mode 0700) when missing."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def place_socket(self) -> str:
        """A path to listen on, free of what a killed host left there. Holds the lock."""
        if (left := read_address(self.directory)) is not None:
            _remove_socket(left.socket)
        place = self.directory / _SOCKET
        place.unlink(missing_ok=True)
        if len(os.fsencode(place)) <= _LONGEST_PATH:
            return str(place)
        temporary = tempfile.gettempdir()
        if len(os.fsencode(temporary)) > _LONGEST_PATH - len(_ELSEWHERE) - len(_SOCKET) - 10:
            temporary = "/tmp"  # noqa: S108  # a directory of our own is made in it, mode 0700
        return str(Path(tempfile.mkdtemp(prefix=_ELSEWHERE, dir=temporary)) / _SOCKET)

    def publish(self, address: Address) -> None:
        """Tell others where the socket is; it is listened on already."""
        self._address = address
        draft = self.directory / f"{_ADDRESS}.{address.pid}"
        draft.unlink(missing_ok=True)
        draft.write_text(json.dumps(asdict(address)))
        draft.replace(self.directory / _ADDRESS)

    def still_ours(self) -> bool:
        """False when the directory is gone or was taken over, however that came about."""
        return read_address(self.directory) == self._address

    def retract(self) -> None:
        """Remove address and socket; before the lock goes with the process."""
        if self._address is None:
            return
        if self.still_ours():
            (self.directory / _ADDRESS).unlink(missing_ok=True)
        _remove_socket(self._address.socket)


def _remove_socket(path: str) -> None:
    """Remove a socket, and the directory made for it alone; anything that isn't surely ours stays."""
    place = Path(path)
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(place.lstat().st_mode):
            return
        place.unlink()
    if place.parent.name.startswith(_ELSEWHERE) and place.name == _SOCKET:
        with contextlib.suppress(OSError):
            if place.parent.lstat().st_uid == os.getuid():
                shutil.rmtree(place.parent)
