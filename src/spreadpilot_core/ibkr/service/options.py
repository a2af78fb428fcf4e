"""What several commands take alike, how a group of them is made, and how one that is refused ends."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from spreadpilot_core.ibkr.service.usage import Commands
from spreadpilot_core.ibkr.system.local_time import in_local_time
from spreadpilot_core.ibkr.system.printable import one_line


def _trading_mode(text: str) -> str:
    if text not in ("paper", "live"):
        msg = f"{text!r} is neither paper nor live."
        raise typer.BadParameter(msg)
    return text


def whole_number(*, most: int | None = None) -> Callable[[str], int]:
    """Reads one from 1 on, up to `most`."""

    def read(text: str) -> int:
        said = str(text)  # a default comes as it is
        number = int(said) if said.isascii() and said.isdigit() and len(said) <= _MOST_DIGITS else 0
        if number < 1 or number > (most or number):
            upto = "on" if most is None else f"to {most}"
            msg = f"{said!r} is no whole number from 1 {upto}."
            raise typer.BadParameter(msg)
        return number

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        msg = f"{text!r} is no number of seconds, 0 or more."
        raise typer.BadParameter(msg)
    return seconds


def role(text: str) -> str:
    """One of a token's roles; `access.callers.Role`, which a command that shows its help does not load, has them too."""
    if text not in ("viewer", "trader", "operator"):
        msg = f"{text!r} is neither viewer, trader nor operator."
        raise typer.BadParameter(msg)
    return text


_MOST_DIGITS = 9

Follower = Annotated[str, typer.Argument(metavar="FOLLOWER", help="The follower's id.", show_default=False)]
Followers = Annotated[
    list[str] | None, typer.Argument(metavar="FOLLOWER", help="Their ids, or --all.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before something live is ended.")]
YesUnwatched = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before something live is left unwatched.")]
Reference = Annotated[str, typer.Argument(metavar="REF", help="Such as ibkr/alice.", show_default=False)]
ClientName = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="NAME", help="Get the client id that was NAME's before, while it is free.", show_default=False
    ),
]
Wait = Annotated[
    float,
    typer.Option("--wait", metavar="SECONDS", parser=_seconds, help="How long the gateway may take to become ready."),
]
Require = Annotated[
    str | None,
    typer.Option(
        "--require",
        metavar="paper|live",
        parser=_trading_mode,
        help="Refuse in the other trading mode.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Of another manager: unix:PATH or https://HOST:PORT.", show_default=False
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Where the token for that URL is.", show_default=False),
]
CaFile = Annotated[
    Path | None,
    typer.Option("--ca-file", metavar="FILE", help="Certificates to trust for that URL.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print a list of objects instead of a table.")]


def new_group(about: str) -> Commands:
    """A group of commands without a command of its own."""
    return Commands(help=about, no_args_is_help=True, rich_markup_mode=None)


def fail(sentence: str) -> NoReturn:
    """Say why on one line of standard error, and end."""
    print(one_line(in_local_time(sentence)), file=sys.stderr)
    sys.exit(1)
