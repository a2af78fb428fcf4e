"""Writes the tables in docs/settings.md from `Settings` itself: names, defaults and the docstring below each field.

One has what people set, the other what only tunes, as each field is marked.
"""

from __future__ import annotations

import ast
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from spreadpilot_core.ibkr import settings
from spreadpilot_core.ibkr.settings import Settings

PAGE = Path("docs/settings.md")
BEGIN = {
    False: "<!-- written by tools/write_settings.py -->",
    True: "<!-- written by tools/write_settings.py: what only tunes -->",
}
END = "<!-- until here -->"


class Row(NamedTuple):
    name: str
    variable: str
    default: str
    meaning: str
    tunes: bool


def main() -> int:
    """Write the page, or with --check tell whether it is as it would be written."""
    before = PAGE.read_text(encoding="utf-8")
    after = with_tables(before)
    if "--check" in sys.argv:
        if before != after:
            print(f"{PAGE} is not what Settings says: run python tools/write_settings.py")
        return int(before != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


def with_tables(page: str) -> str:
    """The page with its tables made anew."""
    for tunes, begin in BEGIN.items():
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(END)
        lines = [
            f"| `{row.name}` | `{row.variable}` | {row.default} | {row.meaning} |"
            for row in rows()
            if row.tunes is tunes
        ]
        table = "\n".join(["| setting | environment | default | meaning |", "|---|---|---|---|", *lines])
        page = f"{head}{begin}\n\n{table}\n\n{END}{tail}"
    return page


def rows() -> Iterator[Row]:
    """One for each setting, in the order of the class."""
    meanings = _docstrings()
    for name, field in Settings.model_fields.items():
        bare = field.validation_alias is not None
        variable = name.upper() if bare else f"GATEWAY_MANAGER_{name.upper()}"
        meaning = meanings[name].replace("|", "\\|")
        yield Row(name, variable, _default(name, field), meaning, tunes=settings.TUNES in field.metadata)


def _default(name: str, field: FieldInfo) -> str:
    if name == "state_dir":
        return "the platform's place for state"
    value = field.get_default()
    if value is None or isinstance(value, SecretStr):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _docstrings() -> dict[str, str]:
    """Field -> the string below it, on one line."""
    tree = ast.parse(Path(settings.__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    found: dict[str, str] = {}
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            found[node.target.id] = " ".join(str(after.value.value).split()) if documented else ""  # type: ignore[attr-defined]  # narrowed above
    return found


if __name__ == "__main__":
    sys.exit(main())
