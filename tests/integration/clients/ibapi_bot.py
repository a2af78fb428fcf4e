"""A trading bot on the official ibapi: the same round trip as the other bots, reported as JSON."""

# ruff: noqa: ARG002, D102, N802, N803  # the callbacks have the library's names and arguments

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from ibapi.client import EClient
from ibapi.contract import Contract
from ibapi.execution import ExecutionFilter
from ibapi.order import Order
from ibapi.wrapper import EWrapper


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class Bot(EWrapper, EClient):  # type: ignore[misc]  # the library has no types
    """Puts every callback that matters into one queue."""

    def __init__(self) -> None:
        EClient.__init__(self, wrapper=self)
        self.heard: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.errors: list[list[Any]] = []

    def wait(self, name: str, fits: Callable[..., object] = lambda *_: True) -> tuple[Any, ...]:
        while True:
            heard = self.heard.get(timeout=30)
            if heard[0] == name and fits(*heard[1:]):
                return heard[1:]

    def error(self, reqId: int, errorCode: int, errorString: str) -> None:
        self.errors.append([reqId, errorCode, errorString])

    def managedAccounts(self, accountsList: str) -> None:
        self.heard.put(("accounts", accountsList))

    def nextValidId(self, orderId: int) -> None:
        self.heard.put(("id", orderId))

    def currentTime(self, time: int) -> None:
        self.heard.put(("time", time))

    def contractDetails(self, reqId: int, contractDetails: Any) -> None:
        self.heard.put(("details", reqId, contractDetails))

    def openOrder(self, orderId: int, contract: Any, order: Any, orderState: Any) -> None:
        self.heard.put(("open", orderId, contract, order, orderState.status))

    def openOrderEnd(self) -> None:
        self.heard.put(("open end",))

    def orderStatus(self, orderId: int, status: str, filled: float, *rest: Any) -> None:
        self.heard.put(("status", orderId, status, filled, rest))

    def execDetails(self, reqId: int, contract: Any, execution: Any) -> None:
        self.heard.put(("execution", reqId, contract, execution))

    def execDetailsEnd(self, reqId: int) -> None:
        self.heard.put(("executions end", reqId))

    def commissionReport(self, commissionReport: Any) -> None:
        self.heard.put(("commission", commissionReport))

    def position(self, account: str, contract: Any, position: float, avgCost: float) -> None:
        self.heard.put(("position", account, contract.symbol, position, avgCost))

    def updateAccountValue(self, key: str, val: str, currency: str, accountName: str) -> None:
        self.heard.put(("value", key, val, currency, accountName))

    def updatePortfolio(self, contract: Any, position: float, *_rest: Any) -> None:
        self.heard.put(("portfolio", contract.symbol, position))

    def accountDownloadEnd(self, accountName: str) -> None:
        self.heard.put(("account end", accountName))

    def completedOrder(self, contract: Any, order: Any, orderState: Any) -> None:
        self.heard.put(("completed", contract.symbol, order.action, orderState.completedStatus))

    def completedOrdersEnd(self) -> None:
        self.heard.put(("completed end",))

    def tickPrice(self, reqId: int, tickType: int, price: float, attrib: Any) -> None:
        self.heard.put(("price", reqId, tickType, price))

    def historicalData(self, reqId: int, bar: Any) -> None:
        self.heard.put(("bar", reqId, bar.close, bar.volume))

    def historicalDataEnd(self, reqId: int, start: str, end: str) -> None:
        self.heard.put(("bars end", reqId))


def apple() -> Any:
    contract = Contract()
    contract.symbol, contract.secType, contract.exchange, contract.currency = "AAPL", "STK", "SMART", "USD"
    return contract


def order(action: str, quantity: float, kind: str, limit: float | None = None) -> Any:
    made = Order()
    made.action, made.totalQuantity, made.orderType = action, quantity, kind
    if limit is not None:
        made.lmtPrice = limit
    return made


def trade(bot: Bot) -> dict[str, object]:
    (accounts,) = bot.wait("accounts")
    (next_id,) = bot.wait("id")
    bot.reqCurrentTime()
    bot.wait("time")
    bot.reqContractDetails(1, apple())
    details = bot.wait("details")[1]
    bot.placeOrder(next_id, apple(), order("BUY", 100, "MKT"))
    execution = bot.wait("execution")[2]
    bot.wait("status", lambda _id, status, *_: status == "Filled")
    charged = bot.wait("commission")[0]
    bot.placeOrder(next_id + 1, apple(), order("BUY", 10, "LMT", 150.0))
    bot.wait("status", lambda _id, status, *_: status == "Submitted")
    bot.reqOpenOrders()
    open_order = bot.wait("open")
    bot.wait("open end")
    bot.cancelOrder(next_id + 1)
    bot.wait("status", lambda _id, status, *_: status == "Cancelled")
    bot.reqPositions()
    position = bot.wait("position")
    bot.reqAccountUpdates(True, accounts)
    cash = bot.wait("value", lambda key, *_: key == "TotalCashValue")[1]
    portfolio = bot.wait("portfolio")
    bot.wait("account end")
    bot.reqCompletedOrders(False)
    completed = [bot.wait("completed"), bot.wait("completed")]
    bot.wait("completed end")
    bot.reqExecutions(2, ExecutionFilter())
    bot.wait("execution", lambda request, *_: request == 2)
    bot.wait("executions end")
    bot.reqMktData(3, apple(), "", False, False, [])
    bid = bot.wait("price", lambda _request, kind, _price: kind == 1)[2]
    bot.reqHistoricalData(4, apple(), "", "1 D", "1 hour", "TRADES", 0, 1, False, [])
    bot.wait("bar")
    bot.wait("bars end")
    return {
        "version": bot.serverVersion(),
        "accounts": accounts,
        "details": [details.contract.conId, details.longName, details.minTick, details.stockType],
        "bought": [execution.side, execution.shares, execution.price, execution.acctNumber],
        "commission": charged.commission,
        "open_order": [open_order[0], open_order[2].lmtPrice, open_order[2].action, open_order[3]],
        "position": position,
        "portfolio": portfolio,
        "cash": cash,
        "completed": completed,
        "bid": bid,
    }


def main(port: int) -> None:
    records = Records()
    logging.getLogger().addHandler(records)
    bot = Bot()
    bot.connect("127.0.0.1", port, clientId=12)
    reader = threading.Thread(target=bot.run, daemon=True)
    reader.start()
    try:
        report = trade(bot)
        report["errors"] = bot.errors
        report["problems"] = records.texts
    finally:
        bot.disconnect()
    print(json.dumps(report))  # noqa: T201  # the report is what the test reads


if __name__ == "__main__":
    main(int(sys.argv[1]))
