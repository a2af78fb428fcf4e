"""Waiting for what another process or task will do: by condition and a generous deadline, never by a guessed pause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds; far more than anything here takes, even on a machine with other work."""


async def until(condition: Callable[[], T], *, within: float = PATIENCE) -> T:
    """Wait on the loop until `condition()` holds; returns its value.

    Raises:
        TimeoutError: it did not hold in time.
    """
    async with asyncio.timeout(within):
        while not (value := condition()):
            await asyncio.sleep(0.01)
    return value


def wait_until(condition: Callable[[], T], *, within: float = PATIENCE) -> T:
    """The same without a loop."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not hold within {within:g} s")
        time.sleep(0.02)
    return value
