"""Runs a program of the documentation as it is written, statement by statement, and trades with the client it gets.

    python as_written.py PROGRAM LIBRARY

PROGRAM may await at its top level, as Python's asyncio prompt allows; LIBRARY is `ib_async` or `ib_insync`. Everything
else comes from the environment. What it saw is the last line of its output, as JSON.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST = 30.0
"""Seconds for one answer of a simulated gateway."""


async def run(program: Path, library: Any) -> dict[str, Any]:
    """The whole program; after the statement that names `ib_client` the client trades."""
    names: dict[str, Any] = {}
    report: dict[str, Any] = {"values": []}
    for statement in ast.parse(program.read_text()).body:
        report["values"].append(await _run(statement, names))
        if "ib_client" in names and "traded" not in report:
            report["client"] = type(names["ib_client"]).__module__.partition(".")[0]
            report["traded"] = await trade(names["ib_client"], library)
    report["is_healthy"] = names["is_healthy"]
    report["connected_at_the_end"] = names["ib_client"].isConnected()
    return report


async def _run(statement: ast.stmt, names: dict[str, Any]) -> Any:
    """The value of an expression that is a statement; None for any other."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    if isinstance(statement, ast.Expr):
        value = eval(compile(ast.Expression(statement.value), "program", "eval", flags=flags), names)  # noqa: S307  # documented text
    else:
        value = eval(compile(ast.Module([statement], []), "program", "exec", flags=flags), names)  # noqa: S307  # documented text
    return await value if inspect.iscoroutine(value) else value


async def trade(ib: Any, library: Any) -> dict[str, Any]:
    """Buy, place and cancel a limit order, and look at what there is."""
    (apple,) = await ib.qualifyContractsAsync(library.Stock("AAPL", "SMART", "USD"))
    bought = ib.placeOrder(apple, library.MarketOrder("BUY", 100))
    await until(lambda: bought.isDone() and ib.positions())
    resting = ib.placeOrder(apple, library.LimitOrder("BUY", 10, 150.0))
    await until(lambda: resting.orderStatus.status == "Submitted")
    ib.cancelOrder(resting.order)
    await until(lambda: resting.orderStatus.status == "Cancelled")
    return {
        "bought": [bought.orderStatus.status, bought.orderStatus.filled],
        "resting": resting.orderStatus.status,
        "positions": [[item.contract.symbol, item.position] for item in ib.positions()],
        "open_orders": len(await ib.reqOpenOrdersAsync()),
        "executions": len(await ib.reqExecutionsAsync()),
    }


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(LONGEST):
        while not condition():
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Path(sys.argv[1]), importlib.import_module(sys.argv[2])))))  # noqa: T201  # its report
