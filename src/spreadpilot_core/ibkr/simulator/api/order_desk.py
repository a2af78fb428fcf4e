"""Takes a client's orders, and tells it what becomes of them.

One per session. A client hears of its own orders; all orders of all clients are told on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spreadpilot_core.ibkr.simulator.api import order_messages
from spreadpilot_core.ibkr.simulator.api.fields import Fields
from spreadpilot_core.ibkr.simulator.api.line import Line
from spreadpilot_core.ibkr.simulator.api.order_request import read_ticket
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange
from spreadpilot_core.ibkr.simulator.books.orders import Execution, Order, Rejected

_READ_ONLY = "Error validating request.-'bN' : cause - The API interface is currently in Read-Only mode."
_NO_REQUEST = -1


class OrderDesk:
    """One client's orders."""

    def __init__(self, line: Line, exchange: Exchange, *, read_only: bool) -> None:
        self._line = line
        self._exchange = exchange
        self._read_only = read_only

    def next_valid_id(self) -> None:
        """Message 9."""
        self._line.send(9, 1, self._exchange.next_order_id(self._line.client_id))

    # --- what happens to orders

    def order_changed(self, order: Order) -> None:
        """Tell the new state of the client's own order."""
        if self._is_ours(order):
            self._send_order(order)

    def executed(self, execution: Execution) -> None:
        """Tell a fill of the client's own order."""
        if self._is_ours(execution.order):
            self._line.send(*order_messages.execution(execution, self._line.version))

    def commission_charged(self, execution: Execution) -> None:
        """Tell what a fill of the client's own order cost."""
        if self._is_ours(execution.order):
            self._line.send(*order_messages.commission(execution))

    def order_failed(self, order: Order, failure: Rejected) -> None:
        """Tell why the client's own order ended."""
        if self._is_ours(order):
            self._line.error(order.ticket.order_id, failure.code, failure.text)

    # --- requests

    def place(self, fields: Fields) -> None:
        """3: place or change an order."""
        order_id = fields.integer()
        if self._refuses(order_id):
            return
        try:
            ticket = read_ticket(fields, order_id=order_id, client_id=self._line.client_id, version=self._line.version)
            placed = self._exchange.place(ticket)
        except Rejected as refusal:
            self._line.error(order_id, refusal.code, refusal.text)
            return
        if placed is not None:
            order, preview = placed
            self._line.send(*order_messages.open_order(order, self._line.version, preview))

    def cancel(self, fields: Fields) -> None:
        """4."""
        fields.skip(1)
        order_id = fields.integer()
        if self._refuses(order_id):
            return
        try:
            self._exchange.cancel(self._line.client_id, order_id)
        except Rejected as refusal:
            self._line.error(order_id, refusal.code, refusal.text)

    def cancel_all(self, _fields: Fields) -> None:
        """58: cancel the orders of all clients."""
        if not self._refuses():
            self._exchange.cancel_all()

    def request_open(self, _fields: Fields) -> None:
        """5: the client's own open orders."""
        if not self._refuses():
            self._send_open(order for order in self._exchange.orders if self._is_ours(order))

    def request_all_open(self, _fields: Fields) -> None:
        """16: the open orders of all clients."""
        if not self._refuses():
            self._send_open(self._exchange.orders)

    def request_auto_open(self, _fields: Fields) -> None:
        """15: bind orders placed by hand; there are none, and no answer is due."""
        self._refuses()

    def request_completed(self, _fields: Fields) -> None:
        """99."""
        if self._refuses():
            return
        for order in self._exchange.orders:
            if order.is_done:
                self._line.send(*order_messages.completed_order(order, self._line.version))
        self._line.send(102)

    def request_ids(self, _fields: Fields) -> None:
        """8."""
        self.next_valid_id()

    def request_executions(self, fields: Fields) -> None:
        """7: the fills that a filter leaves."""
        fields.skip(1)
        request_id, client_id, account, since = fields.integer(), fields.integer(), fields.text(), fields.text()
        symbol, sec_type, exchange, side = (fields.text() for _ in range(4))
        for fill in list(self._exchange.executions):
            order, contract = fill.order, fill.order.contract
            wanted = (
                (str(client_id or ""), str(order.ticket.client_id)),
                (account, order.ticket.account),
                (symbol, contract.symbol),
                (sec_type, contract.sec_type),
                (exchange, contract.primary_exchange or contract.exchange),
                (side.upper()[:1], order.ticket.action[:1]),
            )
            if all(asked in ("", given) for asked, given in wanted) and order_messages.is_since(fill, since):
                self._line.send(*order_messages.execution(fill, self._line.version, request_id))
                self._line.send(*order_messages.commission(fill))
        self._line.send(55, 1, request_id)

    # --- sending

    def _is_ours(self, order: Order) -> bool:
        return order.ticket.client_id == self._line.client_id

    def _refuses(self, request_id: int = _NO_REQUEST) -> bool:
        if self._read_only:
            self._line.error(request_id, 321, _READ_ONLY)
        return self._read_only

    def _send_open(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if not order.is_done:
                self._send_order(order)
        self._line.send(53, 1)

    def _send_order(self, order: Order) -> None:
        self._line.send(*order_messages.open_order(order, self._line.version))
        self._line.send(*order_messages.order_status(order))


REQUESTS: dict[int, Callable[[OrderDesk, Fields], None]] = {
    3: OrderDesk.place,
    4: OrderDesk.cancel,
    5: OrderDesk.request_open,
    7: OrderDesk.request_executions,
    8: OrderDesk.request_ids,
    15: OrderDesk.request_auto_open,
    16: OrderDesk.request_all_open,
    58: OrderDesk.cancel_all,
    99: OrderDesk.request_completed,
}
