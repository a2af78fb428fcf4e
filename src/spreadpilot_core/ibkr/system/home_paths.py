"""`~` at the beginning of a path that a user wrote."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def in_home(path: str | Path) -> Path:
    """The path with its `~` or `~name` filled in; as it stands where there is no such user, as a shell leaves it."""
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)
