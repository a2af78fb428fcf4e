"""Help and usage of every command, as `--help` shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from spreadpilot_core.ibkr.service.cli import app


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from _commands(command, (*path, name))


COMMANDS = list(_commands(typer.main.get_command(app)))


def help_of(*path: str) -> str:
    """What it prints at 80 columns."""
    shown = CliRunner().invoke(app, [*path, "--help"], terminal_width=80, env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_usage_reads_as_in_any_manual(path: tuple[str, ...]) -> None:
    """No braces around what must be said, no brackets twice, no Python types, and no sentence that is cut."""
    shown = help_of(*path)
    usage = shown.splitlines()[0]
    assert not re.search(r"[{}]|\[\[|\]\]", usage), usage
    assert not re.search(r"<\w+(\[\w+\])?>", shown), shown
    assert not re.search(r"\w\.\.\.$", shown.partition("\n\n")[2], re.MULTILINE), shown


@pytest.mark.parametrize(
    ("path", "usage"),
    [
        (("reconnect",), "[OPTIONS] FOLLOWER"),
        (("status",), "[OPTIONS] [FOLLOWER]"),
        (("launch",), "[OPTIONS] [FOLLOWER]..."),
        (("followers", "set"), "[OPTIONS] FOLLOWER KEY=VALUE..."),
        (("followers", "check"), "[OPTIONS] [FILE]"),
        (("audit", "show"), "[OPTIONS] [FOLLOWER]"),
        (("credentials", "set"), "[OPTIONS] REF"),
    ],
)
def test_arguments_in_usage(path: tuple[str, ...], usage: str) -> None:
    """What must be said stands bare, what may be said in brackets, and what may be said again has dots."""
    assert help_of(*path).splitlines()[0].endswith(f" {' '.join(path)} {usage}")
