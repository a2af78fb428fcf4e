"""What the manager costs, measured; each module is a benchmark: `python -m benchmarks.NAME`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # real parts and ports are had as the tests have them

BENCHMARKS = (
    "get_client",
    "reconnect",
    "detection",
    "large_fleet",
    "fleet_sizes",
    "idle",
    "memory",
    "open_pages",
    "telemetry",
    "api_overhead",
    "vault_reads",
    "edit_to_launch",
    "docker_fleet",
    "kubernetes_fleet",
    "kubernetes_sizes",
)
"""In the order of the documentation. `benchmarks.against` is none of them: it compares two commits by some of these."""
