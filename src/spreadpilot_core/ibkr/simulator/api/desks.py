"""All that serves one started session: its desks, and the exchange's news handed on to them."""

from __future__ import annotations

import asyncio

from spreadpilot_core.ibkr.simulator.api.account_desk import AccountDesk
from spreadpilot_core.ibkr.simulator.api.line import Line
from spreadpilot_core.ibkr.simulator.api.market_desk import MarketDesk
from spreadpilot_core.ibkr.simulator.api.order_desk import OrderDesk
from spreadpilot_core.ibkr.simulator.behaviour import Behaviour
from spreadpilot_core.ibkr.simulator.books.accounts import Account
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange
from spreadpilot_core.ibkr.simulator.books.orders import Execution, Order, Rejected


class Desks:
    """The desks of one session; a listener of the exchange."""

    def __init__(self, line: Line, exchange: Exchange, behaviour: Behaviour, *, read_only: bool) -> None:
        self.line = line
        self.accounts = AccountDesk(line, exchange)
        self.orders = OrderDesk(line, exchange, read_only=read_only)
        self.market = MarketDesk(line, exchange)
        self._exchange = exchange
        self._behaviour = behaviour
        self._time_told_at = float("-inf")

    @property
    def is_watching(self) -> bool:
        """Whether moving prices matter to this client."""
        return self.market.is_watching or self.accounts.is_watching

    def tell_time(self) -> None:
        """Answer a request for the current time."""
        now = asyncio.get_running_loop().time()
        if self._behaviour.ignores_repeats and now - self._time_told_at < 1:
            return
        self._time_told_at = now
        self.line.send(49, 1, int(self._exchange.clock()))

    # --- the exchange's listener

    def order_changed(self, order: Order) -> None:
        """See `Listener`."""
        self.orders.order_changed(order)

    def executed(self, execution: Execution) -> None:
        """See `Listener`."""
        self.orders.executed(execution)

    def commission_charged(self, execution: Execution) -> None:
        """See `Listener`."""
        self.orders.commission_charged(execution)

    def order_failed(self, order: Order, failure: Rejected) -> None:
        """See `Listener`."""
        self.orders.order_failed(order, failure)

    def account_changed(self, account: Account) -> None:
        """See `Listener`."""
        self.accounts.account_changed(account)

    def prices_moved(self) -> None:
        """See `Listener`."""
        self.accounts.prices_moved()
        self.market.prices_moved()
