"""The API server with ib_insync and with the official ibapi, each in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.api_server import serving
from support.other_clients import clients_python, run_bot

__all__ = ["clients_python"]

_NOTICES = {2104, 2106, 2158}


@pytest.mark.parametrize(("offered", "spoken"), [(178, 176), (157, 157)])
async def test_ib_insync_trades(clients_python: Path, offered: int, spoken: int) -> None:
    """ib_insync connects without a warning and makes a bot's whole round trip, at its newest and at the oldest version."""
    async with serving(server_version=offered) as served:
        report = await run_bot(clients_python, "ib_insync_bot.py", served.port)
    assert report["on_connect"] == []
    assert report["version"] == spoken
    assert report["accounts"] == ["DU1"]
    assert report["bought"] == ["Filled", 100.0, 230.01]
    assert report["commission"] == 1.0
    assert (report["open_orders"], report["resting"]) == (1, "Cancelled")
    assert report["positions"] == report["portfolio"] == [["AAPL", 100.0]]
    assert report["cash"] == "976998.00"
    assert (report["completed"], report["executions"]) == (2, 1)
    assert report["problems"] == []


async def test_official_client_trades(clients_python: Path) -> None:
    """The official ibapi connects without an error and makes a bot's whole round trip at its only version."""
    async with serving() as served:
        report = await run_bot(clients_python, "ibapi_bot.py", served.port)
    assert report["version"] == 157
    assert report["accounts"] == "DU1"
    assert report["details"] == [265598, "APPLE INC", 0.01, "COMMON"]
    assert report["bought"] == ["BOT", 100.0, 230.01, "DU1"]
    assert report["commission"] == 1.0
    assert report["open_order"] == [2, 150.0, "BUY", "Submitted"]
    assert report["position"] == ["DU1", "AAPL", 100.0, 230.02]
    assert report["portfolio"] == ["AAPL", 100.0]
    assert report["cash"] == "976998.00"
    assert [completed[2] for completed in report["completed"]] == ["Filled Size: 100", "Cancelled Size: 0"]
    assert report["bid"] == 230.0
    assert [code for _, code, _ in report["errors"] if code not in _NOTICES] == [202]
    assert report["problems"] == []
