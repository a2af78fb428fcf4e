"""A whole terminal that is drawn anew again and again: what stands on top, the newest sentences, and what stays at the bottom.

It takes the terminal's other screen, as `top` does, so that nothing of it is left above or below when the terminal changes its
size, and gives the first one back at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from spreadpilot_core.ibkr.system.wording import counted

_Lines: TypeAlias = list[list[Segment]]

_SENTENCES = 4
"""Lines that the newest sentences get although the top would fill the terminal."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is shown now; it fits whatever terminal it is drawn on."""

    top: RenderableType
    sentences: Sequence[Text] = ()
    """Oldest first; as many of the newest ones are shown as there is room for."""
    bottom: RenderableType | None = None
    short_top: RenderableType | None = None
    """The top where its end has no room: with what matters most first."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it for this width and height."""
        options = options.update(height=None)
        top, bottom = _lines(console, options, self.top), _lines(console, options, self.bottom)
        said = [line for each in self.sentences for line in _lines(console, options, each)]
        room = max(1, options.size.height - len(bottom))
        top_room = room - min(len(said), _SENTENCES) - bool(said)
        if len(top) > top_room and self.short_top is not None:
            top = _lines(console, options, self.short_top)
        top = _shortened(top, top_room, console, options)
        left = room - len(top) - 1
        drawn = [*top, *([[], *said[-left:]] if said and left > 0 else []), *bottom]
        for number, line in enumerate(drawn):
            yield from line
            if number < len(drawn) - 1:
                yield Segment.line()


def live(console: Console, picture: Picture) -> Live:
    """Draws it, and what it is updated with, until its block ends."""
    return Live(picture, console=console, screen=True, auto_refresh=False, redirect_stderr=False)


def _lines(console: Console, options: ConsoleOptions, shown: RenderableType | None) -> _Lines:
    return [] if shown is None else console.render_lines(shown, options, pad=False)


def _shortened(lines: _Lines, room: int, console: Console, options: ConsoleOptions) -> _Lines:
    """The first of them, and how many there are besides."""
    if len(lines) <= room:
        return lines
    fitting = lines[: max(1, room - 1)]
    more = Text(
        f"… {counted(len(lines) - len(fitting), 'line')} more, on a larger terminal or in a pipe", style="bright_black"
    )
    return [*fitting, *_lines(console, options, more)[:1]]
