"""Reading a file that somebody else may have put there: a regular one, of a bounded size, without ever waiting.

A FIFO, a terminal or a device can keep its reader for ever, and a thread that waits in a read can't be ended: the
process would not even stop on SIGTERM. Standard library only; blocking, so off the event loop.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LONGEST = 16 * 2**20
"""Bytes; more than any file that is read whole by this project needs."""
_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """What is there is no file that can be read whole; `strerror` says what it is."""


def read_regular(path: Path, *, longest: int = LONGEST) -> bytes:
    """The content of a regular file.

    Raises:
        NotRegularError: it is a FIFO, a directory or a device, or has more than `longest` bytes.
        OSError: the system doesn't let us read it; `FileNotFoundError` when there is none.
    """
    with open_regular(path) as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise NotRegularError(errno.EFBIG, f"it has more than {longest} bytes", str(path))
    return content


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Raises as `read_regular` does, but for the length."""
    descriptor = _open(path)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            kind = next((name for fits, name in _KINDS if fits(mode)), "no regular file")
            raise NotRegularError(errno.EINVAL, f"it is {kind}, not a file", str(path))
        with os.fdopen(os.dup(descriptor), "rb") as file:
            yield file
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Its descriptor: without waiting for whoever writes to a FIFO, and without making a terminal our own."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket can't be opened at all
            raise NotRegularError(errno.EINVAL, "it is a socket, not a file", str(path)) from None
        raise
