"""Runs every benchmark in a process of its own, prints what each found, and keeps all of it as JSON.

    python -m benchmarks [NAME ...] [--small] [--json FILE]

Nothing here passes or fails by a duration: a figure stands beside its aim and says how this machine did at this moment. A
benchmark that breaks, or can't be run on this machine, loses no other's figures, nor those that it has told of before; the JSON
says what is missing and why, and is written anew after each benchmark. `tools/write_benchmarks.py` makes the documentation of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import BENCHMARKS
from benchmarks.support.running import machine, run_benchmark

RESULTS = Path(".cache/benchmarks.json")
LONGEST = 3600.0
"""Seconds after which one benchmark is ended."""


def main() -> int:
    """Run what was asked for; 1 when a part of it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument(
        "--small", action="store_true", help="so little that it means nothing, to see that all of it runs"
    )
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help=f"default: {RESULTS}")
    parser.add_argument(
        "--longest", type=float, default=LONGEST, metavar="SECONDS", help="for one benchmark; %(default)s"
    )
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {min(unknown)}; there are {', '.join(BENCHMARKS)}")
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name in given.names or BENCHMARKS:
        console.print(f"\npython -m benchmarks.{name}", style="bold")
        results[name] = run_benchmark(name, small=given.small, within=given.longest)
        given.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _show(results[name], console)
    console.print(f"\nAll of it as JSON: {given.json}")
    broken = [name for name, result in results.items() if any(each["failed"] for each in result["failures"])]
    if broken:
        print(f"Not measured whole: {', '.join(broken)}.", file=sys.stderr)
    return 1 if broken else 0


def _show(result: dict[str, Any], console: Console) -> None:
    table = Table(show_header=False, show_lines=True)
    table.add_column(ratio=5)
    table.add_column(ratio=6)
    table.add_column(ratio=3)
    for each in result["figures"]:
        missed = each["met"] is False
        table.add_row(each["question"], each["measured"], f"{each['aim']}{' (missed)' if missed else ''}")
    if result["figures"]:
        console.print(table, markup=False)
    for each in result["failures"]:
        console.print(f"Not measured: {each['part']}: {each['why']}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
