"""IBKR's side of the count: every login that a controller typed, one JSON object a line, appended and never rewritten.

    {"at": "2026-11-24T14:01:33.192+00:00", "user": "alice01", "container": "9c…", "follower": "alice"}

The host of simulated gateways keeps it as `logins.jsonl` in its directory, the image in its settings directory. A log may be
lost, late or ended; this is what was really typed, so it tells whether a login budget was kept.
"""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

LOGINS = "logins.jsonl"

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
"""A FIFO without a reader would be waited for."""


class LoginBook:
    """Appends to the book in a directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOGINS

    def note(self, user: str, **facts: str) -> None:
        """Credentials of this user were typed, now."""
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "user": user, **facts}
        with contextlib.suppress(OSError):  # a full disk keeps no gateway from logging in
            book = os.open(self._path, _APPEND, 0o600)
            try:
                os.write(book, json.dumps(line).encode() + b"\n")
            finally:
                os.close(book)
