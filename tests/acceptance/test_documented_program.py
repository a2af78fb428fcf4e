"""The program that the README promises, run word for word as a user's own process with settings from its environment alone."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.command import Command
from support.home import Home
from support.other_clients import ROOT, clients_python
from support.waiting import PATIENCE

__all__ = ["clients_python"]

RUNNER = Path(__file__).with_name("programs") / "as_written.py"


@pytest.fixture
def home() -> Iterator[Home]:
    place = Home()
    asyncio.run(place.add("follower_123", "follower_456"))
    yield place
    asyncio.run(place.end())


def documented_program() -> str:
    """The README's first Python block."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return block[1]


def run(python: Path, program: str, library: str, home: Home) -> dict[str, Any]:
    """What a process of this Python reports of the program."""
    path = home.directory / "program.py"
    path.write_text(program)
    done = subprocess.run(
        [python, RUNNER, path, library],
        env=Command(home).environment,
        capture_output=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return report


def check(report: dict[str, Any], library: str, home: Home) -> None:
    """Every call kept its promise, the client traded, and nothing is left."""
    assert report["client"] == library
    assert report["traded"] == {
        "bought": ["Filled", 100.0],
        "resting": "Cancelled",
        "positions": [["AAPL", 100.0]],
        "open_orders": 0,
        "executions": 1,
    }
    assert report["is_healthy"] is True
    reconnected, stopped = report["values"][-2:]
    assert (reconnected, stopped) == (True, None)
    assert report["connected_at_the_end"] is False
    assert asyncio.run(_containers(home)) == []


async def _containers(home: Home) -> list[str]:
    runtime = home.runtime()
    await runtime.open()
    names = [each.name for each in await runtime.list()]
    await runtime.close()
    return names


def test_the_documented_program_runs_as_written(home: Home) -> None:
    """With ib_async, which comes with the package: not a word of the program is changed."""
    check(run(Path(sys.executable), documented_program(), "ib_async", home), "ib_async", home)


def test_the_documented_program_runs_with_ib_insync(home: Home, clients_python: Path) -> None:
    """With both libraries installed side by side: only `ib_factory` is added, and the client is an ib_insync one."""
    program = documented_program().replace("GatewayManager()", "GatewayManager(ib_factory=ib_insync.IB)")
    assert program != documented_program()
    check(run(clients_python, f"import ib_insync\n{program}", "ib_insync", home), "ib_insync", home)
