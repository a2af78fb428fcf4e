"""The simulator's books: contracts, prices, accounts and the exchange."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from spreadpilot_core.ibkr.simulator.books.accounts import Account, Position
from spreadpilot_core.ibkr.simulator.books.contracts import Description, standard_catalogue
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange
from spreadpilot_core.ibkr.simulator.books.history import Span, bars, read_span
from spreadpilot_core.ibkr.simulator.books.market import Market, conforms, on_tick
from spreadpilot_core.ibkr.simulator.books.orders import Execution, Order, Rejected, Status, Ticket
from spreadpilot_core.ibkr.simulator.books.values import account_rows, summary_rows

TODAY = dt.date(2026, 11, 24)
CATALOGUE = standard_catalogue(TODAY)
APPLE = CATALOGUE.by_symbol("AAPL")
NOW = dt.datetime(2026, 11, 24, 15, 0, tzinfo=dt.UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """Epoch seconds."""
        return self.now


class Witness:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def order_changed(self, order: Order) -> None:
        """See `Listener`."""
        self.heard.append((order.ticket.order_id, order.status.value))

    def executed(self, execution: Execution) -> None:
        """See `Listener`."""
        self.heard.append((execution.order.ticket.order_id, "executed", execution.quantity, execution.price))

    def commission_charged(self, execution: Execution) -> None:
        """See `Listener`."""
        self.heard.append((execution.order.ticket.order_id, "commission", execution.commission))

    def order_failed(self, order: Order, failure: Rejected) -> None:
        """See `Listener`."""
        self.heard.append((order.ticket.order_id, failure.code))

    def account_changed(self, account: Account) -> None:
        """See `Listener`."""
        self.heard.append((account.name,))

    def prices_moved(self) -> None:
        """See `Listener`."""


def ticket(order_id: int = 1, action: str = "BUY", quantity: float = 10, kind: str = "MKT", **more: object) -> Ticket:
    made = Ticket(order_id, 1, Description(symbol="AAPL", sec_type="STK"), action, quantity, kind)
    return replace(made, **more)  # type: ignore[arg-type]  # the names are the fields'


def books(**options: object) -> Exchange:
    return Exchange(["DU1"], **{"seed": 1, "step_seconds": None, "clock": Clock(), **options})  # type: ignore[arg-type]


# --- contracts


@pytest.mark.parametrize(
    ("description", "symbols"),
    [
        (Description(symbol="AAPL", sec_type="STK", exchange="SMART", currency="USD"), ["AAPL"]),
        (Description(symbol="aapl"), ["AAPL"]),
        (Description(con_id=265598), ["AAPL"]),
        (Description(con_id=265598, exchange="NYSE", symbol="ignored"), ["AAPL"]),
        (Description(con_id=265598, exchange="TSE"), []),
        (Description(symbol="AAPL", currency="EUR"), []),
        (Description(symbol="AAPL", sec_type="OPT", strike=100.0, right="C"), []),
        (Description(symbol="EUR", sec_type="CASH", currency="USD", exchange="IDEALPRO"), ["EUR.USD"]),
        (Description(symbol="USD", sec_type="CASH"), ["USD.JPY", "USD.CHF"]),
        (Description(local_symbol="EUR.USD"), ["EUR.USD"]),
        (Description(symbol="ES", sec_type="FUT", expiry="202612"), ["ESZ6"]),
        (Description(symbol="ES", sec_type="FUT"), ["ESZ6", "ESH7"]),
        (Description(symbol="ES", sec_type="STK"), []),
        (Description(sec_type="STK"), []),
        (Description(), []),
    ],
)
def test_descriptions_find_their_contracts(description: Description, symbols: list[str]) -> None:
    """A description finds every instrument that it fits and no other; an empty one finds nothing."""
    assert [contract.local_symbol for contract in CATALOGUE.find(description)] == symbols


@pytest.mark.parametrize(
    "day", [dt.date(2026, 12, 18), dt.date(2026, 12, 19), dt.date(2027, 1, 1), dt.date(2028, 2, 29)]
)
def test_futures_never_grow_stale(day: dt.date) -> None:
    """On any day there are two expiries, neither of them past, each with its own id."""
    catalogue = standard_catalogue(day)
    found = catalogue.find(Description(symbol="ES", sec_type="FUT"))
    assert len({contract.con_id for contract in found}) == 2
    assert all(contract.expiry >= f"{day:%Y%m%d}" for contract in found)


def test_an_unknown_symbol_names_the_known_ones() -> None:
    """Whoever mistypes a symbol is told which ones there are."""
    with pytest.raises(KeyError, match=r"knows no 'APPL'.*AAPL, AMZN"):
        CATALOGUE.by_symbol("APPL")


# --- prices


def test_a_seed_gives_one_path() -> None:
    """The same seed walks the same way, however often anybody looks; another seed walks another way."""

    def path(seed: int, looks: int) -> list[float]:
        clock = Clock()
        market = Market(CATALOGUE, seed=seed, clock=clock, step_seconds=1.0)
        market.quote(APPLE)
        for _ in range(looks):
            clock.now += 120 / looks
            market.quote(APPLE)
        quote = market.quote(APPLE)
        return [quote.bid, quote.ask, quote.last, quote.high, quote.low, quote.volume]

    assert path(5, 120) == path(5, 1) == path(5, 8)
    assert path(5, 1) != path(6, 1)


def test_prices_stand_still_until_they_are_set() -> None:
    """Without a step time, time moves no price; a set price is shown with a spread of one step."""
    clock = Clock()
    market = Market(CATALOGUE, seed=1, clock=clock, step_seconds=None)
    before = replace(market.quote(APPLE))
    clock.now += 3600
    assert market.quote(APPLE) == before
    market.set_price(APPLE, 250.0)
    quote = market.quote(APPLE)
    assert (quote.bid, quote.ask, quote.last, quote.high, quote.low) == (250.0, 250.01, 250.0, 250.0, 230.0)


def test_prices_move_in_their_steps() -> None:
    """Every price on the way is one of the instrument's price steps, bid below ask."""
    clock = Clock()
    market = Market(CATALOGUE, seed=3, clock=clock, step_seconds=1.0)
    for symbol in ("AAPL", "EUR.USD", "USD.JPY", "ESZ6"):
        contract = CATALOGUE.by_symbol(symbol)
        for _ in range(50):
            clock.now += 1
            quote = market.quote(contract)
            assert all(conforms(price, contract.min_tick) for price in (quote.bid, quote.ask, quote.last))
            assert quote.bid < quote.ask


def test_price_steps() -> None:
    """Rounding to a price step leaves no digits behind it, and only steps conform."""
    assert on_tick(1.050031, 0.00005) == 1.05005
    assert conforms(151.17, 0.01)
    assert not conforms(151.175, 0.01)


# --- accounts


def test_a_positions_cost_and_profit() -> None:
    """Cost averages with commissions, closing realizes what it must, and a reversal starts a new cost."""
    position = Position(APPLE)
    assert position.book(100, 10.0, 1.0) == 0
    assert position.cost == pytest.approx(10.01)
    assert position.book(100, 12.0, 1.0) == 0
    assert position.cost == pytest.approx(11.01)
    assert position.book(-50, 13.0, 1.0) == pytest.approx(50 * (13.0 - 11.01) - 1)
    assert position.book(-250, 10.0, 2.5) == pytest.approx(150 * (10.0 - 11.01) - 1.5)
    assert (position.quantity, position.cost) == (-100, pytest.approx(9.99))
    assert position.book(100, 9.0, 1.0) == pytest.approx(100 * (9.99 - 9.0) - 1)
    assert (position.quantity, position.cost) == (0, 0)


@pytest.mark.parametrize(
    ("symbol", "quantity"), [("AAPL", 100), ("AAPL", -100), ("EUR.USD", 20000), ("USD.JPY", 5000), ("ESZ6", 2)]
)
def test_trading_costs_spread_and_commission_only(symbol: str, quantity: float) -> None:
    """Whatever is bought or sold: the account is worth what it was, less the spread and the commission."""
    exchange = books()
    contract = exchange.catalogue.by_symbol(symbol)
    account = exchange.accounts["DU1"]
    quote = exchange.market.quote(contract)
    price = quote.ask if quantity > 0 else quote.bid
    account.book(contract, quantity, price, 2.0)
    totals = account.totals(exchange.market)
    spread = abs(quantity) * (quote.ask - quote.bid) * contract.size * exchange.market.rate(contract.currency)
    assert 1_000_000 - 2.0 - spread - 0.01 <= totals.net_liquidation <= 1_000_000 - 2.0 + 0.01
    account.book(contract, -quantity, price, 2.0)
    assert account.open_positions() == []
    assert account.totals(exchange.market).net_liquidation == pytest.approx(1_000_000 - 4.0)


def test_account_values() -> None:
    """An account's values have unique names per currency and follow its holdings."""
    exchange = books()
    exchange.place(ticket(quantity=100))
    account = exchange.accounts["DU1"]
    rows = account_rows(account, exchange.market)
    assert len({(key, currency) for key, _, currency in rows}) == len(rows)
    values = {(key, currency): value for key, value, currency in rows}
    assert values["GrossPositionValue", "USD"] == values["StockMarketValue", "BASE"] == "23000.00"
    assert values["InitMarginReq", "USD"] == "11500.00"
    assert values["UnrealizedPnL", "USD"] == "-2.00"
    assert values["NetLiquidation", "USD"] == "999998.00"


def test_account_summaries_list_what_was_asked() -> None:
    """A summary has the tags it was asked for, unknown ones left out, and the ledger on demand."""
    exchange = books()
    account = exchange.accounts["DU1"]
    rows = summary_rows(account, exchange.market, ["NetLiquidation", "Nonsense", "AccountType"])
    assert rows == [("NetLiquidation", "1000000.00", "USD"), ("AccountType", "INDIVIDUAL", "")]
    ledger = summary_rows(account, exchange.market, ["$LEDGER:ALL"])
    assert {currency for _, _, currency in ledger} == {"BASE", "USD"}


# --- orders


def test_a_market_order_is_told_in_a_gateways_order() -> None:
    """Accepted, executed, filled, charged, then the account: the order in which a live gateway tells a fill."""
    exchange, witness = books(), Witness()
    exchange.listen(witness)
    exchange.place(ticket())
    assert witness.heard == [
        (1, "PreSubmitted"),
        (1, "executed", 10, 230.01),
        (1, "Filled"),
        (1, "commission", 1.0),
        ("DU1",),
    ]
    exchange.forget(witness)
    exchange.place(ticket(2))
    assert len(witness.heard) == 5


@pytest.mark.parametrize(
    ("terms", "crossing", "price"),
    [
        ({"action": "BUY", "kind": "LMT", "limit": 225.0}, 224.0, 224.01),
        ({"action": "SELL", "kind": "LMT", "limit": 235.0}, 236.0, 236.0),
        ({"action": "BUY", "kind": "STP", "aux": 235.0}, 236.0, 236.01),
        ({"action": "SELL", "kind": "STP", "aux": 225.0}, 224.0, 224.0),
        ({"action": "BUY", "kind": "STP LMT", "aux": 235.0, "limit": 237.0}, 236.0, 236.01),
    ],
)
def test_waiting_orders_meet_the_market(terms: dict[str, object], crossing: float, price: float) -> None:
    """Each kind of waiting order fills exactly when the price reaches it, at the market's price."""
    exchange = books()
    exchange.place(ticket(**terms))  # type: ignore[arg-type]  # names and values above
    assert exchange.is_waiting
    exchange.set_price("AAPL", crossing)
    assert [fill.price for fill in exchange.executions] == [price]
    assert not exchange.is_waiting


def test_a_stop_limit_waits_behind_its_limit() -> None:
    """A triggered stop-limit order beyond its limit is submitted and fills when the price comes back."""
    exchange = books()
    exchange.place(ticket(kind="STP LMT", aux=235.0, limit=235.5))
    exchange.set_price("AAPL", 240.0)
    assert [order.status for order in exchange.orders] == [Status.SUBMITTED]
    exchange.set_price("AAPL", 235.0)
    assert [order.status for order in exchange.orders] == [Status.FILLED]


@pytest.mark.parametrize("tif", ["IOC", "FOK"])
def test_orders_that_may_not_wait(tif: str) -> None:
    """An order that must fill at once and can't is cancelled."""
    exchange = books()
    exchange.place(ticket(kind="LMT", limit=100.0, tif=tif))
    assert [order.status for order in exchange.orders] == [Status.CANCELLED]


def test_one_cancels_all() -> None:
    """A fill cancels the other orders of its group."""
    exchange = books()
    exchange.place(ticket(1, kind="LMT", limit=225.0, oca_group="g"))
    exchange.place(ticket(2, kind="LMT", limit=220.0, oca_group="g"))
    exchange.place(ticket(3, kind="LMT", limit=220.0))
    exchange.set_price("AAPL", 224.0)
    assert [order.status.value for order in exchange.orders] == ["Filled", "Cancelled", "Submitted"]


def test_cancelling_a_parent_takes_its_children_along() -> None:
    """A child order ends with its parent, and a new child of a cancelled parent is refused."""
    exchange, witness = books(), Witness()
    exchange.place(ticket(1, kind="LMT", limit=220.0, transmit=False))
    exchange.place(ticket(2, action="SELL", kind="LMT", limit=240.0, parent_id=1))
    exchange.listen(witness)
    exchange.cancel(1, 1)
    assert witness.heard == [(1, "Cancelled"), (1, 202), (2, "Cancelled"), (2, 202)]
    with pytest.raises(Rejected, match="Parent order is being cancelled"):
        exchange.place(ticket(3, action="SELL", kind="LMT", limit=240.0, parent_id=1))


def test_orders_that_are_not_transmitted_do_nothing() -> None:
    """An untransmitted order is neither shown nor filled until it is transmitted."""
    exchange = books()
    exchange.place(ticket(1, transmit=False))
    assert (list(exchange.orders), exchange.is_waiting) == ([], False)
    exchange.beat()
    assert not exchange.executions
    exchange.place(ticket(1))
    assert [order.status for order in exchange.orders] == [Status.FILLED]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"kind": "MKT"}, 329),
        ({"action": "SELL", "kind": "LMT", "limit": 220.0}, 105),
        ({"kind": "LMT", "limit": 220.0, "instrument": Description(symbol="MSFT", sec_type="STK")}, 105),
        ({"kind": "LMT", "limit": 220.0, "quantity": 1_000_000}, 201),
    ],
)
def test_changes_that_are_refused(change: dict[str, object], code: int) -> None:
    """A change that IBKR refuses leaves the order as it was."""
    exchange = books()
    exchange.place(ticket(kind="LMT", limit=220.0))
    (order,) = exchange.orders
    before = order.ticket
    with pytest.raises(Rejected) as refusal:
        exchange.place(ticket(**change))  # type: ignore[arg-type]  # names and values above
    assert refusal.value.code == code
    assert order.ticket == before


def test_a_filled_order_cannot_be_changed() -> None:
    """Error 104 is what a change of a filled order gets."""
    exchange = books()
    exchange.place(ticket())
    with pytest.raises(Rejected) as refusal:
        exchange.place(ticket())
    assert refusal.value.code == 104


def test_closing_needs_no_funds() -> None:
    """An account at the end of its margin can still close what it holds."""
    exchange = books()
    exchange.place(ticket(1, quantity=8600))
    with pytest.raises(Rejected, match="MUST EXCEED THE INITIAL MARGIN"):
        exchange.place(ticket(2, quantity=200))
    exchange.set_price("AAPL", 120.0)
    exchange.place(ticket(3, action="SELL", quantity=8600))
    assert exchange.accounts["DU1"].open_positions() == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished orders are forgotten, oldest first; open ones never."""
    monkeypatch.setattr("spreadpilot_core.ibkr.simulator.books.exchange._REMEMBERED", 5)
    exchange = books()
    exchange.place(ticket(1, kind="LMT", limit=100.0))
    for number in range(2, 12):
        exchange.place(ticket(number))
    kept = [order.ticket.order_id for order in exchange.orders]
    assert kept == [1, 8, 9, 10, 11]
    assert exchange.next_order_id(1) == 12


# --- history


@pytest.mark.parametrize("asked_at", ["20261128-00:00:00", "20261129-08:32:00", "20261129-23:59:59"])
def test_on_a_weekend_the_bars_are_fridays(asked_at: str) -> None:
    """Whoever asks for a day's bars on a Saturday or Sunday gets the day before the weekend, as from IBKR, and not nothing."""
    market = Market(CATALOGUE, seed=1, clock=lambda: NOW, step_seconds=None)
    span = read_span(asked_at, "1 D", "5 mins", now=NOW)
    found = bars(APPLE, market, span)
    assert len(found) == 24 * 12
    assert {bar.at.date() for bar in found} == {dt.date(2026, 11, 27)}
    assert found[-1].close == 230.0
    weeks = bars(APPLE, market, read_span(asked_at, "20 W", "1 week", now=NOW))
    assert len(weeks) == 20


def test_bars_leave_weekends_out() -> None:
    """Daily bars are weekdays, oldest first, and the last one closes at the present price."""
    market = Market(CATALOGUE, seed=1, clock=lambda: NOW, step_seconds=None)
    found = bars(APPLE, market, read_span("", "2 W", "1 day", now=NOW))
    assert len(found) == 10
    assert [bar.at for bar in found] == sorted(bar.at for bar in found)
    assert all(bar.at.weekday() < 5 for bar in found)
    assert found[-1].close == 230.0


@pytest.mark.parametrize(
    ("end", "duration", "bar"),
    [
        ("", "1 D", "1 fortnight"),
        ("", "D", "1 day"),
        ("", "1 Y", "1 secs"),
        ("", "90 Y", "1 month"),
        ("soon", "1 D", "1 day"),
        ("00010101 00:00:00", "1 D", "1 day"),
    ],
)
def test_spans_that_make_no_sense(end: str, duration: str, bar: str) -> None:
    """A span of the past that can't be read or served is refused in IBKR's words."""
    with pytest.raises(Rejected):
        read_span(end, duration, bar, now=NOW)


def test_a_span_reads_ibkrs_words() -> None:
    """End, duration and bar size are read from IBKR's strings."""
    span = read_span("20261120-22:00:00", "3600 S", "5 mins", now=NOW)
    assert span == Span(dt.datetime(2026, 11, 20, 22, tzinfo=dt.UTC), 3600, 300)
    assert not span.is_daily
