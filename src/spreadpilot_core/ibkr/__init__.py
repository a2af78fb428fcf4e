"""SpreadPilot's Interactive Brokers parts."""

from __future__ import annotations
