"""A terminal of a given size, which may change, and what is to be read on it; the installed command runs on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from select import select
from typing import TypeVar

import pyte

from support.command import PROGRAM
from support.waiting import PATIENCE

T = TypeVar("T")

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-z]")
_FIRST_SCREEN = b"\x1b[?1049l"


class Terminal:
    """What a user sees of one program."""

    def __init__(self, environment: Mapping[str, str], arguments: tuple[str, ...], columns: int, lines: int) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = pty.openpty()
        self.shown = b""
        """All that was ever written to it."""
        self._set_size(columns, lines)
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            env={name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
            | {"TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    @property
    def rows(self) -> list[str]:
        """What is on the screen now, without the blanks at the lines' ends."""
        return [row.rstrip() for row in self._screen.display]

    @property
    def after_the_end(self) -> str:
        """What stayed on the terminal when the program had given its first screen back."""
        return _COLOURS.sub("", self.shown.rpartition(_FIRST_SCREEN)[2].decode())

    def resize(self, columns: int, lines: int) -> None:
        """Make it larger or smaller; terminals keep on it what still fits."""
        self._screen.resize(lines, columns)
        self._set_size(columns, lines)
        os.kill(self.process.pid, signal.SIGWINCH)

    def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """Read until it holds for the rows, and give them."""
        deadline = time.monotonic() + 2 * PATIENCE
        while not holds(self.rows):
            assert time.monotonic() < deadline, "\n".join(self.rows)
            assert self._read(), "\n".join(self.rows)
        return self.rows

    def reading(self, work: Callable[[], T]) -> T:
        """What `work` answers; meanwhile the terminal goes on reading, as terminals do."""
        with ThreadPoolExecutor(1) as beside:
            answer = beside.submit(work)
            while not answer.done():
                if select([self._ours], [], [], 0.05)[0]:
                    self._read()
            return answer.result()

    def ends(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        """Whether there was something."""
        assert select([self._ours], [], [], 2 * PATIENCE)[0], "\n".join(self.rows)
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # the other side has ended
            return False
        self.shown += chunk
        self._stream.feed(chunk)
        return bool(chunk)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def close(self) -> None:
        """End what still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(environment: Mapping[str, str], *arguments: str, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    """The command on a terminal of its own, for as long as the block runs."""
    opened = Terminal(environment, arguments, columns, lines)
    try:
        yield opened
    finally:
        opened.close()
