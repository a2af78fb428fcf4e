"""How lists look on a terminal, in a pipe and as JSON. It knows the fields of a snapshot and nothing of where it came from."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from spreadpilot_core.ibkr.service.grid import Grid
from spreadpilot_core.ibkr.system.local_time import in_local_time, local_time, without_times
from spreadpilot_core.ibkr.system.printable import one_line, printable, unescaped

Row = Mapping[str, Any]

_COLOURS = {
    "RUNNING": "green",
    "STARTING": "cyan",
    "STOPPED": "bright_black",
    "FAILED": "bold red",
    "degraded": "yellow",
}
_LONG = 60
"""Characters; a longer sentence is not said twice in one table."""
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:")
"""How a moment among the facts begins; names and numbers don't."""
_WIDE = 10_000
"""Columns where nobody's terminal sets a limit: a pipe gets each row on one line."""


def console() -> Console:
    """Standard output: as wide as the terminal, and never folding a line in a pipe."""
    if sys.stdout.isatty():
        return Console(file=unescaped(sys.stdout), soft_wrap=False, highlight=False)
    return Console(
        file=cast("IO[str]", _Unpadded(unescaped(sys.stdout))), soft_wrap=False, highlight=False, width=_WIDE
    )


class _Unpadded:
    """A pipe that gets no blanks at the ends of lines."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write it, whole lines at a time as tables are."""
        return self._stream.write("\n".join(line.rstrip(" ") for line in text.split("\n")))


def print_json(rows: Iterable[Row], *, indent: int | None = 2) -> None:
    """A list of objects."""
    text = json.dumps(list(rows), indent=indent, ensure_ascii=False, default=str)
    print(printable(text, keep="\n"), flush=True)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, below: Mapping[str, str | None] | None = None
) -> RenderableType:
    """A plain table; None is a dash. `below` says what moves below its row where the terminal is too narrow (see `Grid`)."""
    return Grid(columns, [[_cell(value) for value in row] for row in rows], below=below or {})


def bare(rows: Iterable[Sequence[Any]]) -> Table:
    """Rows without headings; the last column takes the room that is left."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    return grid


def gateways(snapshots: Iterable[Row], *, now: datetime | None = None) -> RenderableType:
    """One line a gateway; where the terminal is too narrow, the sentence and what matters least follow below it."""
    now = now or datetime.now(UTC)
    snapshots = list(snapshots)
    sentences = _without_repeats(snapshots)
    columns: dict[str, Callable[[Row], Text]] = {
        "FOLLOWER": lambda each: _cell(each["follower_id"]),
        "MODE": lambda each: mode(each["trading_mode"]),
        "STATUS": status,
        "STATE": lambda each: _cell(each["state"]),
        "FOR": lambda each: Text(_age(each["since"], now)),
        "ENDPOINT": lambda each: _cell(each["endpoint"]),
        "CLIENT": lambda each: _cell(each["client_id"]),
        "ACCOUNTS": lambda each: _cell(each["accounts"]),
        "WHAT": lambda each: _cell(sentences[each["follower_id"]]),
    }
    below: dict[str, str | None] = {
        "WHAT": "",
        "CLIENT": None,
        "FOR": None,
        "STATE": "state",
        "ACCOUNTS": "accounts",
        "ENDPOINT": "at",
    }
    return Grid(tuple(columns), [[cell(each) for cell in columns.values()] for each in snapshots], below=below)


def needy_first(snapshots: Iterable[Row]) -> list[Row]:
    """Whoever waits for a human first, then whoever is not ready, else in the order given."""

    def rank(each: Row) -> int:
        if each["status"] == "FAILED" or each["state"] == "awaiting_2fa":
            return 0
        return 1 if each["status"] == "STARTING" or each["state"] == "degraded" else 2

    return sorted(snapshots, key=rank)


def _without_repeats(snapshots: Iterable[Row]) -> dict[str, str]:
    """What there is to say of each follower; a sentence that is another one's too is said there alone."""
    first: dict[str, str] = {}
    sentences: dict[str, str] = {}
    for each in snapshots:
        said, follower = what(each), each["follower_id"]
        earlier = first.setdefault(without_times(_said(each)), follower)
        is_repeat = earlier != follower and len(said) > _LONG
        sentences[follower] = f"The same as {one_line(earlier)}." if is_repeat else said
    return sentences


def gateway(snapshot: Row) -> Table:
    """Everything about one."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in snapshot.items():
        grid.add_row(_cell(name.replace("_", " ")), _detail(snapshot, name, value))
    return grid


def _detail(snapshot: Row, name: str, value: Any) -> Text:
    match name:
        case "status":
            return status(snapshot)
        case "trading_mode":
            return mode(value)
        case "since" | "last_heartbeat" if value:
            return _cell(local_time(value))
        case "reason" | "next_action" if value:
            return _cell(in_local_time(value))
        case "facts":
            return _cell({fact: _fact(each) for fact, each in value.items()})
        case "notices":
            return _cell([in_local_time(each) for each in value])
        case _:
            return _cell(value)


def _fact(value: Any) -> Any:
    return local_time(value) if isinstance(value, str) and _MOMENT.match(value) else value


def mode(trading_mode: str | None) -> Text:
    """Paper or live; live can't be overlooked, also where there are no colours."""
    return Text("LIVE", style="bold magenta") if trading_mode == "live" else _cell(trading_mode)


def status(snapshot: Row) -> Text:
    """The four-value status in its colour."""
    colour = _COLOURS.get(snapshot["state"]) or _COLOURS[snapshot["status"]]
    return Text(printable(snapshot["status"]), style=colour)


def what(snapshot: Row) -> str:
    """Reason, next action and notices, as one line, with times as the reader's clock shows them."""
    return one_line(in_local_time(_said(snapshot)))


def _said(snapshot: Row) -> str:
    return " ".join(filter(None, (snapshot["reason"], snapshot["next_action"], *snapshot["notices"])))


def _cell(value: Any) -> Text:
    if isinstance(value, Text):
        return value
    if value in (None, "", (), [], {}):
        return Text("-", style="bright_black")
    return Text(printable(_written(value)))


def _written(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{name} {each}" for name, each in value.items() if each is not None)
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _age(since: str, now: datetime) -> str:
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
