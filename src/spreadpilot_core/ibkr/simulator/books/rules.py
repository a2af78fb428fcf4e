"""What the exchange accepts, what it costs, and when an order meets the market.

Decisions only: nothing here changes an order or an account.
"""

from __future__ import annotations

from spreadpilot_core.ibkr.simulator.books.accounts import Account, margin
from spreadpilot_core.ibkr.simulator.books.contracts import Contract
from spreadpilot_core.ibkr.simulator.books.market import Market, Quote, conforms
from spreadpilot_core.ibkr.simulator.books.orders import Order, Preview, Rejected, Ticket

LIMIT_TYPES = frozenset({"LMT", "STP LMT"})
STOP_TYPES = frozenset({"STP", "STP LMT"})
_SERVED_TYPES = frozenset({"MKT"}) | LIMIT_TYPES | STOP_TYPES
_ACTIONS = frozenset({"BUY", "SELL"})
AT_ONCE = frozenset({"IOC", "FOK"})
"""Times in force that end an order which cannot be filled at once."""


def check_ticket(ticket: Ticket, contract: Contract) -> None:
    """Refuse an order that IBKR would refuse without looking at the account.

    Raises:
        Rejected: with IBKR's code and text.
    """
    if ticket.action not in _ACTIONS:
        raise invalid(f"Invalid order action: {ticket.action!r}")
    if ticket.order_type not in _SERVED_TYPES:
        raise Rejected(387, "Unsupported order type for this exchange and security type.")
    if ticket.quantity <= 0:
        raise Rejected(434, "The order size cannot be zero.")
    if ticket.quantity != int(ticket.quantity) and not contract.is_cash:
        raise Rejected(
            10243, "Fractional-sized order cannot be placed via API. Please use desktop version to place this order."
        )
    _check_price(ticket.limit, contract, needed=ticket.order_type in LIMIT_TYPES)
    _check_price(ticket.aux, contract, needed=ticket.order_type in STOP_TYPES)


def _check_price(price: float | None, contract: Contract, *, needed: bool) -> None:
    if not needed:
        return
    if price is None or price <= 0:
        raise invalid("The order's price is missing")
    if not conforms(price, contract.min_tick):
        raise Rejected(110, "The price does not conform to the minimum price variation for this contract.")


def check_change(order: Order, ticket: Ticket, contract: Contract) -> None:
    """Refuse a modification that IBKR would refuse.

    Raises:
        Rejected: with IBKR's code and text.
    """
    if order.status.value == "Filled":
        raise Rejected(104, "Cannot modify a filled order.")
    if order.is_done:
        raise Rejected(103, "Duplicate order id")
    before = order.ticket
    if (contract, ticket.action, ticket.account) != (order.contract, before.action, before.account):
        raise Rejected(105, "Order being modified does not match original order.")
    if ticket.order_type != before.order_type:
        raise Rejected(329, "Order modify failed. Cannot change to the new order type.")
    if ticket.quantity <= order.filled:
        raise invalid("The new quantity is not more than what is filled already")


def invalid(cause: str) -> Rejected:
    """The error that IBKR gives for a request it cannot make sense of."""
    return Rejected(321, f"Error validating request.-'bW' : cause - {cause}")


def preview(order: Order, account: Account, market: Market) -> Preview:
    """What filling `order` at the market would do to `account`."""
    contract = order.contract
    unit = market.quote(contract).middle * contract.size * market.rate(contract.currency)
    position = account.positions.get(contract.con_id)
    held = position.quantity if position is not None else 0.0
    wanted = held + order.sign * order.remaining
    totals = account.totals(market)

    def change(kind: str) -> float:
        return margin(contract, wanted * unit, kind) - margin(contract, held * unit, kind)

    cost = commission(contract, order.remaining, market.quote(contract).middle)
    return Preview(
        initial_before=totals.initial_margin,
        maintenance_before=totals.maintenance_margin,
        equity_before=totals.net_liquidation,
        initial_change=change("initial"),
        maintenance_change=change("maintenance"),
        equity_change=-cost,
        commission=cost,
    )


def check_funds(view: Preview) -> None:
    """Refuse an order that takes more margin than the account has.

    Raises:
        Rejected: with IBKR's code and text.
    """
    needed = view.initial_before + view.initial_change
    if view.initial_change > 0 and needed > view.equity_before:
        raise Rejected(
            201,
            "Order rejected - reason:YOUR ORDER IS NOT ACCEPTED. IN ORDER TO OBTAIN THE DESIRED POSITION YOUR EQUITY "
            f"WITH LOAN VALUE [{view.equity_before:.2f} USD] MUST EXCEED THE INITIAL MARGIN [{needed:.2f} USD]",
        )


def commission(contract: Contract, quantity: float, price: float) -> float:
    """What a fill costs, in the contract's currency (currencies: in dollars)."""
    if contract.is_cash:
        return 2.0
    if contract.sec_type == "FUT":
        return round(quantity * (2.25 if float(contract.multiplier) > 5 else 0.62), 2)  # noqa: PLR2004  # micro futures
    return round(max(1.0, min(0.005 * quantity, 0.01 * quantity * price)), 4)


def triggers(order: Order, quote: Quote) -> bool:
    """Whether a stop's price has been reached."""
    stop = order.ticket.aux or 0.0
    return quote.last >= stop if order.sign > 0 else quote.last <= stop


def meeting_price(order: Order, quote: Quote) -> float | None:
    """The price at which `order` fills now; None when it has to wait."""
    if order.ticket.order_type in STOP_TYPES and not order.triggered:
        return None
    price = quote.ask if order.sign > 0 else quote.bid
    limit = order.ticket.limit if order.ticket.order_type in LIMIT_TYPES else None
    if limit is not None and order.sign * (price - limit) > 0:
        return None
    return price
