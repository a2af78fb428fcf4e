"""A benchmark's run in sizes that say nothing about time: that it works, not how fast."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.support.running import run_benchmark

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0


def expect_figures(name: str) -> None:
    """No part of it fails, and each figure has a question, what was measured, and values."""
    result = run_benchmark(name, small=True, within=PATIENCE, folder=ROOT)
    failed = [each for each in result["failures"] if each["failed"]]
    assert failed == [], failed
    missing = [each["why"] for each in result["failures"]]
    if missing and not result["figures"]:
        pytest.skip("; ".join(missing))
    assert result["figures"]
    for figure in result["figures"]:
        assert figure["question"]
        assert figure["measured"]
        assert figure["values"]
