"""Writes the table in docs/metrics.md from the catalogue itself."""

from __future__ import annotations

import sys
from pathlib import Path

from spreadpilot_core.ibkr.instrumentation.catalogue import METRICS

PAGE = Path("docs/metrics.md")
BEGIN, END = "<!-- written by tools/write_metrics.py -->", "<!-- until here -->"


def main() -> int:
    """Write the page, or with --check tell whether it is as it would be written."""
    before = PAGE.read_text(encoding="utf-8")
    after = with_table(before)
    if "--check" in sys.argv:
        if before != after:
            print(f"{PAGE} is not what the catalogue says: run python tools/write_metrics.py")
        return int(before != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


def with_table(page: str) -> str:
    """The page with its table made anew."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    lines = [
        f"| `{each.name}` | `{each.prometheus}` | {each.kind.value} | `{each.unit}` |"
        f" {', '.join(f'`{name}`' for name in each.attributes)} | {each.meaning} |"
        for each in METRICS.values()
    ]
    head_lines = ["| metric | in Prometheus | kind | unit | attributes | meaning |", "|---|---|---|---|---|---|"]
    table = "\n".join([*head_lines, *lines])
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


if __name__ == "__main__":
    sys.exit(main())
