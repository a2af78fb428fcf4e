"""A trading bot on ib_insync: connects, buys, places and cancels a limit order, looks at its account, reports as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable

import ib_insync
from ib_insync import IB, LimitOrder, MarketOrder, Stock


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's text."""
        self.texts.append(record.getMessage())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def trade(port: int) -> dict[str, object]:
    records = Records()
    logging.getLogger().addHandler(records)
    ib = IB()
    await ib.connectAsync("127.0.0.1", port, clientId=11, timeout=30)
    on_connect = list(records.texts)
    (apple,) = await ib.qualifyContractsAsync(Stock("AAPL", "SMART", "USD"))
    bought = ib.placeOrder(apple, MarketOrder("BUY", 100))
    await until(lambda: bought.isDone() and bought.fills and bought.fills[0].commissionReport.execId)
    resting = ib.placeOrder(apple, LimitOrder("BUY", 10, 150.0))
    await until(lambda: resting.orderStatus.status == "Submitted")
    open_orders = len(await ib.reqOpenOrdersAsync())
    ib.cancelOrder(resting.order)
    await until(lambda: resting.orderStatus.status == "Cancelled")
    await until(lambda: ib.positions() and ib.portfolio())
    values = {value.tag: value.value for value in ib.accountValues() if value.currency == "USD"}
    report = {
        "version": ib.client.serverVersion(),
        "library": ib_insync.__version__,
        "on_connect": on_connect,
        "accounts": ib.managedAccounts(),
        "bought": [bought.orderStatus.status, bought.orderStatus.filled, bought.orderStatus.avgFillPrice],
        "commission": bought.fills[0].commissionReport.commission,
        "open_orders": open_orders,
        "resting": resting.orderStatus.status,
        "positions": [[item.contract.symbol, item.position] for item in ib.positions()],
        "portfolio": [[item.contract.symbol, item.position] for item in ib.portfolio()],
        "cash": values["TotalCashValue"],
        "completed": len(await ib.reqCompletedOrdersAsync(apiOnly=False)),
        "executions": len(await ib.reqExecutionsAsync()),
        "problems": records.texts,
    }
    ib.disconnect()
    return report


if __name__ == "__main__":
    print(json.dumps(asyncio.run(trade(int(sys.argv[1])))))  # noqa: T201  # the report is what the test reads
