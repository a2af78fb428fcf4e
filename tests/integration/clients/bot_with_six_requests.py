"""A bot as a user writes one: six kinds of request through the client that `get_client` gave, one failing and one slow.

The settings are in its environment. It asks once for each line of its standard input, says `asked` when all was answered, and
ends with its input.
"""

from __future__ import annotations

import asyncio
import sys

from ib_async import IB, LimitOrder, Stock

from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.settings import Settings

SLOW = 2.5


async def ask(ib: IB) -> None:
    """All but the slow one."""
    (apple,) = await ib.reqContractDetailsAsync(Stock("AAPL", "SMART", "USD"))
    await ib.reqContractDetailsAsync(Stock("NOSUCH", "SMART", "USD"))
    await ib.reqPositionsAsync()
    await ib.reqPositionsAsync()
    await ib.reqCurrentTimeAsync()
    ib.reqMktData(apple.contract)
    ib.placeOrder(apple.contract, LimitOrder("BUY", 1, 1.0))


async def ask_slowly(ib: IB) -> None:
    """While its gateway stands still."""
    runtime = SimulatedRuntime.from_settings(Settings.read(), manager_id="bot")
    await runtime.open()
    await runtime.inject("bot", "freeze")
    answer = asyncio.ensure_future(ib.reqMatchingSymbolsAsync("AA"))
    await asyncio.sleep(SLOW)
    await runtime.inject("bot", "thaw")
    await answer
    await runtime.close()


async def main() -> None:
    """Ask, as often as told."""
    async with GatewayManager() as manager:
        ib = await manager.get_client("bot", timeout=60)
        assert ib is not None
        while await asyncio.to_thread(sys.stdin.readline):
            await ask(ib)
            await ask_slowly(ib)
            await asyncio.sleep(1)
            sys.stdout.write("asked\n")
            sys.stdout.flush()


asyncio.run(main())
