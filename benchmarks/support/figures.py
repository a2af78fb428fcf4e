"""What a benchmark reports: figures with units, targets where there are any, and distributions."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

Figure = dict[str, Any]


def figure(name: str, value: float, unit: str, *, target: str = "") -> Figure:
    """One measured value."""
    return {"name": name, "value": round(value, 3), "unit": unit, "target": target}


def distribution(name: str, values: Sequence[float], unit: str, **targets: str) -> list[Figure]:
    """Median, 99th percentile and largest; `median=`, `p99=` name their targets."""
    ordered = sorted(values)
    parts = {"median": percentile(ordered, 50), "p99": percentile(ordered, 99), "max": ordered[-1]}
    return [figure(f"{name}, {part}", value, unit, target=targets.get(part, "")) for part, value in parts.items()]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of sorted values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def report(figures: Sequence[Figure]) -> None:
    """Give them to whoever started this process: one line of JSON, the last on standard output."""
    print(json.dumps(list(figures)))
    sys.stdout.flush()
