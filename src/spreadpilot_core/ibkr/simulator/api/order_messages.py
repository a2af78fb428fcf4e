"""Orders and executions as the wire has them: openOrder and completedOrder per version, status, fills, commissions.

A field that the book doesn't keep has the value that IBKR gives to an order which never set it.
"""

from __future__ import annotations

import datetime as dt

from spreadpilot_core.ibkr.simulator.api import wire
from spreadpilot_core.ibkr.simulator.api.contract_messages import eleven, head, tail
from spreadpilot_core.ibkr.simulator.books.orders import Execution, Order, Preview, Status

Parts = list[wire.Field]

_WITHOUT_PROFILE = 177
_WITH_PRICE_REVISION = 178
_GROWN = ((159, [None]), (160, [0]), (162, [False]))
"""What openOrder got at which version: duration, postToAts, autoCancelParent."""
_PEGGED: Parts = [None, None, None, None, None]
"""minTradeQty, minCompeteSize, competeAgainstBestOffset, midOffsetAtWhole, midOffsetAtHalf."""
_WITH_PEGGED = 170
_FA: Parts = ["", "", ""]


def open_order(order: Order, version: int, preview: Preview | None = None) -> Parts:
    """Message 5: an order with its terms and state; with a `preview`, the answer to a what-if order."""
    ticket = order.ticket
    fields: Parts = [5, ticket.order_id, *_contract(order), *_terms(order), ticket.client_id, order.perm_id]
    fields += [ticket.outside_rth, ticket.hidden, 0, "", "", *_FA, *_profile(version), "", ticket.good_till_date]
    fields += ["", None, "", 0, "", -1, 0, *_box_and_range(), None, False, False, False, None, ticket.oca_type]
    fields += [False, False, None, ticket.parent_id, 0]
    fields += [None, 0, "", None, False, 0, None, None, None, None, "", 0, 0, 0, *_after_legs()]
    fields += [False, "", "IB", False, False, "", False, preview is not None]
    fields += _state(order, preview)
    fields += [False, False, 0, *_adjusted()]
    for since, value in _GROWN:
        if version >= since:
            fields += value
    return fields + (_PEGGED if version >= _WITH_PEGGED else [])


def completed_order(order: Order, version: int) -> Parts:
    """Message 101: an order of which nothing more is to come."""
    ticket = order.ticket
    fields: Parts = [101, *_contract(order), *_terms(order), order.perm_id]
    fields += [ticket.outside_rth, ticket.hidden, 0, "", *_FA, *_profile(version), "", ticket.good_till_date]
    fields += ["", None, "", 0, "", -1, *_box_and_range(), None, False, False, None, ticket.oca_type, 0]
    fields += [None, 0, "", None, False, 0, None, None, "", 0, 0, 0, *_after_legs()]
    fields += ["", "IB", False, False, "", False, order.status.value]
    fields += [False, False, 0]  # randomize size and price, conditions
    fields += [None, None, None, False, False, "", order.filled, 0, False, "", False, False, 0]
    fields += [_stamp(order.completed_at or 0.0), f"{order.status.value} Size: {wire.text_of(order.filled)}"]
    return fields + (_PEGGED if version >= _WITH_PEGGED else [])


def order_status(order: Order) -> Parts:
    """Message 3."""
    ticket = order.ticket
    parts: Parts = [3, ticket.order_id, order.status.value, order.filled, order.remaining, order.average_price]
    return [*parts, order.perm_id, ticket.parent_id, order.last_price, ticket.client_id, order.why_held, 0.0]


def execution(fill: Execution, version: int, request_id: int = -1) -> Parts:
    """Message 11: a fill, as it happens (request id -1) or asked for."""
    order, ticket = fill.order, fill.order.ticket
    venue = order.contract.primary_exchange or order.contract.exchange
    fields: Parts = [
        11,
        request_id,
        ticket.order_id,
        *eleven(order.contract, venue),
        fill.execution_id,
        _stamp(fill.at),
    ]
    fields += [ticket.account, venue, fill.side, fill.quantity, fill.price, order.perm_id, ticket.client_id, 0]
    fields += [fill.cumulative, fill.average_price, ticket.order_ref, "", None, "", 2]
    return fields + ([False] if version >= _WITH_PRICE_REVISION else [])


def is_since(fill: Execution, moment: str) -> bool:
    """Whether a fill is no older than `moment`, in any of the forms that a client may write it in."""
    digits = "".join(character for character in moment if character.isdigit())[:14]
    return f"{dt.datetime.fromtimestamp(fill.at, dt.UTC):%Y%m%d%H%M%S}" >= digits


def commission(fill: Execution) -> Parts:
    """Message 59: what a fill cost and, when it closed something, earned."""
    realized = "1.7976931348623157E308" if fill.realized is None else fill.realized
    return [59, 1, fill.execution_id, fill.commission, fill.currency, realized, "1.7976931348623157E308", None]


def _contract(order: Order) -> Parts:
    return [*head(order.contract), order.ticket.instrument.exchange or order.contract.exchange, *tail(order.contract)]


def _terms(order: Order) -> Parts:
    """Action to orderRef."""
    ticket = order.ticket
    parts: Parts = [
        ticket.action,
        ticket.quantity,
        ticket.order_type,
        ticket.limit or 0.0,
        ticket.aux or 0.0,
        ticket.tif,
    ]
    return [*parts, ticket.oca_group, ticket.account, ticket.open_close, ticket.origin, ticket.order_ref]


def _profile(version: int) -> Parts:
    return [] if version >= _WITHOUT_PROFILE else [""]


def _box_and_range() -> Parts:
    """startingPrice, stockRefPrice, delta, stockRangeLower, stockRangeUpper."""
    return [None] * 5


def _after_legs() -> Parts:
    """Scale sizes and increment, hedge type."""
    return [None, None, None, ""]


def _state(order: Order, preview: Preview | None) -> Parts:
    """Status to warningText."""
    if preview is None:
        return [order.status.value, *([None] * 12), "", ""]
    before = [preview.initial_before, preview.maintenance_before, preview.equity_before]
    change = [preview.initial_change, preview.maintenance_change, preview.equity_change]
    after = [amount + added for amount, added in zip(before, change, strict=True)]
    fee = preview.commission
    return [Status.PRE_SUBMITTED.value, *before, *change, *after, fee, fee, fee, "USD", ""]


def _adjusted() -> Parts:
    """From adjustedOrderType to usePriceMgmtAlgo."""
    return ["None", None, None, None, None, None, None, 0, "", "", "", None, False, False, False, False]


def _stamp(at: float) -> str:
    return f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y%m%d %H:%M:%S} UTC"
