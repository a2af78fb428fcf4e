"""Who is at the other end of a Unix socket, and who may write where it lies.

A socket is trusted only when the process behind it is root's or our own user's, and nobody else could have put it there.
Standard library only: what brings a password to a container asks here first.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from pathlib import Path

ROOT = 0
_NOBODY = -1
_LOCAL_PEERCRED = 1
"""macOS: `struct xucred`, whose second word is the user id."""


class UntrustedError(PermissionError):
    """A socket, or the place where it lies, is under somebody else's hand."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.strerror = what


def peer_of(connection: socket.socket) -> int:
    """The user id of the process that made the other end.

    Raises `BlockingIOError` where there is no other end: asyncio takes a socket for connected that a listener with too many
    waiting has turned away.
    """
    if sys.platform == "darwin":
        return int(struct.unpack_from("=II", connection.getsockopt(0, _LOCAL_PEERCRED, 128))[1])
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if (user := int(struct.unpack("3i", credentials)[1])) == _NOBODY:
        raise BlockingIOError(errno.EAGAIN, "too many connections wait there")
    return user


def is_trusted(user: int, *more: int) -> bool:
    """Whether a process of this user is believed: root's, our own, or one of `more`."""
    return user in (ROOT, os.geteuid(), *more)


def must_be_trusted(connection: socket.socket, *more: int) -> None:
    """Raise `UntrustedError` when somebody else is at the other end."""
    if not is_trusted(user := peer_of(connection), *more):
        raise UntrustedError(f"a process of the user {user} is at the other end, neither root's nor our own")


def must_be_ours(directory: Path) -> None:
    """Raise `UntrustedError` when somebody else could put something into this directory; none there: fine."""
    try:
        found = directory.stat()
    except FileNotFoundError:
        return
    if not is_trusted(found.st_uid):
        raise UntrustedError(f"{directory} belongs to the user {found.st_uid}, neither root nor us")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise UntrustedError(f"others may write to {directory} (`chmod go-w {directory}` forbids it)")
