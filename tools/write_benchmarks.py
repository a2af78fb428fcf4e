"""Writes the table and the descriptions in docs/benchmarks.md from docs/benchmarks.json and the benchmarks' own docstrings.

    python tools/write_benchmarks.py [FILE] [--check]

FILE is what `make bench` left (`.cache/benchmarks.json`): each benchmark that it has takes the place of the same one in
docs/benchmarks.json, so that figures of several runs, each with its own date and load, may stand side by side.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import BENCHMARKS  # noqa: E402  # a package beside this folder

PAGE, RESULTS = Path("docs/benchmarks.md"), Path("docs/benchmarks.json")
BEGIN, END = "<!-- written by tools/write_benchmarks.py -->", "<!-- until here -->"


def main() -> int:
    """Take new results in and write the page, or with --check tell whether it is as it would be written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="what `make bench` left")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 when the page is not as it would be written"
    )
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if given.file is not None:
        results = merged(results, json.loads(given.file.read_text(encoding="utf-8")))
    before = PAGE.read_text(encoding="utf-8")
    after = with_figures(before, results)
    if given.check:
        if before != after:
            print(f"{PAGE} is not what {RESULTS} and the benchmarks say: run python tools/write_benchmarks.py")
        return int(before != after)
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(after, encoding="utf-8")
    return 0


def merged(results: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """The newer one of each benchmark that there still is, in the order of the documentation."""
    both = {**results, **newer}
    return {name: both[name] for name in BENCHMARKS if name in both}


def with_figures(page: str, results: Mapping[str, Any]) -> str:
    """The page with its table and descriptions made anew."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    table = ["| question | measured | aim |", "|---|---|---|", *rows(results)]
    parts = ["\n".join(table), "## How each is measured", *descriptions(results)]
    written = "\n\n".join(parts)
    return f"{head}{BEGIN}\n\n{written}\n\n{END}{tail}"


def rows(results: Mapping[str, Any]) -> Iterator[str]:
    """One for each figure, and one for each part that has none."""
    for name in BENCHMARKS:
        result = results.get(name)
        if result is None:
            yield f"| `{name}` | not measured yet | |"
            continue
        trial = "(in sizes that mean nothing) " if result["small"] else ""
        for each in result["figures"]:
            missed = ", missed" if each["met"] is False else ""
            yield f"| {_cell(each['question'])} | {trial}{_cell(each['measured'])} | {_cell(each['aim'])}{missed} |"
        for each in result["failures"]:
            yield f"| `{name}`: {_cell(each['part'])} | not measured: {_cell(each['why'])} | |"


def descriptions(results: Mapping[str, Any]) -> Iterator[str]:
    """What each benchmark says of itself, and of its run."""
    for name in BENCHMARKS:
        yield f"### `python -m benchmarks.{name}`"
        source = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
        yield ast.get_docstring(ast.parse(source)) or ""
        if (run := results.get(name)) is not None:
            yield (
                f"Run on {run['date']} with {run['processors']} processors at a load of {run['load']:g}, Python {run['python']},"
                f" ib_async {run['ib_async']}; it took {run['seconds']:.0f} s."
            )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
