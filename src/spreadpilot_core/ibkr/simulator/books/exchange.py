"""The books of one IBKR user: accounts, market, orders and executions, and what happens between them.

They outlive API servers and clients: a restarted gateway serves the same exchange. Whoever wants to hear what happens
(one listener per API session) is told in the order in which a live gateway tells it.
"""

from __future__ import annotations

import datetime as dt
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from spreadpilot_core.ibkr.simulator.books import rules
from spreadpilot_core.ibkr.simulator.books.accounts import BASE, Account
from spreadpilot_core.ibkr.simulator.books.contracts import Contract, standard_catalogue
from spreadpilot_core.ibkr.simulator.books.market import STEP_SECONDS, Market
from spreadpilot_core.ibkr.simulator.books.orders import Execution, Order, Preview, Rejected, Status, Ticket

_OPENING_CASH = 1_000_000.0
_REMEMBERED = 10_000
"""Finished orders and executions that are kept."""


class Listener(Protocol):
    """Somebody who is told what happens."""

    def order_changed(self, order: Order) -> None:
        """An order was accepted, or its status, fill or terms changed."""

    def executed(self, execution: Execution) -> None:
        """An order was filled; its new status and the commission follow."""

    def commission_charged(self, execution: Execution) -> None:
        """The commission of a fill is known."""

    def order_failed(self, order: Order, failure: Rejected) -> None:
        """An accepted order ended for a reason, a cancellation for one."""

    def account_changed(self, account: Account) -> None:
        """Cash or positions changed."""

    def prices_moved(self) -> None:
        """Quotes may have changed."""


class Exchange:
    """The books."""

    def __init__(
        self,
        accounts: Sequence[str],
        *,
        seed: int | None = None,
        cash: float = _OPENING_CASH,
        step_seconds: float | None = STEP_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the books with `cash` dollars in each account.

        Args:
            accounts: names of the accounts.
            seed: of the prices; drawn when None.
            cash: opening balance of each account, in dollars.
            step_seconds: how often prices move while they are watched; None: they stand still until they are set.
            clock: epoch seconds.
        """
        self.clock = clock
        self.seed = random.randrange(1 << 32) if seed is None else seed
        self.catalogue = standard_catalogue(dt.datetime.fromtimestamp(clock(), dt.UTC).date())
        self.market = Market(self.catalogue, seed=self.seed, clock=clock, step_seconds=step_seconds)
        self.accounts = {name: Account(name, {BASE: cash}) for name in accounts}
        self.executions: deque[Execution] = deque(maxlen=_REMEMBERED)
        self._orders: dict[tuple[int, int], Order] = {}
        self._open: dict[tuple[int, int], Order] = {}
        self._last_ids: dict[int, int] = {}
        self._perm_ids = itertools.count(random.Random(self.seed).randrange(10**8, 10**9))
        self._listeners: list[Listener] = []

    # --- looking

    @property
    def orders(self) -> Iterator[Order]:
        """All orders that are remembered, oldest first, except those that were never transmitted."""
        return (order for order in self._orders.values() if order.status is not Status.PENDING_SUBMIT)

    @property
    def is_waiting(self) -> bool:
        """Whether an order waits for the price to move."""
        return any(order.status is not Status.PENDING_SUBMIT for order in self._open.values())

    def next_order_id(self, client_id: int) -> int:
        """The lowest order id that this client may use."""
        return self._last_ids.get(client_id, 0) + 1

    def listen(self, listener: Listener) -> None:
        """Tell `listener` what happens from now on."""
        self._listeners.append(listener)

    def forget(self, listener: Listener) -> None:
        """Stop telling `listener`."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    # --- prices

    def set_price(self, symbol: str, price: float) -> None:
        """Put an instrument ("AAPL", "EUR.USD") at `price`; orders that it crosses are filled.

        Raises:
            KeyError: the symbol is unknown.
        """
        self.market.set_price(self.catalogue.by_symbol(symbol), price)
        self.beat()

    def beat(self) -> None:
        """Let the market meet the waiting orders, and tell the listeners that prices moved."""
        for order in list(self._open.values()):
            self._work(order)
        for listener in list(self._listeners):
            listener.prices_moved()

    # --- orders

    def place(self, ticket: Ticket) -> tuple[Order, Preview] | None:
        """Place an order, or change the one with this id; gives what a what-if order would do.

        Raises:
            Rejected: with IBKR's code and text.
        """
        contract = self._find_contract(ticket)
        ticket = replace(ticket, account=self._find_account(ticket).name)
        rules.check_ticket(ticket, contract)
        if (existing := self._orders.get((ticket.client_id, ticket.order_id))) is not None:
            self._change(existing, ticket, contract)
            return None
        if ticket.order_id < self.next_order_id(ticket.client_id):
            raise Rejected(103, "Duplicate order id")
        self._check_parent(ticket)
        order = Order(ticket, contract, perm_id=next(self._perm_ids))
        view = rules.preview(order, self.accounts[ticket.account], self.market)
        if ticket.what_if:
            return order, view
        self._last_ids[ticket.client_id] = ticket.order_id
        rules.check_funds(view)
        self._remember(order)
        if ticket.transmit:
            self._transmit(order)
        return None

    def cancel(self, client_id: int, order_id: int) -> None:
        """Cancel one order of a client.

        Raises:
            Rejected: it is unknown or done.
        """
        order = self._orders.get((client_id, order_id))
        if order is None:
            raise Rejected(10147, f"OrderId {order_id} that needs to be cancelled is not found.")
        if order.is_done:
            state = order.status.value
            raise Rejected(
                10148, f"OrderId {order_id} that needs to be cancelled can not be cancelled, state: {state}."
            )
        self._cancel(order)

    def cancel_all(self) -> None:
        """Cancel every order of every client."""
        for order in list(self._open.values()):
            if not order.is_done:  # a parent takes its children along
                self._cancel(order)

    def _find_contract(self, ticket: Ticket) -> Contract:
        found = self.catalogue.find(ticket.instrument)
        if len(found) != 1:
            raise Rejected(200, "No security definition has been found for the request")
        return found[0]

    def _find_account(self, ticket: Ticket) -> Account:
        if not ticket.account:
            if len(self.accounts) != 1:
                raise Rejected(435, "You must specify an account.")
            return next(iter(self.accounts.values()))
        if ticket.account not in self.accounts:
            raise rules.invalid(f"Invalid account code '{ticket.account}'.")
        return self.accounts[ticket.account]

    def _check_parent(self, ticket: Ticket) -> None:
        if not ticket.parent_id:
            return
        parent = self._orders.get((ticket.client_id, ticket.parent_id))
        if parent is None:
            raise Rejected(135, f"Can't find order with id ={ticket.parent_id}")
        if parent.is_done and parent.status is not Status.FILLED:
            raise Rejected(201, "Order rejected - reason:Parent order is being cancelled.")

    def _remember(self, order: Order) -> None:
        self._orders[order.key] = self._open[order.key] = order
        if len(self._orders) > _REMEMBERED:
            oldest = next((key for key, kept in self._orders.items() if kept.is_done), None)
            if oldest is not None:
                del self._orders[oldest]

    def _change(self, order: Order, ticket: Ticket, contract: Contract) -> None:
        rules.check_change(order, ticket, contract)
        changed = replace(order, ticket=ticket)
        rules.check_funds(rules.preview(changed, self.accounts[ticket.account], self.market))
        order.ticket = ticket
        if order.status is Status.PENDING_SUBMIT:
            if ticket.transmit:
                self._transmit(order)
            return
        self._tell_order(order)
        self._work(order)

    # --- an order's life

    def _transmit(self, order: Order) -> None:
        """Send an order on its way, with the family that waited for it."""
        for member in [*self._family(order, before=True), order, *self._family(order, before=False)]:
            if member.status is Status.PENDING_SUBMIT:
                member.status = Status.PRE_SUBMITTED
                self._tell_order(member)
        for member in [*self._family(order, before=True), order]:
            self._work(member)

    def _family(self, order: Order, *, before: bool) -> list[Order]:
        """The parent of an order and the siblings placed before it; or its children."""
        if not before:
            return self._children(order)
        parent = self._parent(order)
        return [] if parent is None else [parent, *(child for child in self._children(parent) if child is not order)]

    def _parent(self, order: Order) -> Order | None:
        return self._orders.get((order.ticket.client_id, order.ticket.parent_id)) if order.ticket.parent_id else None

    def _children(self, order: Order) -> list[Order]:
        client_id, order_id = order.key
        return [
            child
            for child in self._open.values()
            if child.ticket.parent_id == order_id and child.ticket.client_id == client_id
        ]

    def _work(self, order: Order) -> None:
        """Fill an order when it meets the market, else let it wait."""
        parent = self._parent(order)
        if order.is_done or order.status is Status.PENDING_SUBMIT:
            return
        if parent is not None and parent.status is not Status.FILLED:
            return
        quote = self.market.quote(order.contract)
        is_stop = order.ticket.order_type in rules.STOP_TYPES
        if is_stop and not order.triggered:
            order.triggered = rules.triggers(order, quote)
        price = rules.meeting_price(order, quote)
        if price is not None:
            self._fill(order, price)
        elif order.ticket.tif in rules.AT_ONCE:
            self._cancel(order)
        elif order.status is Status.PRE_SUBMITTED and (not is_stop or order.triggered):
            order.status = Status.SUBMITTED
            self._tell_order(order)

    def _fill(self, order: Order, price: float) -> None:
        quantity = order.remaining
        account = self.accounts[order.ticket.account]
        charge = rules.commission(order.contract, quantity, price)
        held = account.positions.get(order.contract.con_id)
        closes = held is not None and held.quantity * order.sign < 0
        realized = account.book(order.contract, order.sign * quantity, price, charge)
        order.filled += quantity
        order.average_price = order.last_price = price
        self._end(order, Status.FILLED)
        execution = Execution(
            execution_id=f"{order.perm_id:08x}.{int(self.clock()):08x}.01.01",
            order=order,
            at=self.clock(),
            quantity=quantity,
            price=price,
            cumulative=order.filled,
            average_price=price,
            commission=charge,
            currency=BASE if order.contract.is_cash else order.contract.currency,
            realized=realized if closes else None,
        )
        self.executions.append(execution)
        self._tell(lambda listener: listener.executed(execution))
        self._tell_order(order)
        self._tell(lambda listener: listener.commission_charged(execution))
        self._tell(lambda listener: listener.account_changed(account))
        self._after_fill(order)

    def _after_fill(self, order: Order) -> None:
        for rival in self._rivals(order):
            self._cancel(rival)
        for child in self._children(order):
            self._work(child)

    def _rivals(self, order: Order) -> Iterable[Order]:
        """Orders that a fill of this one cancels: its siblings under a filled parent, its one-cancels-all group."""
        ticket = order.ticket
        return [
            other
            for other in self._open.values()
            if other is not order
            and other.ticket.client_id == ticket.client_id
            and (
                (ticket.parent_id and other.ticket.parent_id == ticket.parent_id)
                or (ticket.oca_group and other.ticket.oca_group == ticket.oca_group)
            )
        ]

    def _cancel(self, order: Order) -> None:
        was_known = order.status is not Status.PENDING_SUBMIT
        self._end(order, Status.CANCELLED)
        if was_known:
            self._tell_order(order)
        failure = Rejected(202, "Order Canceled - reason:")
        self._tell(lambda listener: listener.order_failed(order, failure))
        for child in self._children(order):
            self._cancel(child)

    def _end(self, order: Order, status: Status) -> None:
        order.status, order.completed_at = status, self.clock()
        self._open.pop(order.key, None)

    def _tell_order(self, order: Order) -> None:
        self._tell(lambda listener: listener.order_changed(order))

    def _tell(self, message: Callable[[Listener], None]) -> None:
        for listener in list(self._listeners):
            message(listener)
