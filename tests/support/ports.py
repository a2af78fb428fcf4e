"""Ports that are free until they are used, also when that is a process later: below the range of outgoing connections.

A port that the system chooses for `bind(0)` may be another program's outgoing one a moment after it was given back.
"""

from __future__ import annotations

import os
import random

from spreadpilot_core.ibkr.runtimes.host_ports import PortLeases, nothing_listens

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_BAND = range(10_000 + _WORKER * 2_500, 12_500 + _WORKER * 2_500)
"""Where this process looks, so that the workers of one run, which all look at once, never find the same ports."""
_ALL = range(10_000, 32_000)
"""Where many ports in a row are looked for, by a benchmark that runs alone."""
_next_port = random.choice(_BAND)


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now, below the range of outgoing connections; others each time."""
    global _next_port  # noqa: PLW0603  # whoever got ports may not have opened them yet when the next one asks
    band = _BAND if count <= len(_BAND) // 4 else _ALL
    for _ in range(len(band)):
        first = _next_port if _next_port in band and _next_port + count <= band.stop else band.start
        taken = next((port for port in range(first, first + count) if not nothing_listens(port)), None)
        _next_port = first + count if taken is None else taken + 1
        if taken is None:
            return first
    msg = "no free ports"
    raise AssertionError(msg)


def leases(count: int = 16) -> PortLeases:
    """A range of its own for one runtime."""
    first = free_ports(count)
    return PortLeases(first, first + count - 1)
