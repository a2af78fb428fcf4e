"""Layouts of the simulator's messages, read by the decoder of an installed client at every version."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

import pytest
from ib_async.decoder import Decoder
from ib_async.wrapper import Wrapper

from spreadpilot_core.ibkr.simulator.api import contract_messages, order_messages, wire
from spreadpilot_core.ibkr.simulator.books.contracts import Description, standard_catalogue
from spreadpilot_core.ibkr.simulator.books.orders import Order, Preview, Status, Ticket

TODAY = dt.date(2026, 11, 24)
CATALOGUE = standard_catalogue(TODAY)
VERSIONS = [version for version in range(157, 179) if version != 158]
TICKET = Ticket(
    5,
    7,
    Description(symbol="AAPL", sec_type="STK", exchange="SMART"),
    "SELL",
    25.0,
    "LMT",
    limit=231.5,
    tif="GTC",
    oca_group="group",
    oca_type=1,
    account="DU1",
    order_ref="mine",
    parent_id=3,
    outside_rth=True,
    hidden=True,
    good_till_date="20271231 22:00:00 UTC",
)


class Heard(Wrapper):
    """A client's wrapper that keeps what the decoder hands over."""

    def __init__(self) -> None:
        self.heard: dict[str, tuple[Any, ...]] = {}

    def openOrder(self, *values: Any) -> None:  # noqa: N802  # the library's name
        """Keep it."""
        self.heard["openOrder"] = values

    def completedOrder(self, *values: Any) -> None:  # noqa: N802  # the library's name
        """Keep it."""
        self.heard["completedOrder"] = values

    def contractDetails(self, *values: Any) -> None:  # noqa: N802  # the library's name
        """Keep it."""
        self.heard["contractDetails"] = values


def order() -> Order:
    made = Order(TICKET, CATALOGUE.by_symbol("AAPL"), perm_id=123, status=Status.SUBMITTED)
    made.completed_at = 0.0
    return made


def decoded(fields: list[wire.Field], version: int, caplog: pytest.LogCaptureFixture) -> dict[str, tuple[Any, ...]]:
    wrapper = Heard()
    with caplog.at_level(logging.WARNING):
        Decoder(wrapper, version).interpret([wire.text_of(field) for field in fields])
    assert caplog.records == []
    return wrapper.heard


@pytest.mark.parametrize("version", VERSIONS)
def test_an_open_order_is_read_back(version: int, caplog: pytest.LogCaptureFixture) -> None:
    """An order's every term arrives in its own place at every version."""
    order_id, contract, read, state = decoded(order_messages.open_order(order(), version), version, caplog)["openOrder"]
    assert (order_id, contract.conId, contract.exchange, state.status) == (5, 265598, "SMART", "Submitted")
    assert (read.action, read.totalQuantity, read.orderType, read.lmtPrice, read.tif) == (
        "SELL",
        25.0,
        "LMT",
        231.5,
        "GTC",
    )
    assert (read.account, read.orderRef, read.clientId, read.permId, read.parentId) == ("DU1", "mine", 7, 123, 3)
    assert (read.ocaGroup, read.ocaType, read.outsideRth, read.hidden) == ("group", 1, True, True)
    assert (read.goodTillDate, read.clearingIntent, read.adjustedOrderType) == ("20271231 22:00:00 UTC", "IB", "None")
    assert (read.whatIf, read.conditions, read.exemptCode) == (False, [], -1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_completed_order_is_read_back(version: int, caplog: pytest.LogCaptureFixture) -> None:
    """A completed order's terms and end arrive in their own places at every version."""
    done = order()
    done.status, done.filled = Status.FILLED, 25.0
    contract, read, state = decoded(order_messages.completed_order(done, version), version, caplog)["completedOrder"]
    assert (contract.symbol, read.action, read.lmtPrice, read.permId, read.filledQuantity) == (
        "AAPL",
        "SELL",
        231.5,
        123,
        25.0,
    )
    assert (read.ocaType, read.goodTillDate, read.clearingIntent) == (1, "20271231 22:00:00 UTC", "IB")
    assert (state.status, state.completedTime, state.completedStatus) == (
        "Filled",
        "19700101 00:00:00 UTC",
        "Filled Size: 25",
    )


def test_a_what_if_order_tells_margins(caplog: pytest.LogCaptureFixture) -> None:
    """Margins before, change and after stand in their places."""
    preview = Preview(10.0, 20.0, 30.0, 1.0, 2.0, -3.0, 1.25)
    read, state = decoded(order_messages.open_order(order(), 178, preview), 178, caplog)["openOrder"][2:]
    assert read.whatIf
    assert (state.initMarginBefore, state.maintMarginChange, state.equityWithLoanAfter) == ("10", "2", "27")
    assert (state.commission, state.commissionCurrency) == (1.25, "USD")


@pytest.mark.parametrize(
    ("version", "opened", "completed"),
    [
        (157, 120, 92),
        (159, 121, 92),
        (160, 122, 92),
        (162, 123, 92),
        (169, 123, 92),
        (170, 128, 97),
        (176, 128, 97),
        (177, 127, 96),
        (178, 127, 96),
    ],
)
def test_the_length_of_orders(version: int, opened: int, completed: int) -> None:
    """Orders have exactly the fields that clients count on at each version, and no more."""
    assert len(order_messages.open_order(order(), version)) == opened
    assert len(order_messages.completed_order(order(), version)) == completed


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("symbol", ["AAPL", "SPY", "EUR.USD", "ESZ6"])
def test_contract_details_are_read_back(symbol: str, version: int, caplog: pytest.LogCaptureFixture) -> None:
    """What is known of an instrument arrives in its own place at every version."""
    contract = CATALOGUE.by_symbol(symbol)
    fields = contract_messages.details(contract, request_id=9, exchange="", version=version, today=TODAY)
    request_id, read = decoded(fields, version, caplog)["contractDetails"]
    told = read.contract
    assert (request_id, told.conId, told.symbol, told.secType) == (
        9,
        contract.con_id,
        contract.symbol,
        contract.sec_type,
    )
    assert (told.exchange, told.currency, told.localSymbol) == (
        contract.exchange,
        contract.currency,
        contract.local_symbol,
    )
    assert (told.lastTradeDateOrContractMonth, told.multiplier) == (contract.expiry, contract.multiplier)
    assert (read.minTick, read.longName, read.stockType) == (contract.min_tick, contract.long_name, contract.stock_type)
    assert read.timeZoneId == contract.time_zone
    assert len(read.tradingSessions()) == (6 if contract.is_cash else 4)
    assert len(read.marketRuleIds.split(",")) == len(read.validExchanges.split(","))
