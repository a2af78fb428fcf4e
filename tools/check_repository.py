"""Checks that no other tool makes: sizes, files that must be there, lock files without addresses, imports without circles,
no code that decides by a sentence, no names of private words.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

LONGEST_MODULE = 500
LONGEST_BODY = 40
"""Lines of a function without its docstring."""
PACKAGE = "spreadpilot_core.ibkr"
MOST_IN_ROOT = 10
"""Modules that lie in the root package, itself included: the rest has a package to lie in."""
REQUIRED = (
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "src/spreadpilot_core/ibkr/py.typed",
    "docs/demo.svg",
    "docs/glossary.md",
)
WORDS = 3
"""A text of more words is a sentence for people."""
FOR_PEOPLE = frozenset({"sentence", "next_action"})
"""Attributes that hold sentences, whatever they say."""
READERS = tuple(
    f"src/spreadpilot_core/ibkr/{part}/" for part in ("controller_log", "kubernetes", "runtimes/docker", "simulator")
)
"""What reads other programs' sentences, since these have nothing else, and what plays them."""
ASKING = frozenset({"startswith", "endswith", "find", "index", "count", "removeprefix", "removesuffix", "partition"})
_PRIVATE = """
house opening opened watched presence slot deed deeds teller telling term terms standing desk desks door doors custody
dialect dialects look looks looked looking onlooker turn turns reaching going told kept believed forgiven dated arrives
voice beginning wish wishes cycle cycles
"""
PRIVATE_WORDS = frozenset(_PRIVATE.split())
"""What no name is made of: these stood for things that have words of their own in the field (see `docs/glossary.md`)."""
PRIVATE_NAMES = frozenset({"Couriers", "Ended", "Prepared", "Requests", "ActionSlot", "OpenLogin"})
PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
"""Of a name: `LoginInProgress`, `login_in_progress` and `LOGIN_IN_PROGRESS` have the same."""
GLOSSARY = Path("docs/glossary.md")
ENTRY = re.compile(r"(?m)^\| \*\*(.+?)\*\* \| (.+) \|$")
ADDRESS = re.compile(r"(?m)^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b|://| @ ")

MODULE = re.compile(r"\b\w+\.py\b")
TITLE = re.compile(r'title="([^"]+)"')
"""Of programs that a page shows."""


def main() -> int:
    """Print every fault, one a line."""
    faults = [
        *missing_files(),
        *long_code(),
        *addresses_in_lock_files(),
        *inhabited_namespace(),
        *import_circles(),
        *crowded_root(),
        *modules_that_are_gone(),
        *packages_without_a_line(),
        *read_sentences(),
        *private_names(),
        *glossary(),
    ]
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


def modules_that_are_gone() -> Iterator[str]:
    """A text that names a file of Python names one that is there."""
    there = {path.name for folder in ("src", "tests", "tools", "benchmarks") for path in Path(folder).rglob("*.py")}
    there |= {path.name for path in Path().glob("*.py")}
    for path in (*Path("src").rglob("*.py"), *Path("docs").glob("*.md"), *Path().glob("*.md")):
        if path.name == "CHANGELOG.md":
            continue
        text = path.read_text(encoding="utf-8")
        there_too = there | set(TITLE.findall(text))
        for name in sorted(set(MODULE.findall(text)) - there_too):
            yield f"{path} names {name}, which is not there"


def packages_without_a_line() -> Iterator[str]:
    """The map in the package's own docstring has a line for each package and module in it."""
    root = Path("src/spreadpilot_core/ibkr")
    text = (root / "__init__.py").read_text(encoding="utf-8").partition('"""\n\n')[0]
    for path in sorted(root.iterdir()):
        name = f"{path.name}/" if (path / "__init__.py").is_file() else path.name
        if not name.startswith("__") and name.endswith(("/", ".py")) and f"\n    {name} " not in text:
            yield f"the map in {root / '__init__.py'} lacks {name}"


def inhabited_namespace() -> Iterator[str]:
    """`spreadpilot_core` is shared with other distributions, so it must stay a namespace."""
    if Path("src/spreadpilot_core/__init__.py").exists():
        yield "src/spreadpilot_core/__init__.py must not be: the namespace is shared"


def import_circles() -> Iterator[str]:
    """Modules that need each other, also those that import for annotations alone; one circle at a time."""
    sys.path.insert(0, "src")  # this checkout, whatever is installed
    graph = grimp.build_graph(PACKAGE, cache_dir=None, exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        yield f"modules import each other in a circle: {' <- '.join(error.args[1])}"


def crowded_root() -> Iterator[str]:
    """What lies flat in the root is what a newcomer reads first."""
    modules = sorted(Path("src", *PACKAGE.split(".")).glob("*.py"))
    if len(modules) > MOST_IN_ROOT:
        yield f"{PACKAGE} has {len(modules)} modules in its root; {MOST_IN_ROOT} is the limit"


def read_sentences() -> Iterator[str]:
    """Code that tells things apart by a sentence: the wording is for people, and changes."""
    for path in sorted(Path("src").rglob("*.py")):
        if path.as_posix().startswith(READERS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if any(_is_sentence(each) for each in _compared(node)):
                yield f"{path}:{node.lineno} compares a sentence: give what it tells apart a code"  # type: ignore[attr-defined]


def private_names() -> Iterator[str]:
    """Modules, functions, classes, settings, events, arguments and variables that a newcomer had to learn a word for."""
    package = Path("src", *PACKAGE.split("."))
    for path in sorted(package.rglob("*")):
        if path.is_relative_to(package / "simulator") or not (path.is_dir() or path.suffix == ".py"):
            continue  # the simulator has an exchange's words: desks, terms, books
        if _is_private(path.stem):
            yield f"{path}: the name of {path.stem} is made of a private word; docs/glossary.md has the field's"
        if path.is_file():
            named = (
                (name, node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name in _named(node)
            )
            places = {name: getattr(node, "lineno", 1) for name, node in named if _is_private(name)}
            for name, line in places.items():
                yield f"{path}:{line} {name}: it is made of a private word; docs/glossary.md has the field's"


def glossary() -> Iterator[str]:
    """Each word once, in order, explained without those that are none any more."""
    entries = ENTRY.findall(GLOSSARY.read_text(encoding="utf-8")) if GLOSSARY.is_file() else []
    for word, meaning in entries:
        for part in sorted({part.lower() for part in PARTS.findall(f"{word} {meaning}")} & PRIVATE_WORDS):
            yield f"{GLOSSARY} explains a word that is none of ours any more: {part}"
    for (before, _), (word, _) in itertools.pairwise(entries):
        if word == before:
            yield f"{GLOSSARY} explains {word} twice"
        elif word < before:
            yield f"{GLOSSARY} is not sorted: {word} comes after {before}"


def _is_private(name: str) -> bool:
    return name in PRIVATE_NAMES or not PRIVATE_WORDS.isdisjoint(part.lower() for part in PARTS.findall(name))


def _named(node: ast.AST) -> list[str]:
    """What this node gives a name to."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            return [name]
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return [name]
        case ast.keyword(arg=str(name)) | ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
            return [name]
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            return [name]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return names
        case _:
            return []


def _compared(node: ast.AST) -> list[ast.expr]:
    """What this node compares with something."""
    match node:
        case ast.Compare():
            return [node.left, *node.comparators]
        case ast.MatchValue():
            return [node.value]
        case ast.Call(func=ast.Attribute(value=asked, attr=name)) if name in ASKING:
            return [asked, *node.args]
        case _:
            return []


def _is_sentence(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str(text)):
            return len(text.split()) > WORDS
        case ast.JoinedStr():
            return sum(len(str(each.value).split()) for each in node.values if isinstance(each, ast.Constant)) > WORDS
        case ast.Attribute(attr=name):
            return name in FOR_PEOPLE
        case ast.Tuple() | ast.List() | ast.Set():
            return any(_is_sentence(each) for each in node.elts)
        case _:
            return False


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


if __name__ == "__main__":
    sys.exit(main())
