"""A bot beside the service: buys one share again and again, whatever becomes of gateway and manager; a JSON line for each.

remote_bot.py URL ib_async|ib_insync [blocking]; it ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
from typing import Any

from spreadpilot_core.ibkr.remote import RemoteGatewayManager

ENDED = threading.Event()
FOLLOWER = "alice"


CLIENTS: list[Any] = []
"""Those that it was handed, each once."""


def report(ib: Any, trade: Any) -> None:
    if not CLIENTS or CLIENTS[-1] is not ib:
        CLIENTS.append(ib)
    told = {"client_id": ib.client.clientId, "client": len(CLIENTS), "status": trade.orderStatus.status}
    print(json.dumps(told), flush=True)  # noqa: T201  # what the test reads


async def trade_async(manager: RemoteGatewayManager, library: Any) -> None:
    async with manager:
        while not ENDED.is_set():
            ib = await manager.get_client(FOLLOWER, timeout=5)
            if ib is None:
                continue
            try:
                async with asyncio.timeout(5):
                    (apple,) = await ib.qualifyContractsAsync(library.Stock("AAPL", "SMART", "USD"))
                    trade = ib.placeOrder(apple, library.MarketOrder("BUY", 1))
                    while not trade.isDone():
                        await asyncio.sleep(0.01)
            except (ConnectionError, TimeoutError, ValueError):
                continue
            report(ib, trade)
            await asyncio.sleep(0.1)


def trade_blocking(manager: RemoteGatewayManager, library: Any) -> None:
    while not ENDED.is_set():
        ib = manager.connect(FOLLOWER)
        try:
            (apple,) = ib.qualifyContracts(library.Stock("AAPL", "SMART", "USD"))
            trade = ib.placeOrder(apple, library.MarketOrder("BUY", 1))
            while not trade.isDone() and ib.isConnected():
                ib.sleep(0.01)
            if trade.isDone():
                report(ib, trade)
            ib.sleep(0.1)
        except (ConnectionError, ValueError):  # the libraries raise it from whatever runs their loop
            continue
    manager.close()


def main(url: str, library_name: str, style: str = "async") -> None:
    library = importlib.import_module(library_name)
    threading.Thread(target=lambda: (sys.stdin.read(), ENDED.set()), daemon=True).start()
    manager = RemoteGatewayManager(url, ib_factory=library.IB, name="bot")
    if style == "blocking":
        trade_blocking(manager, library)
    else:
        asyncio.run(trade_async(manager, library))


if __name__ == "__main__":
    main(*sys.argv[1:])
