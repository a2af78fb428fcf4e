"""How the demo is seen: a live table on a terminal, plain lines anywhere else. It shows what it is given."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.screen import Picture, live
from spreadpilot_core.ibkr.system.local_time import in_local_time
from spreadpilot_core.ibkr.system.printable import one_line, printable

_LINES = 40
"""Sentences that are kept for below the live table, which shows the newest ones that it has room for."""
_AT_THE_END = 14
"""Sentences that stay on the terminal."""


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

    def offer(self, sentence: str, command: str) -> None:
        """A command for another terminal, which can be pasted there as it stands, from now on."""

    def offer_page(self, sentence: str, address: str) -> None:
        """An address for a browser, from now on."""


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
        print(
            f"{_clock()} {mark} {printable(f'{about}: ' if about else '')}{one_line(in_local_time(sentence))}",
            file=self._stream,
            flush=True,
        )

    def offer(self, sentence: str, command: str) -> None:
        """Print it on a line that holds nothing else."""
        self.say(sentence, loud=True)
        print(printable(command), file=self._stream, flush=True)

    offer_page = offer


class LiveScreen:
    """A table that changes in place, and the last sentences below it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or tables.console()
        self._gateways: Sequence[tables.Row] = ()
        self._sentences: deque[Text] = deque(maxlen=_LINES)
        self._offer: Offer | PageOffer | None = None
        self._live = live(self._console, self.picture())

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._console.print(tables.gateways(self._gateways), Text(), *list(self._sentences)[-_AT_THE_END:], sep="\n")

    def show(self, gateways: Sequence[tables.Row]) -> None:
        """Draw the table anew."""
        self._gateways = gateways
        self._live.update(self.picture(), refresh=True)

    def say(self, sentence: str, *, about: str = "", loud: bool = False) -> None:
        """Add it below the table."""
        line = Text(f"{_clock()}  ", style="bright_black")
        line.append(printable(f"{about}: ") if about else "", style="bold")
        line.append(one_line(in_local_time(sentence)), style="bold yellow" if loud else "default")
        self._sentences.append(line)
        self._live.update(self.picture(), refresh=True)

    def offer(self, sentence: str, command: str) -> None:
        """Keep it at the bottom."""
        self._offer = Offer(sentence, command)
        self._live.update(self.picture(), refresh=True)

    def offer_page(self, sentence: str, address: str) -> None:
        """Keep it at the bottom."""
        self._offer = PageOffer(sentence, address)
        self._live.update(self.picture(), refresh=True)

    def picture(self) -> Picture:
        """Everything that is on the screen now."""
        short = tables.gateways(tables.needy_first(self._gateways))
        return Picture(tables.gateways(self._gateways), tuple(self._sentences), self._offer, short_top=short)


@dataclass(frozen=True, slots=True)
class Offer:
    """A sentence, and below it a command, which a shell puts together again where it is broken."""

    sentence: str
    command: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it for this width."""
        yield Text()
        yield Text(one_line(self.sentence), style="bold yellow")
        yield Text("\n".join(broken(printable(self.command), options.max_width)), no_wrap=True)


@dataclass(frozen=True, slots=True)
class PageOffer:
    """A sentence, and below it an address, which many terminals open at a click."""

    sentence: str
    address: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it for this width."""
        yield Text()
        yield Text(one_line(self.sentence), style="bold yellow")
        yield Text(self.address, style=f"link {self.address}", overflow="fold")


def broken(command: str, width: int) -> list[str]:
    """The command on lines of at most this width: a backslash at a line's end joins it to the next."""
    lines = [""]
    for piece in re.findall(r"\\.|.", command):  # what is escaped stays with its backslash
        if len(lines[-1]) + len(piece) > width - 1:
            lines[-1] += "\\"
            lines.append("")
        lines[-1] += piece
    return lines


def _clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
