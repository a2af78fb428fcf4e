"""Runs the code blocks of the documentation, each page in a home of its own.

A `python` block is run as it stands, `await` at its top level included. In a `console` block each line after `$ ` is run by a shell, and
what it prints must be what follows, with `…` for anything. A page's blocks share their names and their shell's directory. A block that
can't run here has `<!-- not run: why -->` before it.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

from support.command import PROGRAM, Command
from support.home import Home

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")
_UNTIL_RUNNING = "until gateway-manager status 2>&1 | grep -q RUNNING; do sleep 0.1; done"
"""What a reader does between starting the manager and the next line."""
_FOLLOWERS = {"follower_123": "DU1234567", "follower_456": "DU7654321"}


class Page:
    """One page of the documentation, being run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, Any] = {}
        self.home = Home()
        self._command = Command(self.home)
        for name in ("PORT_RANGE_START", "PORT_RANGE_END"):  # pages speak of the default range
            del self._command.environment[name]
        self._command.environment["PATH"] = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
        self._planted = False
        self._script({"alice": {"laps": [{}, {"slow_start": 20.0}]}})  # launched again, she is STARTING when one looks

    async def _plant_followers(self) -> None:
        """The followers that programs speak of."""
        await self.home.add(*_FOLLOWERS)
        followers = {each: {"accounts": [account]} for each, account in _FOLLOWERS.items()}
        self._script(followers)

    def _script(self, followers: dict[str, Any]) -> None:
        (self.home.directory / "scripts.json").write_text(json.dumps({"followers": followers}))

    def examples(self) -> Iterator[Example]:
        """The blocks that can run, in their order."""
        text = self._path.read_text(encoding="utf-8")
        document = Document(text, str(self._path))
        regions = [
            *CodeBlockParser("python", self._python)(document),
            *CodeBlockParser("console", self._console)(document),
        ]
        for region in sorted(regions, key=lambda each: each.start):
            if not _NOT_RUN.search(text[: region.start]):
                document.add(region)
        return iter(document.examples())

    @property
    def environment(self) -> dict[str, str]:
        """The settings of this page's home."""
        return self._command.environment

    def _python(self, example: Example) -> None:
        if not self._planted:
            self._planted = True
            asyncio.run(self._plant_followers())
        source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
        code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        result = eval(code, self._names)  # noqa: S307  # our own documentation
        if inspect.iscoroutine(result):
            asyncio.run(_awaited(result))

    def _console(self, example: Example) -> None:
        commands, expected = _session(textwrap.dedent(example.parsed))
        script = "\n".join(
            f"printf '%s\\n' '{_mark(number)}'\n{command}\n{_UNTIL_RUNNING if command.endswith('&') else ''}"
            for number, command in enumerate(commands)
        )
        done = subprocess.run(
            ["sh", "-c", f'{script}\n[ -z "$!" ] || kill $!\nwait'],
            env=self.environment,
            cwd=self.home.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        for number, (command, wanted) in enumerate(zip(commands, expected, strict=True)):
            printed = done.stdout.partition(f"{_mark(number)}\n")[2].partition(_mark(number + 1))[0]
            assert _fits(wanted, printed), f"{example.path}:{example.line}: `{command}` printed:\n{printed}"


def _session(text: str) -> tuple[list[str], list[str]]:
    """The commands, and what each prints."""
    commands: list[str] = []
    expected: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
            expected.append("")
        else:
            expected[-1] += f"{line}\n"
    return commands, expected


def _fits(wanted: str, printed: str) -> bool:
    """Whether the output is the wanted one, blanks at the ends of lines apart; nothing wanted fits anything."""
    if not wanted:
        return True
    pattern = ".*".join(re.escape(_trimmed(part)) for part in wanted.split("…"))
    return re.fullmatch(pattern, _trimmed(printed), re.DOTALL) is not None


def _trimmed(text: str) -> str:
    return re.sub(r"[ \t]+(?=\n|\Z)", "", text)


def _mark(number: int) -> str:
    return f"-----{number}-----"


async def _awaited(coroutine: Any) -> None:
    await coroutine
