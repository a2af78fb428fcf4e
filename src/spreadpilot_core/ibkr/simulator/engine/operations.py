"""The trail of what was asked of an engine, by whom and when: one JSON object a line, appended and never rewritten.

Each operation has a line where it begins and one where it ends, with the same `number`, so that a reader can prove that
no two managers ever acted at once, also when the host died in between. `monotonic` is the machine's clock since its
start, in seconds, the same for every process on it. The trail holds no secret.

    {"number": 7, "phase": "begin", "operation": "create", "at": "2026-11-24T14:01:33.192+00:00", "monotonic": 8101.22,
     "host": "3f…", "manager": "m-1", "owner": "ibgateway-follower", "follower": "alice", "container": null, …}
    {"number": 7, "phase": "end", …, "container": "9c…", "result": "done"}
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.simulator.engine.files import OPERATIONS
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
"""A FIFO without a reader would be waited for."""


class Operations:
    """Appends to the trail in a host's directory."""

    def __init__(self, directory: Path, host: str) -> None:
        self._path = directory / OPERATIONS
        self._host = host
        self._numbers = count(1)

    @contextlib.contextmanager
    def noted(self, operation: str, **facts: Any) -> Iterator[dict[str, Any]]:
        """Note the begin and the end of what the block does; facts put into the mapping it gets are in the end's line."""
        told: dict[str, Any] = {"number": next(self._numbers), "operation": operation, **facts}
        self._append({"phase": "begin", **told})
        result = "interrupted"
        try:
            yield told
            result = "done"
        except Refused as refusal:
            result = refusal.code
            raise
        finally:
            self._append({"phase": "end", **told, "result": result})

    def _append(self, facts: Mapping[str, Any]) -> None:
        line = {
            **facts,
            "host": self._host,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "monotonic": time.monotonic(),
        }
        # A full disk, or a directory that was removed under us, must not fail what was asked for.
        with contextlib.suppress(OSError):
            trail = os.open(self._path, _APPEND, 0o600)
            try:
                os.write(trail, json.dumps(line).encode() + b"\n")
            finally:
                os.close(trail)
