"""A table that is never cut: where a terminal is too narrow for all columns, some follow their row on lines of their own.

    FOLLOWER  MODE   STATUS    ENDPOINT        ACCOUNTS
    alice     paper  RUNNING   127.0.0.1:4100  DU1000001
    bob       LIVE   FAILED    -               -
      IBKR did not accept user name and password. Store the right ones: `gateway-manager credentials set ibkr/bob`.

It knows texts and widths, and is laid out anew whenever it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_GAP = 2
_ROOM_TO_FOLD = 40
"""Cells that a last column needs at least, and so many that two lines hold it, to be folded beside the others, not below."""
_LONGEST_LEAD = 24
"""Cells; a longer first cell gets a line of its own where there is no room, and its row begins below it."""
_INDENT = 2


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells below headings."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Text]]
    below: Mapping[str, str | None]
    """What moves below its row, in this order, as far as need be, and the word before it there.

    "": lines of its own; None: it is left out.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it for this width."""
        shown, moved = self._arranged(options.max_width)
        widths = [self._width(each, is_tight=bool(moved)) for each in shown]
        yield from _row([Text(each, style="bold") for each in shown], widths, console, options.max_width)
        for row in self.rows:
            cells = dict(zip(self.columns, row, strict=True))
            yield from self._lead(cells, is_tight=bool(moved))
            yield from _row([cells[each] for each in shown], widths, console, options.max_width)
            yield from self._below(cells, moved, console, options.max_width)

    def _arranged(self, room: int) -> tuple[list[str], list[str]]:
        """What is shown in columns, and what below them."""
        shown, moved = list(self.columns), list[str]()
        for column in self.below:
            if self._needed(shown, is_tight=bool(moved)) <= room:
                break
            shown.remove(column)
            moved.append(column)
        return shown, [each for each in self.columns if each in moved]

    def _needed(self, shown: Sequence[str], *, is_tight: bool) -> int:
        *first, last = shown
        widths = [self._width(each, is_tight=is_tight) for each in first]
        whole = self._width(last, is_tight=is_tight)
        return sum(widths) + _GAP * len(first) + min(whole, max(_ROOM_TO_FOLD, (whole + 1) // 2))

    def _width(self, column: str, *, is_tight: bool) -> int:
        """Of its widest cell; where there is little room, of those that get no line of their own."""
        place = self.columns.index(column)
        widths = [row[place].cell_len for row in self.rows]
        if is_tight and place == 0:
            widths = [each for each in widths if each <= _LONGEST_LEAD]
        return max([len(column), *widths])

    def _lead(self, cells: dict[str, Text], *, is_tight: bool) -> Iterator[Text]:
        """A first cell that is too long for its column."""
        first = self.columns[0]
        if is_tight and cells[first].cell_len > _LONGEST_LEAD:
            yield cells[first]
            cells[first] = Text()

    def _below(self, cells: Mapping[str, Text], moved: Sequence[str], console: Console, room: int) -> Iterator[Text]:
        there = [each for each in moved if self.below[each] is not None and cells[each].plain not in ("", "-")]
        named = [Text(f"{self.below[each]} ").append_text(cells[each]) for each in there if self.below[each]]
        lines = [Text(", ").join(named)] if named else []
        for line in [*lines, *(cells[each] for each in there if not self.below[each])]:
            for part in line.wrap(console, max(1, room - _INDENT), overflow="fold"):
                part.rstrip()
                yield Text(" " * _INDENT).append_text(part)


def _row(cells: Sequence[Text], widths: Sequence[int], console: Console, room: int) -> Iterator[Text]:
    """The line of a row, and those on which its last cell goes on."""
    start = sum(widths[:-1]) + _GAP * (len(widths) - 1)
    line = Text()
    for cell, width in zip(cells[:-1], widths[:-1], strict=True):
        line.append_text(cell).append(" " * (width - cell.cell_len + _GAP))
    first, *rest = cells[-1].wrap(console, max(1, room - start), overflow="fold") or [Text()]
    line.append_text(first)
    line.rstrip()
    yield line
    for part in rest:
        part.rstrip()
        yield Text(" " * start).append_text(part)
