"""Answers what a client asks about instruments and prices, and keeps its market data supplied.

One per session. Ticks are sent when a quote differs from what was last sent.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from spreadpilot_core.ibkr.simulator.api import contract_messages, wire
from spreadpilot_core.ibkr.simulator.api.fields import Fields
from spreadpilot_core.ibkr.simulator.api.line import Line
from spreadpilot_core.ibkr.simulator.books.contracts import Contract, Description
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange
from spreadpilot_core.ibkr.simulator.books.history import Bar, bars, read_span
from spreadpilot_core.ibkr.simulator.books.market import Quote
from spreadpilot_core.ibkr.simulator.books.orders import Rejected
from spreadpilot_core.ibkr.simulator.books.rules import invalid

_UNKNOWN = Rejected(200, "No security definition has been found for the request")
_LIVE_DATA = 1
_LAST_TIMESTAMP = 45
_AS_EPOCH = 2
_FIRST_BAR = dt.datetime(2004, 1, 23, 14, 30, tzinfo=dt.UTC)


@dataclass
class _Subscription:
    contract: Contract
    sent: Quote | None = None


class MarketDesk:
    """One client's view of the market."""

    def __init__(self, line: Line, exchange: Exchange) -> None:
        self._line = line
        self._exchange = exchange
        self._subscriptions: dict[int, _Subscription] = {}

    @property
    def is_watching(self) -> bool:
        """Whether this client subscribes to market data."""
        return bool(self._subscriptions)

    def prices_moved(self) -> None:
        """Send the ticks of all subscriptions that changed."""
        for request_id, subscription in self._subscriptions.items():
            self._send_ticks(request_id, subscription)

    # --- requests

    def request_data(self, fields: Fields) -> None:
        """1: market data of one instrument, streaming or as a snapshot."""
        fields.skip(1)
        request_id, description = fields.integer(), fields.description()
        if description.sec_type == "BAG" or (contract := self._find_one(description)) is None:
            self._refuse(request_id, _UNKNOWN)
            return
        if request_id in self._subscriptions:
            self._refuse(request_id, Rejected(322, "Error processing request.-'bY' : cause - Duplicate ticker id"))
            return
        if fields.flag():  # delta-neutral contract
            fields.skip(3)
        fields.skip(1)  # generic ticks
        is_snapshot = fields.flag()
        subscription = _Subscription(contract)
        self._line.send(81, request_id, contract.min_tick, "9c0001" if contract.sec_type == "STK" else "", 3)
        self._line.send(58, 1, request_id, _LIVE_DATA)
        self._send_ticks(request_id, subscription)
        if is_snapshot:
            self._line.send(57, 1, request_id)
        else:
            self._subscriptions[request_id] = subscription

    def cancel_data(self, fields: Fields) -> None:
        """2."""
        fields.skip(1)
        request_id = fields.integer()
        if self._subscriptions.pop(request_id, None) is None:
            self._refuse(request_id, Rejected(300, f"Can't find EId with tickerId:{request_id}"))

    def choose_data_type(self, _fields: Fields) -> None:
        """59: live, frozen or delayed; live data is always at hand, so nothing changes."""

    def request_details(self, fields: Fields) -> None:
        """9: contract details."""
        fields.skip(1)
        request_id, description = fields.integer(), fields.description()
        found = self._exchange.catalogue.find(description)
        if not found:
            self._refuse(request_id, _UNKNOWN)
            return
        for contract in found:
            self._line.send(
                *contract_messages.details(
                    contract,
                    request_id=request_id,
                    exchange=description.exchange,
                    version=self._line.version,
                    today=self._now().date(),
                )
            )
        self._line.send(52, 1, request_id)

    def search_symbols(self, fields: Fields) -> None:
        """81: instruments by a part of their symbol or name."""
        request_id, pattern = fields.integer(), fields.text()
        found = self._exchange.catalogue.like(pattern)
        samples = [contract_messages.sample(contract, version=self._line.version) for contract in found]
        self._line.send(79, request_id, len(samples), *(field for sample in samples for field in sample))

    def request_market_rule(self, fields: Fields) -> None:
        """91: the price steps behind a market rule's number."""
        rule = fields.integer()
        step = contract_messages.price_steps(rule)
        if step is None:
            self._refuse(-1, invalid(f"Invalid market rule id: {rule}"))
        else:
            self._line.send(93, rule, 1, 0, step)

    def request_option_chain(self, fields: Fields) -> None:
        """78: there are no options here, so the list is empty."""
        self._line.send(76, fields.integer())

    def request_history(self, fields: Fields) -> None:
        """20: bars of the past."""
        request_id, description = fields.integer(), fields.description()
        fields.skip(1)  # includeExpired
        end, bar, duration = fields.text(), fields.text(), fields.text()
        fields.skip(1)  # useRTH
        _kind, date_form = fields.text(), fields.integer()
        if (contract := self._find_one(description)) is None:
            self._refuse(request_id, _UNKNOWN)
            return
        try:
            if fields.flag():
                raise invalid("The simulator does not keep historical data up to date.")
            span = read_span(end, duration, bar, now=self._exchange.clock())
        except Rejected as refusal:
            self._refuse(request_id, refusal)
            return
        found = bars(contract, self._exchange.market, span)
        written = (field for bar in found for field in _bar(bar, as_epoch=date_form == _AS_EPOCH, daily=span.is_daily))
        self._line.send(17, request_id, _stamp(span.start), _stamp(span.end), len(found), *written)

    def request_head_stamp(self, fields: Fields) -> None:
        """87: since when there are bars."""
        request_id, description = fields.integer(), fields.description()
        fields.skip(3)  # includeExpired, useRTH, whatToShow
        if self._find_one(description) is None:
            self._refuse(request_id, _UNKNOWN)
        elif fields.integer() == _AS_EPOCH:
            self._line.send(88, request_id, int(_FIRST_BAR.timestamp()))
        else:
            self._line.send(88, request_id, f"{_FIRST_BAR:%Y%m%d-%H:%M:%S}")

    def ignore(self, _fields: Fields) -> None:
        """25, 90: cancel what was answered at once."""

    # --- sending

    def _find_one(self, description: Description) -> Contract | None:
        found = self._exchange.catalogue.find(description)
        return found[0] if len(found) == 1 else None

    def _refuse(self, request_id: int, refusal: Rejected) -> None:
        self._line.error(request_id, refusal.code, refusal.text)

    def _send_ticks(self, request_id: int, subscription: _Subscription) -> None:
        quote = self._exchange.market.quote(subscription.contract)
        before = subscription.sent
        subscription.sent = replace(quote)
        for number, price, size in _prices(quote, subscription.contract):
            if before is None or (number, price, size) not in _prices(before, subscription.contract):
                attributes = 1 if number in (1, 2) else 0
                self._line.send(1, 6, request_id, number, price, size, attributes)
        if subscription.contract.is_cash:
            return
        if before is None or before.volume != quote.volume:
            self._line.send(46, 6, request_id, _LAST_TIMESTAMP, int(self._exchange.clock()))
            self._line.send(2, 6, request_id, 8, quote.volume)

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._exchange.clock(), dt.UTC)


def _prices(quote: Quote, contract: Contract) -> Iterator[tuple[int, float, int]]:
    """Tick number, price and size of all price ticks; a currency pair has no trades."""
    yield 1, quote.bid, quote.bid_size
    yield 2, quote.ask, quote.ask_size
    if not contract.is_cash:
        yield 4, quote.last, quote.last_size
        yield 14, quote.opened, 0
    yield 6, quote.high, 0
    yield 7, quote.low, 0
    yield 9, quote.close, 0


def _bar(bar: Bar, *, as_epoch: bool, daily: bool) -> list[wire.Field]:
    stamp = str(int(bar.at.timestamp())) if as_epoch else _stamp(bar.at)
    return [
        f"{bar.at:%Y%m%d}" if daily else stamp,
        bar.opened,
        bar.high,
        bar.low,
        bar.close,
        bar.volume,
        bar.average,
        bar.trades,
    ]


def _stamp(at: dt.datetime) -> str:
    return f"{at:%Y%m%d %H:%M:%S} UTC"


REQUESTS: dict[int, Callable[[MarketDesk, Fields], None]] = {
    1: MarketDesk.request_data,
    2: MarketDesk.cancel_data,
    9: MarketDesk.request_details,
    20: MarketDesk.request_history,
    25: MarketDesk.ignore,
    59: MarketDesk.choose_data_type,
    78: MarketDesk.request_option_chain,
    81: MarketDesk.search_symbols,
    87: MarketDesk.request_head_stamp,
    90: MarketDesk.ignore,
    91: MarketDesk.request_market_rule,
}
