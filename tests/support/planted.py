"""Passwords that no other process knows, a manager's process that stands still after its launches, and its core dump."""

from __future__ import annotations

import mmap
import os
import resource
import secrets
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.memory import forms
from support.real_parts import need
from support.vault import BaoServer
from support.waiting import wait_until

PLAIN = "".join(secrets.choice(string.ascii_letters) for _ in range(20))
FOREIGN = "".join(secrets.choice("äßéøłžščđпяжюд") for _ in range(12))
"""Every planted password is made of these two; no other process may know them."""
NEEDLES = {f"{part}: {name}": needle for part in (PLAIN, FOREIGN) for name, needle in forms(part).items()}


def password(number: int) -> str:
    """The planted password of one follower."""
    return f"{number}\\{PLAIN} {FOREIGN}€"


@contextmanager
def leadership(
    program: Path, arguments: list[str], bao: BaoServer, said: Path, *, cwd: Path | None = None
) -> Iterator[int]:
    """A manager's process that has launched its fleet and stands still; all it says goes to `said`."""
    with said.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=told,
            stderr=told,
            env={**os.environ, "VAULT_TOKEN": bao.root.token},
            cwd=cwd,
        )
    with process:
        assert process.stdin is not None
        try:
            while b"launched\n" not in said.read_bytes():
                assert process.poll() is None, said.read_text()
                time.sleep(0.05)
            yield process.pid
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()


def found_in(path: Path) -> set[str]:
    """The names of the needles in this file, however large."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # of /proc and the like as well
            content: bytes | mmap.mmap = file.read()
        else:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return {name for name, needle in NEEDLES.items() if content.find(needle) >= 0}
    return set()


def found_in_files(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Which of these files hold which needles."""
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    return {str(path): found for path in files if (found := found_in(path))}


def core_of(pid: int, directory: Path) -> Path | None:
    """The core dump that the kernel writes of this process when it is aborted; None when it writes none.

    The process must run in `directory`, which is empty. Its limit is lifted from outside, as far as that is allowed. Where the kernel hands dumps to another program, gdb's `gcore` takes one instead.
    """
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|"):
        if shutil.which("gcore") is None:
            need("gdb", "apt-get install gdb")
        subprocess.run(["gcore", "-o", str(directory / "core"), str(pid)], check=False, capture_output=True)
        os.kill(pid, signal.SIGKILL)
    else:
        with suppress(PermissionError):  # a hard limit that the process has set itself may stand
            resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.kill(pid, signal.SIGABRT)
        wait_until(lambda: _has_ended(pid))
    return next(directory.glob("core*"), None)


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
