"""How late an event loop is: what a callback would wait that falls due at any moment.

Ticks fall due at a fixed rate and every one is counted with its own lateness, also those that a long block swallowed:
a block of 200 ms is twenty late ticks and not one. `Lag` measures the loop it runs on; run as a program, this module
is a process that does nothing else, so its lateness is the machine's and not ours.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

RATE = 100
"""Ticks a second."""

Sample = tuple[float, float]
"""When a tick fell due (monotonic seconds, the same clock in every process), and how late it was, in ms."""


class Lag:
    """Measures from `begin` until `end`."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """From now on."""
        self._due = time.monotonic() + 1 / RATE
        self._timer = asyncio.get_running_loop().call_at(self._due, self._tick)

    def end(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        now = time.monotonic()
        while self._due <= now:
            self.samples.append((self._due, (now - self._due) * 1000))
            self._due += 1 / RATE
        self._timer = asyncio.get_running_loop().call_at(self._due, self._tick)

    def between(self, start: float, end: float) -> list[float]:
        """Latenesses of ticks that fell due in this time, in ms."""
        return [late for due, late in self.samples if start <= due < end]


class Bystander:
    """The samples of an idle process beside us."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def between(self, start: float, end: float) -> list[float]:
        """As `Lag.between`; known after the block of `bystander` only."""
        return [late for due, late in self.samples if start <= due < end]


@contextmanager
def bystander() -> Iterator[Bystander]:
    """It runs beside the block."""
    seen = Bystander()
    command = [sys.executable, "-m", "benchmarks.support.lag"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield seen
        finally:
            output, _ = process.communicate()
    seen.samples = [(due, late) for due, late in json.loads(output)]


async def _stand_by() -> None:
    """Measure until standard input ends."""
    lag = Lag()
    lag.begin()
    await asyncio.to_thread(sys.stdin.read)
    lag.end()
    print(json.dumps(lag.samples))


if __name__ == "__main__":
    asyncio.run(_stand_by())
