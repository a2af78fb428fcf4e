"""Holds the coverage of the last whole `make test` against the threshold in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Print the report of what is not covered; 2 when it is below the threshold, 1 without a test run."""
    if not Path(".coverage").exists():
        print("There is no coverage to look at: run `make test` first.")
        return 1
    return subprocess.run([sys.executable, "-m", "coverage", "report"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
