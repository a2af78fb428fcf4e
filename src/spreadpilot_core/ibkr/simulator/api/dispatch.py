"""Who handles which request. One table; a number that stands nowhere is answered by an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from spreadpilot_core.ibkr.simulator.api import account_desk, market_desk, order_desk
from spreadpilot_core.ibkr.simulator.api.desks import Desks
from spreadpilot_core.ibkr.simulator.api.fields import BadRequest, Fields
from spreadpilot_core.ibkr.simulator.api.refusals import REFUSALS, UNANSWERED, Refusal

Handler = Callable[[Desks, Fields], None]

DeskT = TypeVar("DeskT")

_NO_REQUEST = -1
_LONGEST = 9
"""Digits of a message id."""
_SHOWN = 20
"""Characters of a faulty message id that are repeated to the client."""


def dispatch(desks: Desks, texts: list[str]) -> None:
    """Have one request handled; `texts` are its fields, the number first."""
    number, fields = texts[0], Fields(texts[1:])
    handler = (
        _HANDLERS.get(int(number)) if number.isascii() and number.isdecimal() and len(number) <= _LONGEST else None
    )
    if handler is None:
        desks.line.error(_NO_REQUEST, 320, f"Error reading request. Unknown message id {number[:_SHOWN]!r}.")
        return
    try:
        handler(desks, fields)
    except BadRequest as fault:
        desks.line.error(_NO_REQUEST, 320, f"Error reading request. Message id {number}: {fault}.")


def _at(desk: Callable[[Desks], DeskT], requests: dict[int, Callable[[DeskT, Fields], None]]) -> dict[int, Handler]:
    def route(handle: Callable[[DeskT, Fields], None]) -> Handler:
        return lambda desks, fields: handle(desk(desks), fields)

    return {number: route(handle) for number, handle in requests.items()}


def _refusing(refusal: Refusal) -> Handler:
    def refuse(desks: Desks, fields: Fields) -> None:
        request_id = _NO_REQUEST
        if refusal.id_at is not None:
            fields.skip(refusal.id_at)
            request_id = fields.integer()
        desks.line.error(request_id, refusal.code, refusal.text)

    return refuse


def _ignore(_desks: Desks, _fields: Fields) -> None:
    pass


def _nothing_listed(answer: int, *, with_id: bool) -> Handler:
    """An answer that says: a list of none."""

    def tell(desks: Desks, fields: Fields) -> None:
        desks.line.send(answer, *([fields.integer()] if with_id else []), 0)

    return tell


def _no_display_groups(desks: Desks, fields: Fields) -> None:
    fields.skip(1)
    desks.line.send(67, 1, fields.integer(), "")


def _no_user_info(desks: Desks, fields: Fields) -> None:
    desks.line.send(107, fields.integer(), "")


_HANDLERS: dict[int, Handler] = {
    **dict.fromkeys(UNANSWERED, _ignore),
    **{number: _refusing(refusal) for number, refusal in REFUSALS.items()},
    **_at(lambda desks: desks.accounts, account_desk.REQUESTS),
    **_at(lambda desks: desks.orders, order_desk.REQUESTS),
    **_at(lambda desks: desks.market, market_desk.REQUESTS),
    49: lambda desks, _fields: desks.tell_time(),
    67: _no_display_groups,
    79: _nothing_listed(77, with_id=True),  # soft dollar tiers
    80: _nothing_listed(78, with_id=False),  # family codes
    82: _nothing_listed(80, with_id=False),  # exchanges with market depth
    83: _nothing_listed(82, with_id=True),  # smart components
    85: _nothing_listed(85, with_id=False),  # news providers
    104: _no_user_info,
}

HANDLED = frozenset(_HANDLERS)
"""All requests that have a handler."""
