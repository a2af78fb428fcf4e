"""What the engine's own figures say that a container uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spreadpilot_core.ibkr.model.figures import ContainerFigures

_NANOSECONDS = 1e9


def usage_in(stats: Mapping[str, Any]) -> ContainerFigures | None:
    """Memory without what the kernel can take back, as `docker stats` shows it, and processor time; None without figures."""
    memory, cpu = stats.get("memory_stats") or {}, (stats.get("cpu_stats") or {}).get("cpu_usage") or {}
    used, seconds = memory.get("usage"), cpu.get("total_usage")
    if not isinstance(used, int) or not isinstance(seconds, int):
        return None
    details = memory.get("stats") or {}
    cached = details.get("inactive_file", details.get("total_inactive_file", 0))
    return ContainerFigures(
        memory=max(0, used - (cached if isinstance(cached, int) else 0)), cpu=seconds / _NANOSECONDS
    )
