"""The wall clock. Who needs it is given it, so that a test chooses the time; only `wiring` and programs of one call choose this one.

How long something takes is measured by the event loop's own time or by `time.monotonic`, which nobody sets.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
