"""Instruments as the wire has them: the contract fields of several messages, and contract details per version."""

from __future__ import annotations

import datetime as dt

from spreadpilot_core.ibkr.simulator.api import wire
from spreadpilot_core.ibkr.simulator.books.contracts import Contract

_RULES = {0.01: 26, 0.00005: 239, 0.005: 59, 0.25: 67}
"""IBKR's market rule for each price step."""
_SIZES_NAMED = 164
"""From this version on contract details name their sizes, and have no version of their own."""
_DESCRIBED = 176


def eleven(contract: Contract, exchange: str | None = None) -> list[wire.Field]:
    """The contract fields of positions, orders and executions."""
    return [*head(contract), exchange or contract.primary_exchange or contract.exchange, *tail(contract)]


def head(contract: Contract) -> list[wire.Field]:
    """Contract id to multiplier."""
    return [contract.con_id, contract.symbol, contract.sec_type, contract.expiry, 0.0, "", contract.multiplier]


def tail(contract: Contract) -> list[wire.Field]:
    """Currency, local symbol, trading class."""
    return [contract.currency, contract.local_symbol, contract.trading_class]


def details(contract: Contract, *, request_id: int, exchange: str, version: int, today: dt.date) -> list[wire.Field]:
    """Message 10, contract details, as an answer to a request that named `exchange`."""
    old = version < _SIZES_NAMED
    fields: list[wire.Field] = [
        10,
        *([8] if old else []),
        request_id,
        contract.symbol,
        contract.sec_type,
        contract.expiry,
    ]
    fields += [0.0, "", exchange or contract.exchange, contract.currency, contract.local_symbol]
    fields += [
        contract.trading_class,
        contract.trading_class,
        contract.con_id,
        contract.min_tick,
        *([100] if old else []),
    ]
    fields += [contract.multiplier, contract.order_types, ",".join(contract.valid_exchanges), 1, contract.under_con_id]
    fields += [contract.long_name, contract.primary_exchange, contract.expiry[:6]]
    fields += [contract.industry, contract.category, contract.subcategory, contract.time_zone]
    fields += [_sessions(hours, today, contract) for hours in contract.hours]
    fields += ["", 0, 0, 1, contract.symbol if contract.expiry else "", "IND" if contract.expiry else ""]
    fields += [",".join(str(rule_of(contract)) for _ in contract.valid_exchanges), contract.expiry, contract.stock_type]
    if version == _SIZES_NAMED - 1:
        fields.append(1)
    if not old:
        fields += [1, 1, 100 if contract.sec_type == "STK" else 1]
    return fields


def sample(contract: Contract, *, version: int) -> list[wire.Field]:
    """One entry of a symbol search."""
    found: list[wire.Field] = [
        contract.con_id,
        contract.symbol,
        contract.sec_type,
        contract.primary_exchange,
        contract.currency,
        0,
    ]
    return [*found, contract.long_name, ""] if version >= _DESCRIBED else found


def rule_of(contract: Contract) -> int:
    """The number of the market rule that tells its price steps."""
    return _RULES[contract.min_tick]


def price_steps(rule: int) -> float | None:
    """The price step of a market rule."""
    return next((step for step, number in _RULES.items() if number == rule), None)


def _sessions(hours: str, today: dt.date, contract: Contract) -> str:
    """A week of trading hours in IBKR's form."""
    opened, closed = hours.split("-")
    days = [today + dt.timedelta(days=number) for number in range(6)]
    return ";".join(
        f"{day:%Y%m%d}:{opened}-{day:%Y%m%d}:{closed.replace('2400', '2359')}"
        if day.weekday() < 5 or contract.is_cash  # noqa: PLR2004  # Saturday
        else f"{day:%Y%m%d}:CLOSED"
        for day in days
    )
