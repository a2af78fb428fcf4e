"""This tree against an older commit: `get_client` and large fleets of both, in turn, in one run.

    python -m benchmarks.against COMMIT [--gateways 300,1000] [--rounds 3] [--parallel-starts N] [--json FILE]

The commit is checked out beside (a git worktree in a temporary directory, removed afterwards), and each tree runs its own benchmarks
on its own `src` with this interpreter and its packages. Which of the two runs first changes from round to round, so that
whatever else the machine does slows both alike. A ratio above 1 means that this tree takes more; it is the median of the rounds'
ratios. With the default of `parallel_starts` a fleet's start is as long as its gateways need to their login window, four at a
time, in a tree that holds a place so long, and nothing of what the manager takes is seen: both have as many places as there are
gateways unless `--parallel-starts` says otherwise. Figures that only one of them has are left out; a benchmark that fails in one
tree loses no other's figures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.support.figures import number
from benchmarks.support.running import run_python, told

ROOT = Path(__file__).parents[1]
LONGEST = 3600.0
OLD_NAMES = {
    "get_client": "get_client",
    "get_client against a bare look-up": "ratio",
    "time per gateway until all are ready": "time_per_gateway",
    "… of the manager's processor time": "processor_per_gateway",
    "from start until all are ready": "connecting_seconds",
    "from all sockets closed until all are ready": "cut_off_seconds",
    "loop lag while heartbeats run, median": "living_lag_median",
    "loop lag while heartbeats run, p99": "living_lag_p99",
    "processor taken while connecting": "connecting_processor",
    "processor taken while heartbeats run": "living_processor",
    "processor taken after all sockets closed": "cut_off_processor",
}
"""What values were called when a benchmark ended with one list of them."""

RUNNER = (
    "-c",
    (
        "import runpy, sys; from spreadpilot_core.ibkr.settings import Settings;"
        " Settings.model_fields['parallel_starts'].default = int(sys.argv.pop(1));"
        " runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    ),
)
"""Runs a benchmark's module with another default of `parallel_starts`, in a tree that has no option for it."""

Pairs = list[tuple[float, float]]
"""The commit's and this tree's, round by round."""


def main() -> int:
    """Compare; 1 when one of the benchmarks failed in one of the trees."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("commit")
    parser.add_argument("--gateways", default="300,1000", help="sizes of fleets, by commas; none with an empty text")
    parser.add_argument("--watch", type=float, default=35.0, help="seconds over which heartbeats are watched")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--parallel-starts", type=int, metavar="N", help="in both trees; as many as gateways without it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    runs = {"get_client": (["benchmarks.get_client"], 1)}
    for size in filter(None, given.gateways.split(",")):
        command = ["benchmarks.large_fleet", "--gateways", size, "--watch", str(given.watch)]
        runs[f"{size} gateways"] = command, given.parallel_starts or int(size)
    found: dict[str, dict[str, Pairs]] = {}
    failed = False
    with checked_out(given.commit) as folder:
        for name, (command, places) in runs.items():
            found[name], broken = compare([*RUNNER, str(places), *command], folder, rounds=given.rounds)
            failed = failed or broken
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table(found, given.commit))
    if given.json is not None:
        given.json.write_text(json.dumps({"commit": given.commit, "rounds": found}, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The commit in a directory of its own, for as long as the block lasts. Raises `subprocess.CalledProcessError`."""
    with tempfile.TemporaryDirectory(prefix="gm-against-", dir="/tmp") as directory:
        folder = Path(directory) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def compare(command: Sequence[str], folder: Path, *, rounds: int) -> tuple[dict[str, Pairs], bool]:
    """The values that both trees have, by name, and whether a run failed."""
    pairs: dict[str, Pairs] = defaultdict(list)
    failed = False
    shown = " ".join(command[len(RUNNER) + 1 :])
    for each in range(rounds):
        trees = [folder, ROOT] if each % 2 == 0 else [ROOT, folder]
        found = {}
        for tree in trees:
            print(f"round {each + 1}: {shown} in {tree}", file=sys.stderr, flush=True)
            found[tree], broken = values_in(tree, command)
            failed = failed or broken
        for name in found[folder].keys() & found[ROOT].keys():
            pairs[name].append((found[folder][name], found[ROOT][name]))
    return dict(sorted(pairs.items())), failed


def values_in(tree: Path, command: Sequence[str]) -> tuple[dict[str, float], bool]:
    """What this tree's own benchmark found, by name, and whether it failed. Raises `RuntimeError` when another tree's would run."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree / "src"), str(tree)))}
    asked = "import spreadpilot_core.ibkr as it; print(it.__file__)"
    runs = subprocess.run(
        [sys.executable, "-c", asked], cwd=tree, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(runs).is_relative_to(tree):
        raise RuntimeError(f"{tree} would run {runs}")
    lines, exit_code, last_words = run_python(command, within=LONGEST, folder=tree, environment=environment)
    if exit_code != 0:
        print(f"Failed in {tree}: {last_words}", file=sys.stderr)
    return named_values(lines), exit_code != 0


def named_values(lines: Sequence[str]) -> dict[str, float]:
    """The values of a benchmark's output, of today's form or of the form with one list at the end, and processor time in seconds."""
    figures, _ = told(lines)
    found = {name: float(value["value"]) for each in figures for name, value in each["values"].items()}
    if not found and lines and lines[-1].startswith("["):
        listed: list[dict[str, Any]] = json.loads(lines[-1])
        found = {OLD_NAMES[each["name"]]: float(each["value"]) for each in listed if each["name"] in OLD_NAMES}
    for phase in ("connecting", "cut_off"):
        if (share := found.pop(f"{phase}_processor", None)) is not None and f"{phase}_seconds" in found:
            found[f"{phase}_processor_seconds"] = share / 100 * found[f"{phase}_seconds"]
    return found


def table(found: dict[str, dict[str, Pairs]], commit: str) -> Table:
    """Medians and ratios, for people."""
    made = Table("", "value", commit, "this tree", "ratio", "rounds")
    for name, values in found.items():
        for value, pairs in values.items():
            ratios = [ours / theirs for theirs, ours in pairs if theirs]
            before, now = (statistics.median(each) for each in zip(*pairs, strict=True))
            middle = f"{statistics.median(ratios):.2f}" if ratios else ""
            made.add_row(name, value, number(before), number(now), middle, ", ".join(f"{each:.2f}" for each in ratios))
    return made


if __name__ == "__main__":
    sys.exit(main())
