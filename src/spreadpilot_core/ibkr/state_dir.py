"""The state directory belongs to one manager at a time, and whoever asks can learn which."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from spreadpilot_core.ibkr.errors import AlreadyRunningError, SettingsError
from spreadpilot_core.ibkr.system.regular_files import read_regular
from spreadpilot_core.ibkr.system.users import by_user
from spreadpilot_core.ibkr.system.whole_files import write_whole

LOCK = "manager.lock"
HOLDER = "manager.holder"
PRIVATE = 0o600
"""The mode of every file in the directory, whatever the umask."""
_PATIENCE = 0.5
"""Seconds to wait for whoever only looks, which takes microseconds; a manager keeps the lock for its life."""
_WITHOUT_SOCKET = "without control socket"


@dataclass(frozen=True, slots=True)
class Holder:
    """The living manager that owns a state directory."""

    pid: int | None
    """None: it has not written its name yet."""
    serves: bool
    """Whether it means to serve the control socket."""


@contextmanager
def own(directory: Path, *, serves: bool = True) -> Iterator[None]:
    """Make the directory (mode 0700) and own it until the end, or until this process dies.

    `serves` tells whoever asks whether to expect a control socket.

    Raises:
        AlreadyRunningError: names the process that owns it.
        SettingsError: it can't be made or written.

    """
    make_private(directory)
    lock = FileLock(
        directory / LOCK, timeout=_PATIENCE, thread_local=False, mode=PRIVATE
    )  # let go of on another thread
    holder = directory / HOLDER
    try:
        lock.acquire()
    except Timeout:
        with suppress(OSError):
            raise AlreadyRunningError(directory, read_regular(holder).decode().strip()) from None
        raise AlreadyRunningError(directory, "unknown") from None
    except OSError as error:
        raise _unusable(directory, f" ({LOCK}: {error.strerror})") from None
    try:
        with suppress(OSError):  # a courtesy to whoever is refused
            write_whole(holder, f"process {os.getpid()}{'' if serves else f' {_WITHOUT_SOCKET}'}\n".encode())
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def holder_of(directory: Path) -> Holder | None:
    """Who owns the directory; None when nobody does, whatever a dead manager's note says.

    The lock is believed, and the note only of a process that lives.
    """
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _noted(directory / HOLDER)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _noted(note: Path) -> Holder:
    try:
        text = read_regular(note).decode()
        pid = int(text.split()[1])
        with suppress(PermissionError):  # it lives, and is another user's
            os.kill(pid, 0)
    except (OSError, ValueError, IndexError, OverflowError):
        return Holder(None, serves=True)
    return Holder(pid, serves=_WITHOUT_SOCKET not in text)


def make_private(directory: Path) -> None:
    """Make the directory if it is missing, and let only its owner in.

    Raises:
        SettingsError: it can't be made or written, or belongs to another user.

    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
        if found.st_uid != os.geteuid():  # also for root, whom everything obeys: what is in there is not root's word
            raise SettingsError(
                "state_dir",
                str(directory),
                f"it belongs to the user {found.st_uid}, so that user must run this ({by_user(found.st_uid)}), or it must be"
                " another directory",
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise _unusable(directory, f" ({error.strerror})") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _unusable(directory)


def _unusable(directory: Path, why: str = "") -> SettingsError:
    return SettingsError("state_dir", str(directory), f"must be a directory that can be written{why}")
