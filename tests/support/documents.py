"""Runs a page of the documentation as a reader runs it: its blocks top to bottom, in one shell, in a fresh home.

The reader stands in a checkout and has the command on the PATH, unless the page itself activates the environment. In a `console` block
each line after `$ ` is a command, and what it prints must be what follows, with `…` for anything; one that shows no output must
succeed. A `sh` block is run as it stands, a `python` block as a program, or saved under its title for the page to run. A block that
can't run here has `<!-- not run: why -->` before it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_ACTIVATE = ".venv/bin/activate"
_TITLE = re.compile(r'\btitle="([^"]+)"')


@dataclass(frozen=True)
class Step:
    """What a reader does at once."""

    line: int
    """Where its block begins."""
    command: str
    wanted: str | None = None
    """None: that it succeeds, whatever it prints."""


class Page:
    """One page of the documentation, and the reader's home."""

    def __init__(
        self, path: Path, *, python: Path = Path(sys.executable), replaced: tuple[str, str] = ("", "")
    ) -> None:
        """`python`: of the environment that the reader has; `replaced`: what a reader with other packages writes instead."""
        self._path = path
        self._text = path.read_text(encoding="utf-8").replace(*replaced)
        self._venv = python.parents[1]
        self._place = Path(tempfile.mkdtemp(prefix="gm-page-", dir="/tmp"))  # short: it holds Unix sockets
        self._home, self._checkout = self._place / "home", self._place / "checkout"
        self._home.mkdir()
        self._checkout.mkdir()
        for each in ROOT.iterdir():
            if not each.name.startswith("."):
                (self._checkout / each.name).symlink_to(each)
        (self._checkout / ".venv").symlink_to(self._venv)

    def follow(self) -> None:
        """Run every step and compare; afterwards nothing that the page began may run."""
        steps = list(self._steps())
        script = "\n".join(f"echo '{_mark(n)}'\n{step.command}\necho \"code $?\"" for n, step in enumerate(steps))
        with (self._place / "output").open("wb") as output_file:
            shell = subprocess.Popen(
                ["sh", "-c", f"{script}\necho '{_mark(len(steps))}'"],
                env=self._environment(),
                cwd=self._checkout,
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            shell.wait(2 * PATIENCE)
            output = (self._place / "output").read_text(encoding="utf-8")
            for number, step in enumerate(steps):
                printed = output.partition(f"{_mark(number)}\n")[2].partition(_mark(number + 1))[0]
                self._compare(step, printed)
            wait_until(lambda: not _lives(shell.pid), within=PATIENCE)
        finally:
            if _lives(shell.pid):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
        assert asyncio.run(self._gateways()) == [], f"{self._path.name} leaves gateways behind"

    def close(self) -> None:
        """Remove the home; the host of its simulated gateways ends with it."""
        shutil.rmtree(self._place, ignore_errors=True)

    def _steps(self) -> Iterator[Step]:
        """What the page has a reader do, in its order."""
        before: Token | None = None
        for token in MarkdownIt().parse(self._text):
            skipped = before is not None and before.type == "html_block" and "<!-- not run:" in before.content
            if token.type == "fence" and token.map is not None and not skipped:
                yield from self._block(token, token.map[0] + 2)
            before = token

    def _block(self, token: Token, line: int) -> Iterator[Step]:
        match token.info.partition(" ")[0]:
            case "console":
                yield from _session(token.content, line)
            case "sh":
                yield Step(line, token.content)
            case "python":
                title = _TITLE.search(token.info)
                name = title[1] if title is not None else f"line_{line}.py"
                (self._checkout / name).write_text(token.content, encoding="utf-8")
                if title is None:
                    yield Step(line, f"python {name}")

    def _environment(self) -> dict[str, str]:
        """A login's, with the command on its PATH; gateways are simulated ones."""
        ours = Path(sys.prefix, "bin")
        path = [each for each in os.environ["PATH"].split(os.pathsep) if Path(each).resolve() != ours.resolve()]
        if _ACTIVATE not in self._text:
            path.insert(0, f"{self._venv}/bin")
        kept = {name: value for name, value in os.environ.items() if name.startswith("COV")}
        return {
            **kept,
            "HOME": str(self._home),
            "PATH": os.pathsep.join(path),
            "GATEWAY_MANAGER_RUNTIME_URL": "simulated:",
        }

    def _compare(self, step: Step, printed: str) -> None:
        text, _, code = printed.rpartition("code ")
        told = f"{self._path.name}:{step.line}: `{step.command.strip()}` printed, with exit {code.strip()}:\n{text}"
        assert code, told
        if step.wanted is None:
            assert code.strip() == "0", told
        else:
            assert fits(step.wanted, text), told

    async def _gateways(self) -> list[str]:
        """Which simulated gateways run."""
        names: list[str] = []
        for file in list(self._place.rglob("simulated-host.json")):
            runtime = SimulatedRuntime(file.parent, owner="ibgateway-follower", manager_id="test")
            await runtime.open()
            names += [each.name for each in await runtime.list()]
            await runtime.close()
        return names


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _session(text: str, line: int) -> Iterator[Step]:
    """The commands of a `console` block, each with what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, wanted = part.partition("\n")
        yield Step(line, command, wanted or None)


def fits(wanted: str, printed: str) -> bool:
    """Whether the output is the wanted one, however many blanks make its columns."""
    pattern = ".*".join(re.escape(_trimmed(part)) for part in wanted.split("…"))
    return re.fullmatch(pattern, _trimmed(printed), re.DOTALL) is not None


def _trimmed(text: str) -> str:
    return re.sub(r"[ \t]+", " ", re.sub(r"[ \t]+(?=\n|\Z)", "", text))


def _mark(number: int) -> str:
    return f"-----{number}-----"
