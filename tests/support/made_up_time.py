"""An event loop in made-up time: hours pass in milliseconds, and nothing outside the process can delay anything.

    @in_made_up_time
    async def test_…(…) -> None: …

Whenever the loop would wait, its clock and the wall clock jump to the next thing that is due. Threads are not used: what would go to one is
done at once. Connections are made in memory (`network`). A test that waits for something that can never happen fails at once
and says so.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine

START = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
"""A Monday, 10:00 in New York: no reset is near."""
LONGEST = 30 * 24 * 3600.0
"""Seconds of made-up time that a test may take."""
_RESOLUTION = 1e-6

Connect = Callable[[str, int, asyncio.Protocol], asyncio.Transport]


class MadeUpTimeLoop(asyncio.SelectorEventLoop):
    """Its time is its own."""

    def __init__(self, wall_clock: time_machine.Traveller) -> None:
        super().__init__(_Selector(self._pass))
        self._now = 0.0
        self._wall_clock = wall_clock
        self._clock_resolution = _RESOLUTION
        self.network: Connect | None = None
        """Connects clients to what runs in memory."""

    def time(self) -> float:
        """Seconds since the test began."""
        return self._now

    def _pass(self, seconds: float | None) -> None:
        if seconds is None:
            pytest.fail(f"nothing can happen any more after {self._now:.3f} s of made-up time")
        if self._now > LONGEST:
            pytest.fail("this goes on for ever")
        self._now += seconds
        self._wall_clock.shift(seconds)

    def run_in_executor(self, _executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Done at once, in no time."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001  # as an executor does
            future.set_exception(error)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        """In memory, or refused."""
        await asyncio.sleep(0)
        if self.network is None:
            raise ConnectionRefusedError(111, "connection refused")
        protocol = protocol_factory()
        return self.network(host, port, protocol), protocol


class _Selector(selectors.SelectSelector):
    """Asks the loop to let time pass, where others would wait."""

    def __init__(self, let_pass: Callable[[float | None], None]) -> None:
        super().__init__()
        self._let_pass = let_pass

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; when nothing is, it is later."""
        if timeout is not None and timeout <= 0:
            return []
        self._let_pass(timeout)
        return []


def in_made_up_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in a loop of its own, from `START` on."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        with time_machine.travel(START, tick=False) as wall_clock:
            loop = MadeUpTimeLoop(wall_clock)
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(test(*arguments, **named))

    return run


async def until(
    condition: Callable[[], object], what: Callable[[], object] | object = "", *, within: float = 3600.0
) -> None:
    """Let time pass until `condition` holds, at most `within` seconds of it."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + within, 0.02
    while not condition():
        if loop.time() >= deadline:
            pytest.fail(f"not within {within:g} s of made-up time: {what() if callable(what) else what}")
        await asyncio.sleep(pause)
        pause = min(2.0, 1.05 * pause)  # what is waited for longer stays longer
