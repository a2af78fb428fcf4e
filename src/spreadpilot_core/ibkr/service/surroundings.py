"""What a command was started in and has changed for itself: a program that it starts gets that back."""

from __future__ import annotations

import os

_BEFORE: dict[str, int] = {}


def make_files_private() -> None:
    """What a command makes is its user's alone."""
    before = os.umask(0o077)
    _BEFORE.setdefault("umask", before)


def umask_before() -> int:
    """As it was."""
    return _BEFORE.get("umask", 0o022)
