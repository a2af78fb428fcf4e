"""Runs one benchmark in a process of its own and takes what it tells, line by line, until it ends or its time is over."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

_WORDS_KEPT = 20
"""Lines of a broken benchmark's standard error that are looked at for its reason."""
_GRACE = 30.0
"""Seconds for a benchmark that is ended to clean up after itself."""


def machine() -> dict[str, Any]:
    """What figures depend on, now."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "ib_async": version("ib_async"),
    }


def run_benchmark(name: str, *, small: bool = False, within: float, folder: Path | None = None) -> dict[str, Any]:
    """All that it told, figures and failures apart, beside what the machine was like."""
    command = ["-m", f"benchmarks.{name}", *(["--small"] if small else [])]
    before, begun = machine(), time.monotonic()
    lines, exit_code, last_words = run_python(command, within=within, folder=folder)
    figures, failures = told(lines)
    if exit_code is None:
        failures.append({"part": "the rest of it", "failed": True, "why": f"it had not ended after {within:.0f} s"})
    elif exit_code and not any(each["failed"] for each in failures):
        failures.append({"part": "the rest of it", "failed": True, "why": last_words or f"it ended with {exit_code}"})
    return {
        "command": f"python {' '.join(command)}",
        "small": small,
        **before,
        "seconds": round(time.monotonic() - begun, 1),
        "figures": figures,
        "failures": failures,
    }


def told(lines: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Figures and failures of what was printed; anything else that a library prints is no figure."""
    figures, failures = [], []
    for line in lines:
        with suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict) and "question" in said:
                figures.append(said)
            elif isinstance(said, dict) and "part" in said:
                failures.append(said)
    return figures, failures


def run_python(
    command: Sequence[str], *, within: float, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[list[str], int | None, str]:
    """The lines of `python COMMAND…`, its exit code (None: its time was over and it was ended) and its last words.

    What it says on standard error is passed on as it comes.
    """
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=None if environment is None else dict(environment),
        start_new_session=True,  # whatever it started is ended with it
    ) as process:
        lines: list[str] = []
        words = deque[str](maxlen=_WORDS_KEPT)
        readers = [
            threading.Thread(target=_take, args=(process.stdout, lines.append), daemon=True),
            threading.Thread(target=_take, args=(process.stderr, words.append, sys.stderr), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            exit_code: int | None = process.wait(within)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            _end(process)
        for reader in readers:
            reader.join(_GRACE)
    return lines, exit_code, next((word for word in reversed(words) if word.strip()), "")


def measured_apart(module: str, *arguments: str, within: float, environment: Mapping[str, str] | None = None) -> Any:
    """What `benchmarks.MODULE --child ARGUMENTS` prints last, as JSON: a process of its own, which nothing before it has warmed or
    filled.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    command = ["-m", f"benchmarks.{module}", "--child", *arguments]
    lines, exit_code, last_words = run_python(command, within=within, environment=environment)
    if exit_code is None:
        raise RuntimeError(f"it had not ended after {within:.0f} s")
    if exit_code or not lines:
        raise RuntimeError(last_words or f"it ended with {exit_code}")
    return json.loads(lines[-1])


def _take(stream: IO[str], keep: Any, also: IO[str] | None = None) -> None:
    for line in stream:
        keep(line.rstrip("\n"))
        if also is not None:
            also.write(line)
            also.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """Ask it to end as Ctrl-C does, then end all of its group."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
