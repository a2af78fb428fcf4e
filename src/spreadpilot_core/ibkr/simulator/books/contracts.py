"""The instruments that can be traded here, and how a client's description of one is matched.

A handful of well-known ones with their real contract ids; futures get the next two quarterly expiries, so that the
catalogue never grows stale. Anything else is unknown, as a mistyped symbol is at IBKR.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

_STOCK_ORDER_TYPES = "ACTIVETIM,AD,ADJUST,ALERT,ALLOC,AON,COND,DAY,GAT,GTC,GTD,IOC,LMT,MKT,OCA,STP,STPLMT,WHATIF"
_QUARTERS = {3: "H", 6: "M", 9: "U", 12: "Z"}
_FRIDAY = 4


@dataclass(frozen=True)
class Contract:
    """One instrument, with what IBKR tells about it."""

    con_id: int
    symbol: str
    sec_type: str
    price: float
    """Where its random walk starts."""
    exchange: str = "SMART"
    primary_exchange: str = ""
    currency: str = "USD"
    local_symbol: str = ""
    trading_class: str = ""
    expiry: str = ""
    multiplier: str = ""
    long_name: str = ""
    industry: str = ""
    category: str = ""
    subcategory: str = ""
    stock_type: str = ""
    min_tick: float = 0.01
    time_zone: str = "US/Eastern"
    hours: tuple[str, str] = ("0400-2000", "0930-1600")
    """Trading and liquid hours of a weekday."""
    venues: tuple[str, ...] = ()
    under_con_id: int = 0

    @property
    def size(self) -> float:
        """What a quoted price is multiplied with to give money per unit."""
        return float(self.multiplier or 1)

    @property
    def is_cash(self) -> bool:
        """Whether this is a currency pair."""
        return self.sec_type == "CASH"

    @property
    def valid_exchanges(self) -> tuple[str, ...]:
        """Where an order for it may be sent."""
        return (self.exchange, *self.venues)

    @property
    def order_types(self) -> str:
        """Order types and attributes, in IBKR's list form."""
        return _STOCK_ORDER_TYPES


@dataclass(frozen=True)
class Description:
    """An instrument as a client describes it; empty fields match anything."""

    con_id: int = 0
    symbol: str = ""
    sec_type: str = ""
    expiry: str = ""
    strike: float = 0.0
    right: str = ""
    multiplier: str = ""
    exchange: str = ""
    primary_exchange: str = ""
    currency: str = ""
    local_symbol: str = ""
    trading_class: str = ""

    def matches(self, contract: Contract) -> bool:
        """Whether `contract` is meant."""
        if self.con_id:
            return self.con_id == contract.con_id and self._exchange_fits(contract)
        if not (self.symbol or self.local_symbol) or self.right not in ("", "0", "?") or self.strike:
            return False
        return (
            all(wanted in ("", given) for wanted, given in self._pairs(contract))
            and contract.expiry.startswith(self.expiry)
            and self._exchange_fits(contract)
        )

    def _pairs(self, contract: Contract) -> Iterable[tuple[str, str]]:
        return (
            (self.symbol.upper(), contract.symbol),
            (self.sec_type, contract.sec_type),
            (self.currency, contract.currency),
            (self.multiplier, contract.multiplier),
            (self.local_symbol.upper(), contract.local_symbol),
            (self.trading_class.upper(), contract.trading_class),
        )

    def _exchange_fits(self, contract: Contract) -> bool:
        primary = self.primary_exchange in ("", contract.primary_exchange, *contract.valid_exchanges)
        return primary and self.exchange in ("", contract.primary_exchange, *contract.valid_exchanges)


class Catalogue:
    """All instruments there are."""

    def __init__(self, contracts: Iterable[Contract]) -> None:
        self._contracts = {contract.con_id: contract for contract in contracts}

    def find(self, description: Description) -> list[Contract]:
        """The instruments that fit; several when the description is ambiguous, none when nothing is known by it."""
        return [contract for contract in self._contracts.values() if description.matches(contract)]

    def by_id(self, con_id: int) -> Contract | None:
        """The instrument with this contract id."""
        return self._contracts.get(con_id)

    def by_symbol(self, symbol: str) -> Contract:
        """The first instrument with this symbol, or with this local symbol ("EUR.USD").

        Raises:
            KeyError: there is none; the known ones are named.
        """
        for contract in self._contracts.values():
            if symbol in (contract.local_symbol, contract.symbol):
                return contract
        known = ", ".join(sorted({contract.local_symbol for contract in self._contracts.values()}))
        raise KeyError(f"the simulator knows no {symbol!r}; it knows {known}")

    def pair(self, base: str, quoted: str) -> Contract | None:
        """The currency pair `base`.`quoted`."""
        wanted = f"{base}.{quoted}"
        return next((pair for pair in self._contracts.values() if pair.is_cash and pair.local_symbol == wanted), None)

    def like(self, pattern: str) -> list[Contract]:
        """The instruments whose symbol starts with `pattern` or whose name contains it."""
        wanted = pattern.upper()
        return [
            contract
            for contract in self._contracts.values()
            if wanted and (contract.symbol.startswith(wanted) or wanted in contract.long_name.upper())
        ]


@functools.lru_cache(maxsize=4)
def standard_catalogue(today: dt.date) -> Catalogue:
    """The instruments of a new simulator, with the futures that trade on `today`; shared by all books of that day."""
    return Catalogue([*_stocks(), *_pairs(), *_futures(today)])


@dataclass(frozen=True)
class _Stock:
    con_id: int
    symbol: str
    name: str
    price: float
    listed: str = "NASDAQ"
    sector: tuple[str, str, str] = field(default=("Technology", "Computers", "Computers"))
    kind: str = "COMMON"

    def contract(self) -> Contract:
        industry, category, subcategory = self.sector
        return Contract(
            con_id=self.con_id,
            symbol=self.symbol,
            sec_type="STK",
            price=self.price,
            primary_exchange=self.listed,
            local_symbol=self.symbol,
            trading_class="NMS" if self.listed == "NASDAQ" else self.symbol,
            long_name=self.name,
            industry=industry,
            category=category,
            subcategory=subcategory,
            stock_type=self.kind,
            venues=("AMEX", "NYSE", "NASDAQ", "ARCA", "BATS", "IEX", "ISLAND"),
        )


def _stocks() -> Iterable[Contract]:
    internet = ("Communications", "Internet", "Web Portals/ISP")
    no_sector = ("", "", "")
    stocks = (
        _Stock(265598, "AAPL", "APPLE INC", 230.0),
        _Stock(272093, "MSFT", "MICROSOFT CORP", 420.0, sector=("Technology", "Software", "Applications Software")),
        _Stock(3691937, "AMZN", "AMAZON.COM INC", 200.0, sector=("Communications", "Internet", "E-Commerce/Products")),
        _Stock(208813719, "GOOGL", "ALPHABET INC-CL A", 170.0, sector=internet),
        _Stock(
            4815747, "NVDA", "NVIDIA CORP", 140.0, sector=("Technology", "Semiconductors", "Electronic Compo-Semicon")
        ),
        _Stock(76792991, "TSLA", "TESLA INC", 340.0, sector=("Consumer, Cyclical", "Auto Manufacturers", "Auto-Cars")),
        _Stock(8314, "IBM", "INTL BUSINESS MACHINES CORP", 210.0, listed="NYSE"),
        _Stock(756733, "SPY", "SPDR S&P 500 ETF TRUST", 590.0, listed="ARCA", sector=no_sector, kind="ETF"),
        _Stock(320227571, "QQQ", "INVESCO QQQ TRUST SERIES 1", 505.0, sector=no_sector, kind="ETF"),
    )
    return (stock.contract() for stock in stocks)


def _pairs() -> Iterable[Contract]:
    for con_id, base, quoted, price, tick in (
        (12087792, "EUR", "USD", 1.0500, 0.00005),
        (12087797, "GBP", "USD", 1.2600, 0.00005),
        (15016059, "USD", "JPY", 154.00, 0.005),
        (12087820, "USD", "CHF", 0.8850, 0.00005),
    ):
        yield Contract(
            con_id=con_id,
            symbol=base,
            sec_type="CASH",
            price=price,
            exchange="IDEALPRO",
            currency=quoted,
            local_symbol=f"{base}.{quoted}",
            trading_class=f"{base}.{quoted}",
            long_name=f"{base}/{quoted}",
            min_tick=tick,
            hours=("0000-2400", "0000-2400"),
        )


def _futures(today: dt.date) -> Iterable[Contract]:
    for number, expiry in enumerate(_next_expiries(today, count=2)):
        for base, symbol, name, multiplier in (
            (495512563, "ES", "E-mini S&P 500", "50"),
            (362687422, "MES", "Micro E-Mini S&P 500 Stock Price Index", "5"),
        ):
            yield Contract(
                con_id=base + expiry.year * 16 + expiry.month,
                symbol=symbol,
                sec_type="FUT",
                price=5900.0 + 50.0 * number,
                exchange="CME",
                local_symbol=f"{symbol}{_QUARTERS[expiry.month]}{expiry.year % 10}",
                trading_class=symbol,
                expiry=f"{expiry:%Y%m%d}",
                multiplier=multiplier,
                long_name=name,
                min_tick=0.25,
                time_zone="US/Central",
                hours=("0000-1600", "0830-1600"),
                under_con_id=11004968,
            )


def _next_expiries(today: dt.date, *, count: int) -> Iterable[dt.date]:
    found = 0
    year, month = today.year, today.month
    while found < count:
        if month in _QUARTERS and (friday := _third_friday(year, month)) >= today:
            found += 1
            yield friday
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)  # noqa: PLR2004  # months of a year


def _third_friday(year: int, month: int) -> dt.date:
    first = dt.date(year, month, 1)
    return first + dt.timedelta(days=(_FRIDAY - first.weekday()) % 7 + 14)
