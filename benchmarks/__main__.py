"""Runs every benchmark in a process of its own, prints what each found, and writes all of it as JSON.

    python -m benchmarks [NAME ...] [--json FILE]

A figure stands beside its target and says how this machine did at this moment; nothing here passes or fails. Each module
of this folder is one benchmark, with options of its own; one that ends with `figures.report` gets a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BENCHMARKS = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
RESULTS = Path(".cache/benchmarks.json")


def main() -> int:
    """Run what was asked for; 1 when one of them could not be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help=f"default: {RESULTS}")
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {min(unknown)}; there are {', '.join(BENCHMARKS)}")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    machine = _machine()
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results = [_run(name, console) for name in given.names or BENCHMARKS]
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    console.print(f"All of it as JSON: {given.json}")
    failed = [each["command"] for each in results if each["exit_code"]]
    if failed:
        print(f"Not run to its end: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, console: Console) -> dict[str, Any]:
    """One benchmark, shown and returned."""
    command = ["-m", f"benchmarks.{name}"]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=False)
    result: dict[str, Any] = {"command": f"python {' '.join(command)}", "exit_code": done.returncode}
    lines = done.stdout.splitlines()
    console.print(f"\n{result['command']}", style="bold")
    try:
        result["figures"] = json.loads(lines[-1])
    except (ValueError, IndexError):
        result["said"] = lines
        console.print(done.stdout, markup=False)
    else:
        console.print(_table(result["figures"]))
    return result


def _machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "ib_async": version("ib_async"),
    }


def _table(figures: list[dict[str, Any]]) -> Table:
    table = Table(show_header=False)
    table.add_column(min_width=66)
    table.add_column(justify="right", min_width=10)
    table.add_column(min_width=5)
    table.add_column(min_width=12)
    for each in figures:
        value = f"{each['value']:.2f}" if each["value"] < 10 else f"{each['value']:.0f}"
        table.add_row(each["name"], value, each["unit"], each["target"])
    return table


if __name__ == "__main__":
    sys.exit(main())
