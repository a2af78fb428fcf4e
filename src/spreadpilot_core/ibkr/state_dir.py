"""The state directory belongs to one manager at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from spreadpilot_core.ibkr.errors import AlreadyRunningError, SettingsError

LOCK = "manager.lock"
HOLDER = "manager.holder"


@contextmanager
def own(directory: Path) -> Iterator[None]:
    """Make the directory (mode 0700) and own it until the end, or until this process dies.

    Raises:
        AlreadyRunningError: names the process that owns it.
        SettingsError: it can't be made or written.

    """
    make_private(directory)
    lock = FileLock(directory / LOCK, timeout=0, thread_local=False)  # let go of on another thread
    holder = directory / HOLDER
    try:
        lock.acquire()
    except Timeout:
        with suppress(OSError):
            raise AlreadyRunningError(directory, holder.read_text().strip()) from None
        raise AlreadyRunningError(directory, "unknown") from None
    except OSError as error:
        raise _unusable(directory, f" ({LOCK}: {error.strerror})") from None
    try:
        with suppress(OSError):  # a courtesy to whoever is refused
            holder.write_text(f"process {os.getpid()}\n")
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def make_private(directory: Path) -> None:
    """Make the directory if it is missing, and let only its owner in.

    Raises:
        SettingsError: it can't be made or written.

    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(directory.stat().st_mode) & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise _unusable(directory, f" ({error.strerror})") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _unusable(directory)


def _unusable(directory: Path, why: str = "") -> SettingsError:
    return SettingsError("state_dir", str(directory), f"must be a directory that can be written{why}")
