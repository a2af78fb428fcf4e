"""Checks that no other tool makes: sizes, files that must be there, lock files without addresses."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

LONGEST_MODULE = 400
LONGEST_BODY = 40
"""Lines of a function without its docstring."""
REQUIRED = (
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "src/spreadpilot_core/ibkr/py.typed",
    "docs/demo.svg",
)
ADDRESS = re.compile(r"(?m)^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b|://| @ ")


def main() -> int:
    """Print every fault, one a line."""
    faults = [*missing_files(), *long_code(), *addresses_in_lock_files(), *inhabited_namespace()]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def missing_files() -> Iterator[str]:
    """What a published project must hold."""
    for name in REQUIRED:
        if not Path(name).is_file():
            yield f"{name} is missing"


def long_code() -> Iterator[str]:
    """Modules and functions that nobody can read in one go."""
    for path in sorted(Path("src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > LONGEST_MODULE:
            yield f"{path} has {lines} lines; {LONGEST_MODULE} is the limit"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := _body_lines(node)) > LONGEST_BODY:
                yield f"{path}:{node.lineno} {node.name} has a body of {lines} lines; {LONGEST_BODY} is the limit"


def addresses_in_lock_files() -> Iterator[str]:
    """A lock file holds names, versions and hashes; where packages come from is each machine's own affair."""
    for path in sorted(Path("requirements").glob("*.txt")):
        if found := ADDRESS.search(path.read_text(encoding="utf-8")):
            yield f"{path} holds an address: {found.group().strip()}"


def inhabited_namespace() -> Iterator[str]:
    """`spreadpilot_core` is shared with other distributions, so it must stay a namespace."""
    if Path("src/spreadpilot_core/__init__.py").exists():
        yield "src/spreadpilot_core/__init__.py must not be: the namespace is shared"


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


if __name__ == "__main__":
    sys.exit(main())
