"""Connections with ib_insync, installed side by side with ib_async as users have it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.real_parts import need

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"


@pytest.mark.real_part("ib_insync beside ib_async")
@pytest.mark.timeout(240)
def test_all_connection_tests_with_ib_insync() -> None:
    """Every test of connections, and of the measuring of requests, passes with ib_insync's client as well."""
    if not PYTHON.exists():
        need("the environment with both client libraries", "make setup")
    run = subprocess.run(
        [
            PYTHON,
            "-m",
            "pytest",
            "-q",
            "--noconftest",
            "-p",
            "no:cacheprovider",
            "tests/integration/test_connections.py",
            "tests/integration/test_hostile_api.py",
            "tests/integration/test_request_meter.py",
        ],
        cwd=ROOT,
        env=os.environ | {"TEST_CLIENT_LIBRARY": "ib_insync", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
