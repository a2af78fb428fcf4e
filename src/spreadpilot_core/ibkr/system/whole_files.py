"""Small files written whole or not at all: a crash at any instruction leaves the old content or the new one.

What root makes in a directory of another user becomes that user's: a manager must be able to read what root has edited.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from spreadpilot_core.ibkr.system.peers import ROOT

STORE_FILE = "credentials.json"
"""The encrypted store's file in the state directory."""
PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


def write_whole(path: Path, content: bytes, *, keep_mode: bool = False) -> None:
    """Replace `path` by `content`, durable when this returns. The caller holds the file's lock.

    Its mode is 0600, or what it was with `keep_mode`.

    Raises:
        OSError: nothing was changed.
    """
    make_private_directory(path.parent)
    for stale in path.parent.glob(f".{path.name}.*.part"):
        stale.unlink(missing_ok=True)
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, _mode_of(path) if keep_mode else PRIVATE_FILE)  # whatever the umask
            _hand_over(descriptor, path if path.exists() else path.parent)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def make_for_owner(path: Path) -> None:
    """Have the file, empty where it is made here. Raises `OSError`."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            _hand_over(descriptor, path.parent)
        finally:
            os.close(descriptor)


def _hand_over(new: int, like: Path) -> None:
    """Give a new file to the owner of `like`: what it replaces, or its directory. Only root can, and others need not."""
    if os.geteuid() == ROOT and (owner := like.stat()).st_uid != ROOT:
        os.fchown(new, owner.st_uid, owner.st_gid)


def _mode_of(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o777
    except FileNotFoundError:
        return PRIVATE_FILE


def sync_directory(directory: Path) -> None:
    """Make names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_directory(directory: Path) -> None:
    """Have the directory, readable by its owner alone when it is made here."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True)
