"""What the Makefile asks of its scripts on a machine that is not like the developers'."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.settings import Settings

TOOLS = Path(__file__).parents[2] / "tools"
OLD = """#!/bin/sh
case "$2" in *python_version*) echo 3.9.18;; *) exit 1;; esac
"""
"""As Python 3.9 answers what is asked of it."""
WITHOUT_VENV = """#!/bin/sh
case "$2" in *venv*) exit 1;; esac
"""


def find_python(home: Path, *, python3: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Ask in a home of its own, with only this `python3` on the PATH."""
    folder = home / "bin"
    folder.mkdir()
    if python3 is not None:
        (folder / "python3").write_text(python3)
        (folder / "python3").chmod(0o755)
    return subprocess.run(
        ["/bin/sh", TOOLS / "find_python.sh", *([environment.pop("version")] if "version" in environment else [])],
        env={"PATH": str(folder), "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_python_that_is_named_is_taken(tmp_path: Path) -> None:
    """`make PYTHON=…`, whatever is on the PATH."""
    done = find_python(tmp_path, PYTHON=sys.executable)
    assert (done.returncode, done.stdout) == (0, f"{sys.executable}\n")


def test_a_version_is_found_among_those_of_pyenv(tmp_path: Path) -> None:
    """Also one that is not switched on."""
    version = "{}.{}".format(*sys.version_info[:2])
    folder = tmp_path / ".pyenv" / "versions" / f"{version}.1" / "bin"
    folder.mkdir(parents=True)
    (folder / "python3").symlink_to(sys.executable)
    done = find_python(tmp_path, version=version)
    assert (done.returncode, done.stdout) == (0, f"{folder / 'python3'}\n")


@pytest.mark.parametrize(
    ("python3", "environment", "sentence"),
    [
        (None, {}, "Python 3.11 or newer is needed and none was found: install one, or name it"),
        (OLD, {}, "Python 3.11 or newer is needed and none was found: install one, or name it"),
        (OLD, {"PYTHON": "python3"}, "python3 is Python 3.9.18, and 3.11 or newer is needed: install one, or name it"),
        (OLD, {"PYTHON": "nonsense"}, "nonsense is no Python that runs: install one, or name it"),
        (WITHOUT_VENV, {}, "python3 can't make a virtual environment: install its venv package"),
        (OLD, {"version": "3.12"}, "Python 3.12 is needed and none was found: install one, or name it"),
    ],
    ids=["none", "old", "old and named", "no Python", "without venv", "a version"],
)
def test_a_python_that_can_not_be_used_is_told_in_one_sentence(
    tmp_path: Path, python3: str | None, environment: dict[str, str], sentence: str
) -> None:
    """What is missing, and how to get it; no traceback and no error of pip's."""
    done = find_python(tmp_path, python3=python3, **environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


MAKES_OWN = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "VENV", "ARGS", "COV", "SECOND_CHANCE", "PYTHON")
"""What the `make` that runs these tests tells those that it starts; a user's own is told nothing."""


def test_an_environment_of_an_older_python_is_told_before_pip_fails(tmp_path: Path) -> None:
    """`.venv` that somebody made with what was at hand: `make` says which Python it is, and to remove it."""
    shutil.copy(TOOLS.parent / "Makefile", tmp_path)
    (tmp_path / "tools").symlink_to(TOOLS)
    (tmp_path / "requirements").symlink_to(TOOLS.parent / "requirements")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(OLD)
    python.chmod(0o755)
    ours = {name: value for name, value in os.environ.items() if name not in MAKES_OWN}
    done = subprocess.run(["make", "demo"], cwd=tmp_path, env=ours, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    told, remove, *_ = done.stderr.splitlines()
    assert told.startswith(".venv/bin/python is Python 3.9.18, and 3.11 or newer is needed")
    assert remove == "Remove .venv, which was made with it."
    assert "pip" not in done.stdout + done.stderr


def retest(folder: Path, module: str) -> subprocess.CompletedProcess[str]:
    """Run this module's tests as continuous integration runs all of them."""
    (folder / "test_it.py").write_text(module)
    pytest = Path(sys.executable).with_name("pytest")
    return subprocess.run(
        [sys.executable, TOOLS / "retest.py", pytest, "--quiet", "test_it.py"],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


UNSTEADY = """
import pathlib, pytest
runs = pathlib.Path("runs")
runs.write_text(runs.read_text() + "." if runs.exists() else ".")

@pytest.mark.parametrize("number", range(7))
def test_first_run(number):
    assert number >= {failing} or len(runs.read_text()) > 1
"""
"""The first few fail in the first run, and in no other."""
VERSION = "{}.{}".format(*sys.version_info[:2])


def test_what_passes_alone_is_told_and_costs_no_run(tmp_path: Path) -> None:
    """Those that failed run once more, and their names are kept; what an earlier run left is not theirs."""
    left = tmp_path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    left.parent.mkdir(parents=True)
    left.write_text('{"test_it.py::test_that_is_gone": true}')
    done = retest(tmp_path, UNSTEADY.format(failing=5))
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout
    kept = (tmp_path / ".cache" / "unsteady").read_text().splitlines()
    assert kept == [f"  Python {VERSION}: test_it.py::test_first_run[{number}]" for number in range(5)]


@pytest.mark.parametrize(
    ("module", "code", "runs"),
    [
        (UNSTEADY.format(failing=6), 1, 1),
        (UNSTEADY.format(failing=0), 0, 1),
        (UNSTEADY.format(failing=2).replace("> 1", "> 2"), 1, 2),
        (f"{UNSTEADY.format(failing=1)}\nraise SystemError", 2, 1),
    ],
    ids=["many", "none", "twice", "no tests"],
)
def test_what_is_broken_stays_broken(tmp_path: Path, module: str, code: int, runs: int) -> None:
    """More than a few, twice the same, or a run that broke off; and nothing runs again where nothing failed."""
    assert retest(tmp_path, module).returncode == code
    assert len((tmp_path / "runs").read_text()) == runs
    assert not (tmp_path / ".cache" / "unsteady").exists()


def test_coverage_that_was_never_measured_does_not_stop_a_check(tmp_path: Path) -> None:
    """A fresh clone: it says so and goes on."""
    done = subprocess.run(
        [sys.executable, TOOLS / "check_coverage.py"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Coverage was not checked, since it was not measured here: `make test COV=--cov` does.\n"


def check_repository(
    project: Path, modules: dict[str, str], *, glossary: str | None = ""
) -> subprocess.CompletedProcess[str]:
    """Check a project whose root package holds these modules."""
    package = project / "src" / "spreadpilot_core" / "ibkr"
    package.mkdir(parents=True)
    for name in ("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "docs/demo.svg"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).touch()
    if glossary is not None:
        (project / "docs" / "glossary.md").write_text(glossary)
    lines = "".join(f"    {name} one of them\n" for name in modules)
    for name, text in {"__init__.py": f'"""The map.\n\n{lines}"""\n\n', "py.typed": "", **modules}.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    return subprocess.run(
        [sys.executable, TOOLS / "check_repository.py"], cwd=project, capture_output=True, text=True, check=False
    )


def test_a_project_without_faults_passes(tmp_path: Path) -> None:
    """Ten modules in the root, each of which imports only what imports it not."""
    chain = {f"m{each}.py": f"from spreadpilot_core.ibkr import m{each + 1}\n" for each in range(8)} | {"m8.py": ""}
    done = check_repository(tmp_path, chain)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    "back",
    [
        "from spreadpilot_core.ibkr.first import First\n",
        "if TYPE_CHECKING:\n    from spreadpilot_core.ibkr.first import First\n",
        "def late():\n    from spreadpilot_core.ibkr import first\n",
    ],
    ids=["plain", "for annotations", "inside a function"],
)
def test_modules_that_import_each_other_are_found_however_they_hide_it(tmp_path: Path, back: str) -> None:
    """First needs second, second third, and third needs first."""
    done = check_repository(
        tmp_path,
        {
            "first.py": "from spreadpilot_core.ibkr import second\n",
            "second.py": "import spreadpilot_core.ibkr.third\n",
            "third.py": f"from typing import TYPE_CHECKING\n\n{back}",
        },
    )
    assert done.returncode == 1
    assert done.stdout.startswith("modules import each other in a circle: spreadpilot_core.ibkr.")
    assert all(name in done.stdout for name in ("first", "second", "third"))


def test_a_root_with_more_than_ten_modules_is_told(tmp_path: Path) -> None:
    """The package's own file is one of them."""
    done = check_repository(tmp_path, {f"m{each}.py": "" for each in range(10)})
    assert done.returncode == 1
    assert done.stdout == "spreadpilot_core.ibkr has 11 modules in its root; 10 is the limit\n"


DECIDES_BY_A_SENTENCE = """
def by_words(said, decision):
    if said == "It was not looked at yet.":
        return 1
    if said.startswith("IBKR did not accept"):
        return 2
    if decision.next_action is not None:
        return 3
    if f"{said} was stopped by an operator" in decision:
        return 4
    match said:
        case "It is given up now":
            return 5
    return said in ("ok", "The engine is not there.")
"""
DECIDES_BY_A_CODE = """
def by_code(said, decision):
    sentence = decision.sentence or "It is ready, and nothing else."
    return sentence if decision.code == "LOGIN_PAUSE" or said in ("ok", "not yet here") else None
"""


@pytest.mark.parametrize(
    ("part", "text", "lines"),
    [
        ("deciding", DECIDES_BY_A_SENTENCE, [3, 5, 7, 9, 12, 14]),
        ("controller_log", DECIDES_BY_A_SENTENCE, []),
        ("deciding", DECIDES_BY_A_CODE, []),
    ],
)
def test_code_that_tells_things_apart_by_a_sentence_is_a_fault(
    tmp_path: Path, part: str, text: str, lines: list[int]
) -> None:
    """However it is compared; what reads other programs' sentences may."""
    done = check_repository(tmp_path, {f"{part}/module.py": text})
    found = [line for line in done.stdout.splitlines() if "compares a sentence" in line]
    assert sorted(int(line.split(":")[1].split()[0]) for line in found) == lines


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def is_told(follower): ...\n", "is_told"),
        ("async def kept_lines(): ...\n", "kept_lines"),
        ("class TermLostError(Exception): ...\n", "TermLostError"),
        ("class CredentialDesk: ...\n", "CredentialDesk"),
        ("class Settings:\n    term: float = 10\n", "term"),
        ("def see(look): ...\n", "look"),
        ("def see(*turns, **others): ...\n", "turns"),
        ("seen = [opened for opened in ()]\n", "opened"),
        ("class View:\n    def __init__(self):\n        self._presence = 1\n", "_presence"),
        ("LONGEST_TERM = 1\n", "LONGEST_TERM"),
        ("import asyncio as desk\n", "desk"),
        ("match 1:\n    case standing:\n        ...\n", "standing"),
        ("match []:\n    case [*deeds]:\n        ...\n", "deeds"),
        ("match {}:\n    case {**doors}:\n        ...\n", "doors"),
        ("try:\n    ...\nexcept ValueError as told:\n    ...\n", "told"),
        ("print(1, kept=2)\n", "kept"),
        ("def observe():\n    global _house\n    _house = 1\n", "_house"),
        ("class Prepared: ...\n", "Prepared"),
    ],
)
def test_a_name_made_of_a_private_word_is_a_fault(tmp_path: Path, text: str, name: str) -> None:
    """A function, a class, a setting, an argument, a variable, however it is bound; said once, with its place."""
    done = check_repository(tmp_path, {"deciding/module.py": text})
    assert done.returncode == 1
    (fault,) = [line for line in done.stdout.splitlines() if "private word" in line]
    assert f" {name}:" in fault
    assert fault.startswith("src/spreadpilot_core/ibkr/deciding/module.py:")


def test_a_module_named_by_a_private_word_is_a_fault(tmp_path: Path) -> None:
    """Its name is the first that a newcomer reads."""
    done = check_repository(tmp_path, {"deciding/keep_telling.py": "", "custody/module.py": ""})
    assert sorted(line.split(":")[0] for line in done.stdout.splitlines() if "private word" in line) == [
        "src/spreadpilot_core/ibkr/custody",
        "src/spreadpilot_core/ibkr/deciding/keep_telling.py",
    ]


ORDINARY = '''
from dataclasses import dataclass

@dataclass(slots=True)
class Outcome:
    """What was told of it, in the house's own terms."""

    prepared_version: str = "kept"

def terminal(determined, outlook, ended):
    raise ValueError(f"the door {ended} was opened")
'''


@pytest.mark.parametrize(
    ("part", "text"),
    [("deciding", ORDINARY), ("simulator", "class DoorDesk:\n    told = 1\n")],
    ids=["prose", "simulator"],
)
def test_ordinary_english_and_the_simulator_have_their_own_words(tmp_path: Path, part: str, text: str) -> None:
    """Prose is free, a word is no part of a longer one, and the simulator's desks are an exchange's."""
    done = check_repository(tmp_path, {f"{part}/module.py": text})
    assert "private word" not in done.stdout


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (("desk", "courier"), "docs/glossary.md explains a word that is none of ours any more: desk"),
        (("courier", "action"), "docs/glossary.md is not sorted: action comes after courier"),
        (("action", "action"), "docs/glossary.md explains action twice"),
    ],
)
def test_a_glossary_has_each_word_once_and_in_order(tmp_path: Path, rows: tuple[str, ...], fault: str) -> None:
    """A word of the old names is found in a meaning too."""
    text = "".join(f"| **{row}** | What it means. |\n" for row in rows)
    assert fault in check_repository(tmp_path, {}, glossary=text).stdout.splitlines()


def test_a_meaning_made_of_a_private_word_is_a_fault(tmp_path: Path) -> None:
    """A reader looks a word up and must not find another one to learn."""
    done = check_repository(tmp_path, {}, glossary="| **courier** | It goes to the door. |\n")
    assert "docs/glossary.md explains a word that is none of ours any more: door" in done.stdout.splitlines()


def test_a_project_without_a_glossary_lacks_something(tmp_path: Path) -> None:
    """As one without a licence does."""
    done = check_repository(tmp_path, {}, glossary=None)
    assert done.stdout == "docs/glossary.md is missing\n"


def test_each_setting_is_in_one_table_and_what_only_tunes_in_its_own(tmp_path: Path) -> None:
    """The page is written anew from `Settings` alone, whatever was in its tables, and its own text stays."""
    page = tmp_path / "docs" / "settings.md"
    page.parent.mkdir()
    written = (TOOLS.parent / "docs" / "settings.md").read_text()
    page.write_text("\n".join(line for line in written.splitlines() if not line.startswith("| `")) + "\n")
    check = [sys.executable, TOOLS / "write_settings.py", "--check"]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 1
    subprocess.run(check[:2], cwd=tmp_path, check=True)
    assert page.read_text() == written
    needed, tuning = (
        {line.split("`")[1] for line in part.splitlines() if line.startswith("| `")}
        for part in written.split("## What only tunes")
    )
    assert needed | tuning == set(Settings.model_fields)
    assert not needed & tuning
    assert {"stop_grace", "poll_interval"} <= tuning
    assert {"gateway_image", "healthcheck_interval", "login_budget", "on_exit"} <= needed
