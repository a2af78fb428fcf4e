"""How the demo is seen: a live table on a terminal, plain lines anywhere else. It shows what it is given."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from spreadpilot_core.ibkr.service import tables

_LINES = 14
"""Sentences that stay below the live table."""


class Screen(Protocol):
    """Where the demo is shown; used in a `with`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, gateways: Sequence[tables.Row]) -> None:
        """The gateways as they are now."""

    def say(self, sentence: str, *, about: str = "", loud: bool = False) -> None:
        """One thing that happened; `loud` ones are the demo's own doing."""


class PlainScreen:
    """One line for each sentence."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream if stream is not None else sys.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, gateways: Sequence[tables.Row]) -> None:
        """Changes are told as sentences already."""

    def say(self, sentence: str, *, about: str = "", loud: bool = False) -> None:
        """Print it."""
        mark = ">>" if loud else "  "
        print(f"{_clock()} {mark} {f'{about}: ' if about else ''}{sentence}", file=self._stream, flush=True)


class LiveScreen:
    """A table that changes in place, and the last sentences below it."""

    def __init__(self, console: Console | None = None) -> None:
        self._gateways: Sequence[tables.Row] = ()
        self._lines: deque[Text] = deque(maxlen=_LINES)
        self._live = Live(self.picture(), console=console, auto_refresh=False, redirect_stderr=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, gateways: Sequence[tables.Row]) -> None:
        """Draw the table anew."""
        self._gateways = gateways
        self._live.update(self.picture(), refresh=True)

    def say(self, sentence: str, *, about: str = "", loud: bool = False) -> None:
        """Add it below the table."""
        line = Text(f"{_clock()}  ", style="bright_black")
        line.append(f"{about}: " if about else "", style="bold")
        line.append(sentence, style="bold yellow" if loud else "default")
        self._lines.append(line)
        self._live.update(self.picture(), refresh=True)

    def picture(self) -> Group:
        """Everything that is on the screen now."""
        return Group(tables.gateways(self._gateways), Text(), *self._lines)


def _clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
