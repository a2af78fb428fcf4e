"""What an account holds: cash by currency and positions, and the values that IBKR derives from them.

The exchange books fills here; sessions read positions and values. Money is in dollars unless a currency is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from spreadpilot_core.ibkr.simulator.books.contracts import Contract
from spreadpilot_core.ibkr.simulator.books.market import Market

BASE = "USD"
_STOCK_MARGIN = {"initial": 0.5, "maintenance": 0.25}
_FUTURE_MARGIN = {"initial": 0.08, "maintenance": 0.06}
_LEVERAGE_OF_CASH = 4.0


@dataclass(eq=False)
class Position:
    """One instrument in one account."""

    contract: Contract
    quantity: float = 0.0
    cost: float = 0.0
    """Average cost of one unit: price times multiplier, with the commission, as IBKR counts it."""
    realized: float = 0.0
    """Realized profit, in the instrument's currency."""

    def book(self, quantity: float, price: float, commission: float) -> float:
        """Book a trade of `quantity` (negative: sold); gives the realized profit."""
        unit = price * self.contract.size
        closing = min(abs(quantity), abs(self.quantity)) if self.quantity * quantity < 0 else 0.0
        opening = abs(quantity) - closing
        sign = 1.0 if self.quantity > 0 else -1.0
        share = commission / abs(quantity)
        realized = sign * closing * (unit - self.cost) - share * closing
        if opening:
            held = abs(self.quantity) - closing
            per_unit = unit + (share if quantity > 0 else -share)
            self.cost = (held * self.cost + opening * per_unit) / (held + opening)
        self.quantity += quantity
        if not self.quantity:
            self.cost = 0.0
        self.realized += realized
        return realized


@dataclass(frozen=True)
class Holding:
    """A position at the market's price."""

    position: Position
    price: float
    value: float
    unrealized: float


@dataclass(eq=False)
class Totals:
    """An account in dollars."""

    cash: float = 0.0
    stock: float = 0.0
    future_profit: float = 0.0
    gross: float = 0.0
    unrealized: float = 0.0
    realized: float = 0.0
    initial_margin: float = 0.0
    maintenance_margin: float = 0.0

    def add(self, holding: Holding, rate: float) -> None:
        """Count a holding whose currency is worth `rate` dollars."""
        contract, value = holding.position.contract, holding.value * rate
        self.unrealized += holding.unrealized * rate
        self.realized += holding.position.realized * rate
        if contract.is_cash:
            return  # the cash itself is counted by currency
        if contract.sec_type == "FUT":
            self.future_profit += holding.unrealized * rate
        else:
            self.stock += value
        self.gross += abs(value)
        self.initial_margin += margin(contract, value, "initial")
        self.maintenance_margin += margin(contract, value, "maintenance")

    @property
    def net_liquidation(self) -> float:
        """Cash, stock and the open profit of futures."""
        return self.cash + self.stock + self.future_profit

    @property
    def available(self) -> float:
        """What new positions may take as initial margin."""
        return self.net_liquidation - self.initial_margin

    @property
    def excess(self) -> float:
        """What may be lost before a margin call."""
        return self.net_liquidation - self.maintenance_margin


@dataclass(eq=False)
class Account:
    """One account; a new one holds cash only."""

    name: str
    cash: dict[str, float]
    positions: dict[int, Position] = field(default_factory=dict)

    def book(self, contract: Contract, quantity: float, price: float, commission: float) -> float:
        """Book a fill of `quantity` (negative: sold); gives the realized profit in the contract's currency."""
        position = self.positions.setdefault(contract.con_id, Position(contract))
        in_cost = commission if contract.sec_type == "STK" else 0.0
        realized = position.book(quantity, price, in_cost)
        self._move(contract.currency if in_cost else BASE, -commission)
        if contract.sec_type == "FUT":
            self._move(contract.currency, realized)
        else:
            self._move(contract.currency, -quantity * price)
        if contract.is_cash:
            self._move(contract.symbol, quantity)
        return realized

    def open_positions(self) -> list[Position]:
        """Positions that are not flat."""
        return [position for position in self.positions.values() if position.quantity]

    def holdings(self, market: Market) -> Iterator[Holding]:
        """Every position ever opened, valued at the market."""
        for position in self.positions.values():
            price = _mark(market, position.contract)
            unit = price * position.contract.size
            unrealized = position.quantity * (unit - position.cost)
            yield Holding(position, price, position.quantity * unit, unrealized)

    def totals(self, market: Market) -> Totals:
        """The account as a whole, in dollars."""
        totals = Totals(cash=sum(amount * market.rate(currency) for currency, amount in self.cash.items()))
        for holding in self.holdings(market):
            totals.add(holding, market.rate(holding.position.contract.currency))
        return totals

    def _move(self, currency: str, amount: float) -> None:
        self.cash[currency] = self.cash.get(currency, 0.0) + amount


def margin(contract: Contract, value: float, kind: str) -> float:
    """The margin ("initial" or "maintenance") of a position worth `value`; none for currencies."""
    if contract.is_cash:
        return 0.0
    return abs(value) * (_FUTURE_MARGIN if contract.sec_type == "FUT" else _STOCK_MARGIN)[kind]


def buying_power(totals: Totals) -> float:
    """What could be bought on margin within the day."""
    return max(0.0, totals.available) * _LEVERAGE_OF_CASH


def _mark(market: Market, contract: Contract) -> float:
    quote = market.quote(contract)
    return quote.middle if contract.is_cash else quote.last
