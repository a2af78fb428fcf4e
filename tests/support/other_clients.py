"""The second environment, in which users have ib_insync and the official ibapi side by side."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SCRIPTS = ROOT / "tests" / "integration" / "clients"
_LONGEST = 60.0


@pytest.fixture(scope="session")
def clients_python() -> Path:
    """The interpreter of the second environment."""
    if not PYTHON.exists():
        pytest.fail(f"{PYTHON.relative_to(ROOT)} is missing; `make setup` builds it", pytrace=False)
    return PYTHON


async def run_bot(python: Path, script: str, *arguments: object) -> dict[str, Any]:
    """Run a bot of the second environment against a server; gives the report it prints as its last line."""
    process = await asyncio.create_subprocess_exec(
        python,
        "-W",
        "error",
        SCRIPTS / script,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_LONGEST):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    report: dict[str, Any] = json.loads(output.decode().splitlines()[-1])
    return report
