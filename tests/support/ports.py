"""Ports that are free until they are used, also when that is a process later: below the range of outgoing connections.

A port that the system chooses for `bind(0)` may be another program's outgoing one a moment after it was given back.
"""

from __future__ import annotations

import os
import random

from spreadpilot_core.ibkr.leases import is_free

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_BAND = range(10_000 + _WORKER * 2_500, 12_500 + _WORKER * 2_500)
"""Where this process looks, so that the workers of one run, which all look at once, never find the same ports."""
_next_port = random.choice(_BAND)


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now, below the range of outgoing connections; others each time."""
    global _next_port  # noqa: PLW0603  # whoever got ports may not have opened them yet when the next one asks
    for _ in range(_BAND.stop - _BAND.start):
        first = _next_port if _next_port + count <= _BAND.stop else _BAND.start
        _next_port = first + count
        if all(is_free(first + each) for each in range(count)):
            return first
    msg = "no free ports"
    raise AssertionError(msg)
