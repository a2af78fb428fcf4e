"""Answers what a client asks about accounts, and keeps its account subscriptions supplied.

One per session. A live gateway repeats account values every three minutes; here they are sent when something changed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spreadpilot_core.ibkr.simulator.api import wire
from spreadpilot_core.ibkr.simulator.api.contract_messages import eleven, head, tail
from spreadpilot_core.ibkr.simulator.api.fields import Fields
from spreadpilot_core.ibkr.simulator.api.line import Line
from spreadpilot_core.ibkr.simulator.books.accounts import Account, Position
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange
from spreadpilot_core.ibkr.simulator.books.values import account_rows, ledger_rows, summary_rows

_MOST_SUMMARIES = 2
_EVERY_ACCOUNT = ("", "All")


@dataclass(frozen=True)
class _Summary:
    accounts: tuple[Account, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class _Multi:
    """A subscription to one account or all of them."""

    accounts: tuple[Account, ...]
    model: str
    ledger_only: bool = False


@dataclass
class _Profit:
    """A subscription to profit and loss, of an account or of one position."""

    account: Account
    con_id: int | None
    sent: tuple[float, ...] = ()


class AccountDesk:
    """One client's view of the accounts."""

    def __init__(self, line: Line, exchange: Exchange) -> None:
        self._line = line
        self._exchange = exchange
        self._updates: set[str] = set()
        self._positions = False
        self._summaries: dict[int, _Summary] = {}
        self._multi_values: dict[int, _Multi] = {}
        self._multi_positions: dict[int, _Multi] = {}
        self._profits: dict[int, _Profit] = {}

    @property
    def is_watching(self) -> bool:
        """Whether moving prices matter to this client's account subscriptions."""
        return bool(self._profits)

    def managed_accounts(self) -> None:
        """Message 15."""
        self._line.send(15, 1, ",".join(self._exchange.accounts))

    def account_changed(self, account: Account) -> None:
        """Send what is subscribed of an account whose cash or positions changed."""
        if self._positions:
            for position in account.positions.values():
                self._line.send(61, 3, *_position(account, position))
        if account.name in self._updates:
            self._send_update(account)
        self._send_numbered(account)
        self.prices_moved()

    def _send_numbered(self, account: Account) -> None:
        for request_id, summary in self._summaries.items():
            if account in summary.accounts:
                self._send_summary(request_id, [account], summary.tags)
        for request_id, multi in self._multi_values.items():
            if account in multi.accounts:
                self._send_multi_values(request_id, account, multi)
        for request_id, multi in self._multi_positions.items():
            if account in multi.accounts:
                self._send_multi_positions(request_id, account, multi, account.positions.values())

    def prices_moved(self) -> None:
        """Send profit and loss where it is subscribed and changed."""
        for request_id, profit in self._profits.items():
            self._send_profit(request_id, profit)

    # --- requests

    def request_managed_accounts(self, _fields: Fields) -> None:
        """17."""
        self.managed_accounts()

    def request_updates(self, fields: Fields) -> None:
        """6: account updates of one account, on or off."""
        fields.skip(1)
        subscribe, name = fields.flag(), fields.text()
        account = self._account(name or next(iter(self._exchange.accounts), ""), -1)
        if account is None:
            return
        if not subscribe:
            self._updates.discard(account.name)
            return
        self._updates.add(account.name)
        self._send_update(account)
        self._line.send(54, 1, account.name)

    def request_positions(self, _fields: Fields) -> None:
        """61."""
        self._positions = True
        for account in self._exchange.accounts.values():
            for position in account.open_positions():
                self._line.send(61, 3, *_position(account, position))
        self._line.send(62, 1)

    def cancel_positions(self, _fields: Fields) -> None:
        """64."""
        self._positions = False

    def request_summary(self, fields: Fields) -> None:
        """62."""
        fields.skip(1)
        request_id, group, tags = fields.integer(), fields.text(), fields.text()
        if len(self._summaries.keys() - {request_id}) >= _MOST_SUMMARIES:
            text = "Error processing request.-'bV' : cause - Maximum number of account summary requests exceeded"
            self._line.error(request_id, 322, text)
            return
        if accounts := self._accounts(group, request_id):
            summary = _Summary(accounts, tuple(tag.strip() for tag in tags.split(",")))
            self._summaries[request_id] = summary
            self._send_summary(request_id, accounts, summary.tags)
            self._line.send(64, 1, request_id)

    def request_multi_values(self, fields: Fields) -> None:
        """76: account updates of one account or model."""
        fields.skip(1)
        request_id, name, model, ledger_only = fields.integer(), fields.text(), fields.text(), fields.flag()
        if accounts := self._accounts(name, request_id):
            multi = self._multi_values[request_id] = _Multi(accounts, model, ledger_only)
            for account in accounts:
                self._send_multi_values(request_id, account, multi)
            self._line.send(74, 1, request_id)

    def request_multi_positions(self, fields: Fields) -> None:
        """74: positions of one account or model."""
        fields.skip(1)
        request_id, name, model = fields.integer(), fields.text(), fields.text()
        if accounts := self._accounts(name, request_id):
            multi = self._multi_positions[request_id] = _Multi(accounts, model)
            for account in accounts:
                self._send_multi_positions(request_id, account, multi, account.open_positions())
            self._line.send(72, 1, request_id)

    def request_profit(self, fields: Fields) -> None:
        """92: profit and loss of an account."""
        self._subscribe_profit(fields.integer(), fields.text(), None)

    def request_profit_single(self, fields: Fields) -> None:
        """94: profit and loss of one position."""
        request_id, name = fields.integer(), fields.text()
        fields.skip(1)
        self._subscribe_profit(request_id, name, fields.integer())

    def cancel_summary(self, fields: Fields) -> None:
        """63."""
        fields.skip(1)
        self._summaries.pop(fields.integer(), None)

    def cancel_multi_values(self, fields: Fields) -> None:
        """77."""
        fields.skip(1)
        self._multi_values.pop(fields.integer(), None)

    def cancel_multi_positions(self, fields: Fields) -> None:
        """75."""
        fields.skip(1)
        self._multi_positions.pop(fields.integer(), None)

    def cancel_profit(self, fields: Fields) -> None:
        """93 and 95."""
        self._profits.pop(fields.integer(), None)

    # --- sending

    def _account(self, name: str, request_id: int) -> Account | None:
        account = self._exchange.accounts.get(name)
        if account is None:
            text = f"Error validating request.-'bV' : cause - Invalid account code '{name}'."
            self._line.error(request_id, 321, text)
        return account

    def _accounts(self, name: str, request_id: int) -> tuple[Account, ...]:
        if name in _EVERY_ACCOUNT:
            return tuple(self._exchange.accounts.values())
        account = self._account(name, request_id)
        return () if account is None else (account,)

    def _send_update(self, account: Account) -> None:
        market = self._exchange.market
        for key, value, currency in account_rows(account, market):
            self._line.send(6, 2, key, value, currency, account.name)
        for holding in account.holdings(market):
            position, contract = holding.position, holding.position.contract
            fields: list[wire.Field] = [7, 8, *head(contract), contract.primary_exchange, *tail(contract)]
            fields += [position.quantity, holding.price, holding.value, position.cost]
            self._line.send(*fields, holding.unrealized, position.realized, account.name)
        self._line.send(8, 1, f"{dt.datetime.fromtimestamp(self._exchange.clock(), dt.UTC):%H:%M}")

    def _send_summary(self, request_id: int, accounts: Iterable[Account], tags: Iterable[str]) -> None:
        for account in accounts:
            for tag, value, currency in summary_rows(account, self._exchange.market, tags):
                self._line.send(63, 1, request_id, account.name, tag, value, currency)

    def _send_multi_values(self, request_id: int, account: Account, multi: _Multi) -> None:
        market = self._exchange.market
        rows = ledger_rows(account, market) if multi.ledger_only else account_rows(account, market)
        for key, value, currency in rows:
            self._line.send(73, 1, request_id, account.name, multi.model, key, value, currency)

    def _send_multi_positions(
        self, request_id: int, account: Account, multi: _Multi, positions: Iterable[Position]
    ) -> None:
        for position in positions:
            self._line.send(71, 1, request_id, *_position(account, position), multi.model)

    def _subscribe_profit(self, request_id: int, name: str, con_id: int | None) -> None:
        if (account := self._account(name, request_id)) is not None:
            profit = self._profits[request_id] = _Profit(account, con_id)
            self._send_profit(request_id, profit)

    def _send_profit(self, request_id: int, profit: _Profit) -> None:
        values = self._profit_of(profit)
        if values != profit.sent:
            profit.sent = values
            self._line.send(94 if profit.con_id is None else 95, request_id, *values)

    def _profit_of(self, profit: _Profit) -> tuple[float, ...]:
        market = self._exchange.market
        if profit.con_id is None:
            totals = profit.account.totals(market)
            return totals.unrealized + totals.realized, totals.unrealized, totals.realized
        for holding in profit.account.holdings(market):
            position = holding.position
            if position.contract.con_id == profit.con_id:
                day = holding.unrealized + position.realized
                return position.quantity, day, holding.unrealized, position.realized, holding.value
        return 0.0, 0.0, 0.0, 0.0, 0.0


def _position(account: Account, position: Position) -> list[wire.Field]:
    return [account.name, *eleven(position.contract), position.quantity, position.cost]


REQUESTS: dict[int, Callable[[AccountDesk, Fields], None]] = {
    6: AccountDesk.request_updates,
    17: AccountDesk.request_managed_accounts,
    61: AccountDesk.request_positions,
    62: AccountDesk.request_summary,
    63: AccountDesk.cancel_summary,
    64: AccountDesk.cancel_positions,
    74: AccountDesk.request_multi_positions,
    75: AccountDesk.cancel_multi_positions,
    76: AccountDesk.request_multi_values,
    77: AccountDesk.cancel_multi_values,
    92: AccountDesk.request_profit,
    93: AccountDesk.cancel_profit,
    94: AccountDesk.request_profit_single,
    95: AccountDesk.cancel_profit,
}
