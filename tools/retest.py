"""Runs `pytest` as it is told to, and what failed once more, alone: `python tools/retest.py .venv/bin/pytest tests`.

Thousands of tests on real servers share one machine; one that a stall made late is told by running it with nothing beside it.
What fails twice is broken, and so is everything when more than a few fail or the run itself broke off. What passed alone is
written to `.cache/unsteady`, to be looked into.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_MOST = 5
_FAILED_TESTS = 1
"""How pytest ends when tests failed, and nothing else was wrong."""
_LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
_UNSTEADY = Path(".cache/unsteady")


def main(pytest: str, *arguments: str) -> int:
    """Exit code of the run, or of the second one."""
    _LAST_FAILED.unlink(missing_ok=True)  # what an earlier run left there
    done = subprocess.run([pytest, *arguments], check=False).returncode
    names = _failed() if done == _FAILED_TESTS else []
    if not 0 < len(names) <= _MOST:
        return done
    print(f"Once more, alone: {', '.join(names)}", flush=True)
    done = subprocess.run([pytest, "-v", *names], check=False).returncode
    if done == 0:
        _keep(names)
    return done


def _failed() -> Sequence[str]:
    return sorted(json.loads(_LAST_FAILED.read_text(encoding="utf-8"))) if _LAST_FAILED.is_file() else []


def _keep(names: Sequence[str]) -> None:
    version = "{}.{}".format(*sys.version_info[:2])
    _UNSTEADY.parent.mkdir(exist_ok=True)
    with _UNSTEADY.open("a", encoding="utf-8") as file:
        file.writelines(f"  Python {version}: {name}\n" for name in names)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
