"""Asks on a terminal before something live is ended; a script is not asked, and `--yes` answers.

What may rest on an accident is never done unasked: there a script must say `--yes`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from spreadpilot_core.ibkr.errors import GatewayManagerError

_NAMED = 5


class NotConfirmedError(GatewayManagerError):
    """Nobody has said yes."""

    def __init__(self) -> None:
        super().__init__("Nothing was done.", hint="`--yes` answers beforehand.")


def confirm_live(what: str, live: Sequence[str], *, yes: bool) -> None:
    """Ask whether to `what` these followers, who trade live; nobody live, no terminal or a yes beforehand: no question.

    Raises:
        NotConfirmedError: the answer is no, or none.
    """
    if live:
        trade = "trades" if len(live) == 1 else "trade"
        confirm_on_terminal(f"{some_of(live)} {trade} LIVE. {what}?", yes=yes)


def some_of(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def confirm_on_terminal(question: str, *, yes: bool) -> None:
    """Ask; without a terminal the answer is yes.

    Raises:
        NotConfirmedError: the answer is no, or none.
    """
    if not yes and _can_ask():
        _ask(question)


def confirm(question: str, *, yes: bool) -> None:
    """Ask; without a terminal the answer is no.

    Raises:
        NotConfirmedError: the answer is no, or none.
    """
    if yes:
        return
    if not _can_ask():
        raise NotConfirmedError
    _ask(question)


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask(question: str) -> None:
    try:
        answer = typer.confirm(question, default=False, err=True)
    except typer.Abort:
        answer = False
    if not answer:
        raise NotConfirmedError
