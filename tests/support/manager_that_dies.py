"""A manager's process that ends by SIGKILL at one chosen moment of its work.

Arguments: settings as JSON, and the moment as JSON: `call` ("module:Class.method"), `when` ("before" it, "after" it, or
that many seconds "into" it), `about` (words in one of its arguments; else it is another call), and `armed` (from the start,
or from the first command on). Commands come on standard input, a line each: "restart FOLLOWER", "stop". It says "ready" on
standard error once all its gateways are.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
from typing import Any

from spreadpilot_core.ibkr.gateway_manager import GatewayManager

LONGEST = 120.0
"""Seconds after the last command in which the moment must come."""


class Trap:
    """Where this process dies."""

    def __init__(self, call: str, when: str, seconds: float, about: str, *, armed: bool) -> None:
        self.armed = armed
        self._when = when
        self._seconds = seconds
        self._about = about
        module, _, path = call.partition(":")
        owner, name = path.split(".")
        place = getattr(importlib.import_module(module), owner)
        self._inner = inner = getattr(place, name)
        assert asyncio.iscoroutinefunction(inner)

        async def trapped(*arguments: Any, **named: Any) -> Any:
            return await self._call(*arguments, **named)

        setattr(place, name, trapped)

    async def _call(self, *arguments: Any, **named: Any) -> Any:
        if not self.armed or (self._about and not any(self._about in str(each) for each in arguments)):
            return await self._inner(*arguments, **named)
        if self._when == "before":
            die()
        if self._when == "into":
            asyncio.get_running_loop().call_later(self._seconds, die)
        answer = await self._inner(*arguments, **named)
        if self._when == "after":
            die()
        return answer


def die() -> None:
    """At once, and without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


async def main() -> None:
    """Run until killed, or until told to stop."""
    settings, moment = map(json.loads, sys.argv[1:])
    trap = Trap(**moment) if moment else None
    manager = GatewayManager(**settings)
    await manager.start()
    said = None
    while not (
        (gateways := manager.list_gateways()) and all(manager.is_healthy(each.follower_id) for each in gateways)
    ):
        if (news := [(each.follower_id, each.state.value, each.reason) for each in gateways]) != said:
            said = news
            print(news, file=sys.stderr, flush=True)  # noqa: T201  # for whoever waits in vain
        await asyncio.sleep(0.02)
    print("ready", file=sys.stderr, flush=True)  # noqa: T201  # for whoever started it; its log is on standard output
    while command := (await asyncio.to_thread(sys.stdin.readline)).split():
        if trap is not None:
            trap.armed = True
        if command[0] == "stop":
            await manager.stop()
            return
        await manager.restart_gateway(command[1])
    if trap is not None:
        await asyncio.sleep(LONGEST)  # no more commands come: its moment does


if __name__ == "__main__":
    asyncio.run(main())
