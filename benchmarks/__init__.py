"""What the manager costs, measured; each module is a benchmark: `python -m benchmarks.NAME`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # real parts and ports are had as the tests have them
