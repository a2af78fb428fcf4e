"""Tells systemd how the service is (`sd_notify`): started, alive, ending.

The protocol is one datagram to a socket that systemd names; the packages for it are thin wrappers, not kept any more or
bound to systemd's C library, so it is written out here. The watchdog is fed by the event loop itself: when the loop stands
still, systemd kills the service and starts another one, which adopts the gateways. Elsewhere nothing happens.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_FED_PER_PERIOD = 3
"""How often the watchdog is fed in the time after which it bites: two may come late."""


class Systemd:
    """The service's line to systemd, if systemd started it."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._period = _watchdog_period(environment)

    def started(self) -> None:
        """What depends on the service may start."""
        self._tell("READY=1")

    def ending(self) -> None:
        """It ends on its own account."""
        self._tell("STOPPING=1")

    async def feed_watchdog(self) -> None:
        """Say, until cancelled, that the loop goes round; returns at once where nobody asked."""
        if self._period is None or not self._address:
            return
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._period / _FED_PER_PERIOD)

    def _tell(self, what: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            try:
                line.sendto(what.encode(), address)
            except OSError as error:  # a full queue, or a systemd that is gone: neither is ours to mend
                with suppress(OSError):
                    log.warning("systemd can't be told", what=what, error=str(error))


def _watchdog_period(environment: Mapping[str, str]) -> float | None:
    """Seconds; None when no watchdog waits for this process."""
    period, of = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    return int(period) / 1e6 if period.isdecimal() and int(period) > 0 and of == str(os.getpid()) else None
