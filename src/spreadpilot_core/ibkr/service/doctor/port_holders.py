"""Which program listens on a port, where the system tells: Linux, and of other users' processes only to root."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def holders(ports: Iterable[int]) -> dict[int, str]:
    """Port to "name (process 123)"; ports whose program can't be told are left out."""
    wanted = set(ports)
    sockets = {inode: port for port, inode in _listening() if port in wanted}
    if not sockets:
        return {}
    return {sockets[inode]: name for inode, name in _programs(set(sockets))}


def _listening() -> Iterator[tuple[int, str]]:
    for table in _TABLES:
        with suppress(OSError):
            for row in table.read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == _LISTENS:
                    yield int(fields[1].rpartition(":")[2], 16), fields[9]


def _programs(inodes: set[str]) -> Iterator[tuple[str, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            for inode in _sockets(process) & inodes:
                yield inode, f"{(process / 'comm').read_text().strip()} (process {process.name})"


def _sockets(process: Path) -> set[str]:
    found = set()
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found
