"""Every benchmark runs to its end, in sizes that say nothing about time: one that is broken is found before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import BENCHMARKS

from support.benchmark_runs import ROOT, expect_figures

ELSEWHERE = {
    "docker_fleet",
    "kubernetes_fleet",
    "kubernetes_sizes",
    "vault_reads",
    "edit_to_launch",
    "open_pages",
    "get_client",
}
"""In `test_benchmarks_on_real_parts`; the last is run below."""


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in ELSEWHERE])
def test_a_benchmark_tells_figures(name: str) -> None:
    """It runs to its end, and no part of it fails."""
    expect_figures(name)


def test_all_of_it_is_kept_as_json(tmp_path: Path) -> None:
    """The command prints the figures and leaves them for the documentation."""
    kept = tmp_path / "benchmarks.json"
    command = [sys.executable, "-m", "benchmarks", "get_client", "--small", "--json", str(kept)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "get_client" in done.stdout
    assert "at most 1.5 times" in done.stdout
    result = json.loads(kept.read_text())["get_client"]
    assert result["small"]
    assert result["failures"] == []
    assert result["figures"][0]["values"]["ratio"]["unit"] == "times"


def test_this_tree_is_compared_with_a_commit() -> None:
    """Both run their own code, and nothing of the other checkout is left."""
    command = [sys.executable, "-m", "benchmarks.against", "HEAD", "--gateways", "", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "get_client" in done.stdout
    left = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "gm-against-" not in left
