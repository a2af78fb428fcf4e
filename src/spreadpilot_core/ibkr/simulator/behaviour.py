"""The faults of a gateway's API server that can be switched on and off while it runs.

The life around the server (login, restarts, injected faults) sets them, the server and its sessions read them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class Behaviour:
    """How an API server misbehaves; sessions that have already started stay as they are, except for `frozen`."""

    mute_handshake: bool = False
    """New connections are accepted and never answered at all."""
    mute_start: bool = False
    """The handshake is answered; START_API and all that follows is not (a gateway whose login was lost)."""
    close_early: bool = False
    """The connection is closed at START_API, without an error frame."""
    disclaimer_pending: bool = False
    """START_API is answered by error 10141 and a close (a paper disclaimer nobody has accepted yet)."""
    link_lost: bool = False
    """New clients are told 2110, that the gateway has lost IBKR, instead of its farms."""
    ignores_repeats: bool = False
    """A request for the current time within a second of the last one is not answered, as by live gateways."""
    _running: asyncio.Event = field(default_factory=asyncio.Event, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._running.set()

    @property
    def frozen(self) -> bool:
        """Nothing is read, answered or sent, as if the process were stopped; lifted later everything goes on."""
        return not self._running.is_set()

    @frozen.setter
    def frozen(self, value: bool) -> None:
        if value:
            self._running.clear()
        else:
            self._running.set()

    async def while_frozen(self) -> None:
        """Return as soon as the server isn't frozen."""
        await self._running.wait()
