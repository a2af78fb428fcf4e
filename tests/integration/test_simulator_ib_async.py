"""The API server with ib_async: connecting, a bot's round trip, and what else a bot asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ib_async import IB, Forex, Future, LimitOrder, MarketOrder, Order, Stock, StopOrder, TagValue, TimeCondition
from ib_async.contract import ComboLeg, Contract

from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange
from support.api_server import GENEROUS, HOST, Served, serving, until, warnings_logged

__all__ = ["warnings_logged"]

VERSIONS = [157, 159, 160, 162, 163, 164, 166, 169, 170, 171, 173, 176, 177, 178]
APPLE = Stock("AAPL", "SMART", "USD")


@asynccontextmanager
async def connected(served: Served, client_id: int = 7, *, newest: int = 178, **options: Any) -> AsyncIterator[IB]:
    ib = IB()
    ib.RaiseRequestErrors = True
    ib.client.MaxClientVersion = newest
    await ib.connectAsync(HOST, served.port, client_id, timeout=GENEROUS, raiseSyncErrors=True, **options)
    try:
        yield ib
    finally:
        ib.disconnect()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_bots_round_trip_at_every_version(version: int, warnings_logged: list[str]) -> None:
    """A bot connects without a warning, buys, rests and cancels an order, and sees positions, cash and history of it."""
    async with serving(server_version=version) as served, connected(served) as ib:
        assert ib.client.serverVersion() == version
        (apple,) = await ib.qualifyContractsAsync(APPLE)
        bought = ib.placeOrder(apple, MarketOrder("BUY", 100))
        await until(lambda: bought.fills and bought.fills[0].commissionReport.execId)
        assert bought.orderStatus.status == "Filled"
        assert [entry.status for entry in bought.log if not entry.message] == [
            "PendingSubmit",
            "PreSubmitted",
            "Filled",
        ]
        resting = ib.placeOrder(apple, LimitOrder("BUY", 10, 150.0))
        await until(lambda: resting.orderStatus.status == "Submitted")
        resting.order.lmtPrice = 151.0
        ib.placeOrder(apple, resting.order)
        await until(lambda: resting.log[-1].message == "Modified")
        assert [trade.order.lmtPrice for trade in await ib.reqAllOpenOrdersAsync()] == [151.0]
        assert warnings_logged == []
        ib.cancelOrder(resting.order)
        await until(lambda: resting.log[-1].errorCode == 202 or "202" in "".join(warnings_logged))
        assert resting.orderStatus.status == "Cancelled"
        await until(ib.portfolio)
        assert [(item.contract.symbol, item.position, item.avgCost) for item in ib.positions()] == [
            ("AAPL", 100, 230.02)
        ]
        assert [item.averageCost for item in ib.portfolio()] == [230.02]
        assert value_of(ib, "TotalCashValue") == "976998.00"
        completed = await ib.reqCompletedOrdersAsync(apiOnly=False)
        assert [trade.orderStatus.status for trade in completed] == ["Filled", "Cancelled"]
        executions = await ib.reqExecutionsAsync()
        assert [(fill.execution.side, fill.execution.price) for fill in executions] == [("BOT", 230.01)]
    assert [text for text in warnings_logged if "202" not in text] == []


def value_of(ib: IB, tag: str, currency: str = "USD") -> str:
    return next(value.value for value in ib.accountValues() if value.tag == tag and value.currency == currency)


@pytest.mark.parametrize(("offered", "newest", "spoken"), [(178, 170, 170), (164, 178, 164), (178, 158, 157)])
async def test_the_lower_version_is_spoken(offered: int, newest: int, spoken: int, warnings_logged: list[str]) -> None:
    """Server and client speak the lower of their versions, and never 158, which clients read differently."""
    async with serving(server_version=offered) as served, connected(served, newest=newest) as ib:
        assert ib.client.serverVersion() == spoken
        assert await ib.whatIfOrderAsync(APPLE, MarketOrder("BUY", 1))
    assert warnings_logged == []


async def test_several_accounts(warnings_logged: list[str]) -> None:
    """Several accounts are managed at once: an order names its account, and the other one stays as it was."""
    async with serving("DU1", "DU2", "DU3") as served, connected(served, account="DU2") as ib:
        assert ib.managedAccounts() == ["DU1", "DU2", "DU3"]
        bought = ib.placeOrder(APPLE, MarketOrder("BUY", 5, account="DU2"))
        await until(lambda: bought.isDone() and ib.portfolio("DU2"))
        assert [(item.account, item.position) for item in ib.positions()] == [("DU2", 5)]
        assert warnings_logged == []
        unnamed = ib.placeOrder(APPLE, MarketOrder("BUY", 5))
        await until(unnamed.isDone)
        assert unnamed.log[-1].errorCode == 435
        summary = {(row.account, row.tag): row.value for row in await ib.accountSummaryAsync()}
        assert summary["DU1", "TotalCashValue"] == "1000000.00"
        assert float(summary["DU2", "TotalCashValue"]) < 1_000_000
        assert summary["DU2", "GrossPositionValue"] == "1150.00"


async def test_more_accounts_than_are_synchronized(warnings_logged: list[str]) -> None:
    """Sixty accounts connect without a warning, although the client sends nothing for each of them."""
    names = [f"DU{number}" for number in range(60)]
    async with serving(*names) as served, connected(served) as ib:
        assert ib.managedAccounts() == names
    assert warnings_logged == []


async def test_a_burst_that_the_client_throttles(warnings_logged: list[str]) -> None:
    """Fifty accounts, whose requests the client itself spreads over two seconds, meet no rate limit."""
    async with serving(*(f"DU{number}" for number in range(50))) as served, connected(served):
        pass
    assert warnings_logged == []


async def test_a_new_account_holds_cash_only() -> None:
    """A new account has its opening balance and nothing else: no position, order or execution."""
    async with serving() as served, connected(served) as ib:
        assert (ib.positions(), ib.portfolio(), ib.trades(), ib.fills()) == ([], [], [], [])
        assert value_of(ib, "NetLiquidation") == value_of(ib, "AvailableFunds") == "1000000.00"


async def test_prices_stream_and_stop(warnings_logged: list[str]) -> None:
    """A subscription gets the quote at once and each change of it, and nothing more once it is cancelled."""
    async with serving() as served, connected(served) as ib:
        (apple,) = await ib.qualifyContractsAsync(APPLE)
        ticker = ib.reqMktData(apple)
        await until(lambda: ticker.volume > 0 and ticker.time)
        assert (ticker.bid, ticker.ask, ticker.last, ticker.close) == (230.0, 230.01, 230.0, 230.0)
        served.exchange.set_price("AAPL", 240.0)
        await until(lambda: ticker.last == 240.0)
        assert (ticker.bid, ticker.ask, ticker.high) == (240.0, 240.01, 240.0)
        ib.cancelMktData(apple)
        await ib.reqCurrentTimeAsync()
        served.exchange.set_price("AAPL", 250.0)
        await ib.reqCurrentTimeAsync()
        assert ticker.last == 240.0
    assert warnings_logged == []


async def test_prices_walk_while_they_are_watched() -> None:
    """Prices move by themselves as long as somebody subscribes; afterwards nothing runs."""
    books = Exchange(["DU1"], seed=42, step_seconds=0.005)
    async with serving(exchange=books) as served, connected(served) as ib:
        (euro,) = await ib.qualifyContractsAsync(Forex("EURUSD"))
        ticker = ib.reqMktData(euro)
        seen: list[float] = []
        ticker.updateEvent += lambda ticker: seen.append(ticker.bid)
        await until(lambda: len(set(seen)) >= 3)
        ib.cancelMktData(euro)
        await until(lambda: not served.server.is_watched())
        await until(lambda: not any(task.get_name() == "simulator: prices" for task in asyncio.all_tasks()))


async def test_waiting_orders_move_the_market() -> None:
    """A resting order is filled by the walk alone, without any subscription and after its client has gone."""
    books = Exchange(["DU1"], seed=1, step_seconds=0.001)
    async with serving(exchange=books) as served:
        async with connected(served) as ib:
            (euro,) = await ib.qualifyContractsAsync(Forex("EURUSD"))
            ib.placeOrder(euro, LimitOrder("BUY", 1000, 1.0499))
            await until(lambda: books.is_waiting or books.executions)
        await until(lambda: books.executions)
    assert books.executions[0].price <= 1.0499


async def test_a_snapshot_ends() -> None:
    """A snapshot delivers a quote and ends, leaving no subscription behind."""
    books = Exchange(["DU1"], seed=1, step_seconds=60)
    async with serving(exchange=books) as served, connected(served) as ib:
        (euro,) = await ib.qualifyContractsAsync(Forex("EURUSD"))
        (ticker,) = await ib.reqTickersAsync(euro)
        assert (ticker.bid, ticker.ask) == (1.05, 1.05005)
        assert not served.server.is_watched()


async def test_waiting_orders_fill_when_the_price_crosses(warnings_logged: list[str]) -> None:
    """A limit order fills once the price crosses it, a stop once its price is reached, at the market's price."""
    async with serving() as served, connected(served) as ib:
        (apple,) = await ib.qualifyContractsAsync(APPLE)
        buy = ib.placeOrder(apple, LimitOrder("BUY", 100, 225.0))
        await until(lambda: buy.orderStatus.status == "Submitted")
        served.exchange.set_price("AAPL", 224.0)
        await until(buy.isDone)
        assert buy.orderStatus.avgFillPrice == 224.01
        stop = ib.placeOrder(apple, StopOrder("SELL", 100, 220.0))
        await until(lambda: stop.orderStatus.status == "PreSubmitted")
        served.exchange.set_price("AAPL", 219.0)
        await until(lambda: stop.fills and stop.fills[0].commissionReport.execId)
        report = stop.fills[0].commissionReport
        assert (stop.orderStatus.status, stop.orderStatus.avgFillPrice) == ("Filled", 219.0)
        assert report.realizedPNL == pytest.approx(100 * (219.0 - 224.01) - 2)
        await until(lambda: not ib.positions())
        assert value_of(ib, "TotalCashValue") == value_of(ib, "NetLiquidation") == "999497.00"
    assert warnings_logged == []


async def test_a_bracket_order() -> None:
    """A bracket waits until its last leg is transmitted, its children for their parent, and one child cancels the other."""
    async with serving() as served, connected(served) as ib:
        (apple,) = await ib.qualifyContractsAsync(APPLE)
        legs = ib.bracketOrder("BUY", 10, 228.0, 240.0, 220.0)
        parent, take_profit, stop_loss = (ib.placeOrder(apple, leg) for leg in legs)
        await until(lambda: parent.orderStatus.status == "Submitted")
        assert take_profit.orderStatus.status == stop_loss.orderStatus.status == "PreSubmitted"
        served.exchange.set_price("AAPL", 227.0)
        await until(lambda: take_profit.orderStatus.status == "Submitted")
        assert parent.orderStatus.status == "Filled"
        served.exchange.set_price("AAPL", 241.0)
        await until(lambda: take_profit.isDone() and stop_loss.isDone())
        assert (take_profit.orderStatus.status, stop_loss.orderStatus.status) == ("Filled", "Cancelled")


async def test_currencies_and_futures(warnings_logged: list[str]) -> None:
    """A currency trade moves cash between currencies; a future takes margin and no cash, and pays its profit when closed."""
    async with serving() as served, connected(served) as ib:
        euro = ib.placeOrder(Forex("EURUSD"), MarketOrder("BUY", 20_000))
        await until(euro.isDone)
        assert euro.orderStatus.avgFillPrice == 1.05005
        await until(lambda: any(value.currency == "EUR" for value in ib.accountValues()))
        assert value_of(ib, "CashBalance", "EUR") == "20000.00"
        assert value_of(ib, "CashBalance", "USD") == "978997.00"
        futures = [details.contract for details in await ib.reqContractDetailsAsync(Future("ES", exchange="CME"))]
        assert len(futures) == 2
        front = futures[0]
        assert front is not None
        long = ib.placeOrder(front, MarketOrder("BUY", 1))
        await until(long.isDone)
        served.exchange.set_price(front.localSymbol, 5950.0)
        flat = ib.placeOrder(front, MarketOrder("SELL", 1))
        await until(lambda: flat.fills and flat.fills[0].commissionReport.execId)
        assert flat.fills[0].commissionReport.realizedPNL == (5950.0 - 5900.25) * 50
        await until(lambda: value_of(ib, "CashBalance", "USD") == f"{978997 + (5950.0 - 5900.25) * 50 - 4.5:.2f}")
    assert warnings_logged == []


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (MarketOrder("BUY", 0), 434),
        (MarketOrder("BUY", 0.5), 10243),
        (MarketOrder("BUY", 1_000_000), 201),
        (LimitOrder("BUY", 1, 150.001), 110),
        (LimitOrder("BUY", 1, 150.0, parentId=99), 135),
        (MarketOrder("BUY", 1, account="DU9"), 321),
        (MarketOrder("BUY", 1, hedgeType="D", hedgeParam="1"), 10268),
        (MarketOrder("BUY", 1, goodAfterTime="20300101 10:00:00 UTC"), 10268),
        (MarketOrder("BUY", 1, conditions=[TimeCondition(time="20300101 10:00:00 UTC")]), 10268),
        (Order(action="BUY", totalQuantity=1, orderType="TRAIL", auxPrice=1.0), 387),
        (Order(action="BUY", totalQuantity=1, orderType="LMT"), 321),
        (Order(action="HOLD", totalQuantity=1, orderType="MKT"), 321),
    ],
)
async def test_orders_that_are_refused(order: Any, code: int) -> None:
    """An order that IBKR refuses is refused by IBKR's code on its own id, and leaves no trace in the account."""
    async with serving() as served, connected(served) as ib:
        (apple,) = await ib.qualifyContractsAsync(APPLE)
        order.orderId = 0
        errors: list[tuple[int, int]] = []
        ib.errorEvent += lambda request_id, number, *_: errors.append((request_id, number))
        trade = ib.placeOrder(apple, order)
        await until(lambda: errors)
        assert errors == [(trade.order.orderId, code)]
        assert list(served.exchange.orders) == []


async def test_rare_terms_are_read_past(warnings_logged: list[str]) -> None:
    """Orders with algorithms, scales and delta-neutral legs are read rightly; a combination is refused."""
    async with serving() as served, connected(served) as ib:
        (apple,) = await ib.qualifyContractsAsync(APPLE)
        for terms in (
            {"algoStrategy": "Adaptive", "algoParams": [TagValue("adaptivePriority", "Normal")]},
            {"scaleInitLevelSize": 1, "scaleSubsLevelSize": 1, "scalePriceIncrement": 0.5},
            {"deltaNeutralOrderType": "MKT", "deltaNeutralConId": 1},
            {"tif": "GTC", "outsideRth": True, "orderRef": "mine"},
        ):
            trade = ib.placeOrder(apple, LimitOrder("BUY", 1, 240.0, **terms))
            await until(trade.isDone)
            assert trade.orderStatus.status == "Filled"
        assert warnings_logged == []
        legs = [ComboLeg(conId=265598, ratio=1, action="BUY", exchange="SMART")]
        pair = ib.placeOrder(
            Contract(symbol="AAPL", secType="BAG", exchange="SMART", currency="USD", comboLegs=legs),
            MarketOrder("BUY", 1),
        )
        await until(pair.isDone)
        assert pair.log[-1].errorCode == 387


async def test_subscriptions_to_accounts_follow_trades() -> None:
    """Summary, account updates and positions by model follow a trade for as long as they are subscribed."""
    async with serving("DU1", "DU2") as served, connected(served) as ib:
        await ib.accountSummaryAsync()
        ib.client.reqPositionsMulti(900, "DU1", "")
        values: list[tuple[str, str]] = []
        ib.accountValueEvent += lambda value: values.append((value.account, value.tag))
        bought = ib.placeOrder(APPLE, MarketOrder("BUY", 10, account="DU1"))
        await until(lambda: bought.isDone() and ("DU1", "NetLiquidation") in values)
        assert {account for account, _ in values} == {"DU1"}
        summary = {(row.account, row.tag): row.value for row in await ib.accountSummaryAsync() if row.currency == "USD"}
        assert summary["DU1", "GrossPositionValue"] == "2300.00"
        for cancel in (
            ib.client.cancelPositionsMulti,
            ib.client.cancelAccountSummary,
            ib.client.cancelAccountUpdatesMulti,
        ):
            cancel(900)
        ib.client.cancelPositions()
        await ib.reqCurrentTimeAsync()
        sold = ib.placeOrder(APPLE, MarketOrder("SELL", 10, account="DU1"))
        await until(sold.isDone)
        await ib.reqCurrentTimeAsync()
        assert [item.position for item in ib.positions()] == [10]


async def test_wrong_accounts_and_too_many_summaries() -> None:
    """A request for an account that is not managed, and a third summary, are refused on their own ids."""
    async with serving() as served, connected(served) as ib:
        errors: list[tuple[int, int]] = []
        ib.errorEvent += lambda request_id, code, *_: errors.append((request_id, code))
        ib.client.reqAccountUpdates(True, "DU9")
        ib.client.reqPnL(901, "DU9", "")
        ib.client.reqAccountUpdatesMulti(902, "DU9", "", False)
        for number in (903, 904, 905):
            ib.client.reqAccountSummary(number, "All", "NetLiquidation")
        await until(lambda: len(errors) == 4)
        assert errors == [(-1, 321), (901, 321), (902, 321), (905, 322)]


async def test_market_data_that_is_refused() -> None:
    """Market data, bars and price rules of what doesn't exist, and a subscription's id used twice, are refused."""
    async with serving() as served, connected(served) as ib:
        errors: list[tuple[int, int]] = []
        ib.errorEvent += lambda request_id, code, *_: errors.append((request_id, code))
        unknown = Stock("NOSUCH", "SMART", "USD")
        ib.client.reqMktData(901, unknown, "", False, False, [])
        ib.client.reqMktData(902, Contract(conId=265598), "", False, False, [])
        ib.client.reqMktData(902, Contract(conId=265598), "", False, False, [])
        ib.client.cancelMktData(902)
        ib.client.reqHistoricalData(903, unknown, "", "1 D", "1 hour", "TRADES", 1, 1, False, [])
        ib.client.reqHistoricalData(904, APPLE, "", "1 D", "1 hour", "TRADES", 1, 1, True, [])
        ib.client.reqHeadTimeStamp(905, unknown, "TRADES", 1, 1)
        ib.client.reqMarketRule(999)
        await until(lambda: len(errors) == 6)
        assert errors == [(901, 200), (902, 322), (903, 200), (904, 321), (905, 200), (-1, 321)]


async def test_what_if_orders_change_nothing() -> None:
    """A what-if order tells margin and commission and is never placed."""
    async with serving() as served, connected(served) as ib:
        state = await ib.whatIfOrderAsync(APPLE, MarketOrder("BUY", 100))
        assert (state.status, state.initMarginChange, state.commission) == ("PreSubmitted", "11500.25", 1.0)
        assert list(served.exchange.orders) == []


async def test_contracts() -> None:
    """Known instruments are told with their real ids; unknown and ambiguous ones are not made up."""
    async with serving() as served, connected(served) as ib:
        (details,) = await ib.reqContractDetailsAsync(Stock("SPY", "SMART", "USD"))
        assert details.contract is not None
        assert (details.contract.conId, details.stockType, details.longName) == (
            756733,
            "ETF",
            "SPDR S&P 500 ETF TRUST",
        )
        assert len(details.tradingSessions()) >= 4
        by_id, euro = await ib.qualifyContractsAsync(Contract(conId=265598), Forex("EURUSD"))
        assert (by_id.symbol, by_id.exchange, euro.conId) == ("AAPL", "SMART", 12087792)
        found = await ib.reqMatchingSymbolsAsync("MICRO")
        assert found is not None
        assert {description.contract.symbol for description in found if description.contract} == {"MSFT", "MES"}
        assert [step.increment for step in await ib.reqMarketRuleAsync(26) or []] == [0.01]
        errors: list[int] = []
        ib.errorEvent += lambda _id, code, *_: errors.append(code)
        ib.RaiseRequestErrors = False
        assert await ib.reqContractDetailsAsync(Stock("NOSUCH", "SMART", "USD")) == []
        assert errors == [200]


async def test_history() -> None:
    """Bars of the past end at the present price, daily ones without weekends; the first moment is told."""
    async with serving() as served, connected(served) as ib:
        bars = await ib.reqHistoricalDataAsync(APPLE, "", "1 D", "5 mins", "TRADES", useRTH=False)
        assert bars
        assert bars[-1].close == 230.0
        days = await ib.reqHistoricalDataAsync(APPLE, "20261120 22:00:00 UTC", "2 W", "1 day", "MIDPOINT", useRTH=True)
        assert len(days) == 10
        assert all(day.low <= min(day.open, day.close) <= max(day.open, day.close) <= day.high for day in days)
        assert (await ib.reqHeadTimeStampAsync(APPLE, "TRADES", useRTH=True, formatDate=1)).year == 2004


async def test_profit_and_loss_follow() -> None:
    """Subscriptions to profit and loss, of the account and of one position, follow trades and prices."""
    async with serving() as served, connected(served) as ib:
        whole, single = ib.reqPnL("DU1"), ib.reqPnLSingle("DU1", "", 265598)
        bought = ib.placeOrder(APPLE, MarketOrder("BUY", 100))
        await until(bought.isDone)
        served.exchange.set_price("AAPL", 240.0)
        await until(lambda: single.value == 24000.0)
        assert whole.dailyPnL == whole.unrealizedPnL == single.unrealizedPnL == pytest.approx(998.0)
        assert single.position == 100


async def test_the_books_survive_dropped_clients_and_a_new_server() -> None:
    """Orders, fills and positions outlive lost connections and a restarted server; an order id is never given twice."""
    books = Exchange(["DU1"], seed=1, step_seconds=None)
    async with serving(exchange=books) as served:
        ib = IB()
        await ib.connectAsync(HOST, served.port, 7, timeout=GENEROUS)
        bought = ib.placeOrder(APPLE, MarketOrder("BUY", 100))
        resting = ib.placeOrder(APPLE, LimitOrder("SELL", 100, 235.0))
        await until(lambda: bought.isDone() and resting.orderStatus.status == "Submitted")
        served.server.drop_clients()
        await until(lambda: not ib.isConnected() and served.server.clients == 0)
    async with serving(exchange=books) as served, connected(served) as ib:
        assert [item.position for item in ib.positions()] == [100]
        assert [trade.order.lmtPrice for trade in ib.openTrades()] == [235.0]
        assert len(ib.fills()) == 1
        assert ib.client.getReqId() > resting.order.orderId
        served.exchange.set_price("AAPL", 236.0)
        await until(lambda: not ib.positions())
        assert [trade.orderStatus.status for trade in ib.trades()] == ["Filled", "Filled"]


async def test_clients_see_their_own_orders_and_all_on_request() -> None:
    """A client hears of its own orders only; all clients' orders are told on request, and all can be cancelled at once."""
    async with serving() as served, connected(served, 1) as first, connected(served, 2) as second:
        order = first.placeOrder(APPLE, LimitOrder("BUY", 1, 100.0))
        await until(lambda: order.orderStatus.status == "Submitted")
        assert await second.reqOpenOrdersAsync() == []
        assert len(await second.reqAllOpenOrdersAsync()) == 1
        second.reqGlobalCancel()
        await until(order.isDone)


async def test_many_idle_gateways_are_cheap(warnings_logged: list[str]) -> None:
    """A hundred gateways with a client each hold no task beside one per connection."""
    servers = [ApiServer(accounts=[f"DU{number}"]) for number in range(100)]
    ports = [await server.listen(HOST, 0) for server in servers]
    clients = [IB() for _ in servers]
    for ib, port in zip(clients, ports, strict=True):
        await ib.connectAsync(HOST, port, 1, timeout=GENEROUS)
    await asyncio.sleep(0)
    names = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("simulator")]
    assert sorted(set(names)) == ["simulator: API client"]
    assert len(names) == 100
    for ib in clients:
        ib.disconnect()
    for server in servers:
        await server.close()
    assert warnings_logged == []
