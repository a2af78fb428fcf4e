"""What to do next, and why: pure functions of what was before, what is seen, the fleet, and the time."""

from __future__ import annotations
