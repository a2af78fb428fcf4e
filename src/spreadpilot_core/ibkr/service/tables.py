"""How lists look on a terminal, in a pipe and as JSON. It knows the fields of a snapshot and nothing of where it came from."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

_COLOURS = {
    "RUNNING": "green",
    "STARTING": "cyan",
    "STOPPED": "bright_black",
    "FAILED": "bold red",
    "degraded": "yellow",
}
_WIDE = 10_000
"""Columns where nobody's terminal sets a limit: a pipe gets each row on one line."""
_ALL_COLUMNS = 100
"""A terminal narrower than this would cut every column of a gateway to nothing."""
_WHEN_NARROW = ("FOLLOWER", "STATUS")


def console() -> Console:
    """Standard output: as wide as the terminal, and never folding a line in a pipe."""
    return Console(soft_wrap=False, highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def print_json(rows: Iterable[Row], *, indent: int | None = 2) -> None:
    """A list of objects."""
    print(json.dumps(list(rows), indent=indent, ensure_ascii=False, default=str), flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table; None is a dash."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        grid.add_column(column)
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    return grid


def bare(rows: Iterable[Sequence[Any]]) -> Table:
    """Rows without headings; the last column takes the room that is left."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for row in rows:
        grid.add_row(*(value if isinstance(value, Text) else _cell(value) for value in row))
    return grid


def gateways(snapshots: Iterable[Row], *, now: datetime | None = None) -> Table:
    """One line a gateway; the sentence takes the room that is left, for which a narrow terminal shows fewer columns."""
    now = now or datetime.now(UTC)
    columns: dict[str, Callable[[Row], Text]] = {
        "FOLLOWER": lambda each: Text(each["follower_id"]),
        "STATUS": status,
        "STATE": lambda each: Text(each["state"]),
        "FOR": lambda each: Text(_age(each["since"], now)),
        "ENDPOINT": lambda each: _cell(each["endpoint"]),
        "CLIENT": lambda each: _cell(each["client_id"]),
        "ACCOUNTS": lambda each: _cell(each["accounts"]),
    }
    shown = {name: columns[name] for name in (columns if console().width >= _ALL_COLUMNS else _WHEN_NARROW)}
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in shown:
        grid.add_column(column, no_wrap=True)
    grid.add_column("WHAT", overflow="fold")
    for each in snapshots:
        grid.add_row(*(cell(each) for cell in shown.values()), Text(what(each)))
    return grid


def gateway(snapshot: Row) -> Table:
    """Everything about one."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in snapshot.items():
        grid.add_row(name.replace("_", " "), status(snapshot) if name == "status" else _cell(value))
    return grid


def status(snapshot: Row) -> Text:
    """The four-value status in its colour."""
    colour = _COLOURS.get(snapshot["state"]) or _COLOURS[snapshot["status"]]
    return Text(snapshot["status"], style=colour)


def what(snapshot: Row) -> str:
    """Reason, next action and notices, as one text."""
    return " ".join(filter(None, (snapshot["reason"], snapshot["next_action"], *snapshot["notices"])))


def _cell(value: Any) -> Text:
    match value:
        case None | "" | () | []:
            return Text("-", style="bright_black")
        case bool():
            return Text("yes" if value else "no")
        case Mapping():
            return Text(", ".join(f"{name} {each}" for name, each in value.items() if each is not None))
        case list() | tuple():
            return Text(", ".join(map(str, value)))
        case _:
            return Text(str(value))


def _age(since: str, now: datetime) -> str:
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
