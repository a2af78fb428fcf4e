"""Prices: one seeded random walk per instrument, advanced when somebody looks.

No task moves a price. A quote is brought up to date when it is asked for, step by step for the time that passed, so that
hundreds of idle gateways cost nothing and one seed gives one path, whoever looks and however often.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from spreadpilot_core.ibkr.simulator.books.contracts import Catalogue, Contract

STEP_SECONDS = 0.25
_LONGEST_CATCH_UP = 2000
"""Steps that are walked at most at once: after a long silence the walk simply goes on from where it was."""
_STEP_SIGMA = 0.00015
"""Standard deviation of one step, relative to the price."""


@dataclass
class Quote:
    """What the market shows of one instrument."""

    bid: float
    ask: float
    last: float
    bid_size: int
    ask_size: int
    last_size: int
    volume: int
    opened: float
    high: float
    low: float
    close: float
    """Of the day before."""

    @property
    def middle(self) -> float:
        """Between bid and ask."""
        return (self.bid + self.ask) / 2


@dataclass
class _Walk:
    price: float
    steps: random.Random
    seen_at: float
    quote: Quote = field(init=False)


class Market:
    """The quotes of all instruments."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        seed: int,
        clock: Callable[[], float],
        step_seconds: float | None = STEP_SECONDS,
    ) -> None:
        self.catalogue = catalogue
        self.seed = seed
        self.step_seconds = step_seconds
        """None: prices stand still until they are set."""
        self._clock = clock
        self._walks: dict[int, _Walk] = {}

    def quote(self, contract: Contract) -> Quote:
        """The quote as of now."""
        walk = self._walks.get(contract.con_id) or self._open(contract)
        if self.step_seconds is not None:
            passed = int((self._clock() - walk.seen_at) / self.step_seconds)
            if passed > 0:
                walk.seen_at += passed * self.step_seconds
                for _ in range(min(passed, _LONGEST_CATCH_UP)):
                    _step(walk, contract)
        return walk.quote

    def set_price(self, contract: Contract, price: float) -> None:
        """Put the instrument at `price`; its walk goes on from there."""
        self.quote(contract)
        walk = self._walks[contract.con_id]
        walk.price = price
        _show(walk, contract)

    def rate(self, currency: str) -> float:
        """Dollars for one unit of `currency`; 1 where no pair is known."""
        if pair := self.catalogue.pair(currency, "USD"):
            return self.quote(pair).middle
        if pair := self.catalogue.pair("USD", currency):
            return 1.0 / self.quote(pair).middle
        return 1.0

    def _open(self, contract: Contract) -> _Walk:
        steps = random.Random(f"{self.seed}:{contract.con_id}")
        walk = _Walk(price=contract.price, steps=steps, seen_at=self._clock())
        start = on_tick(contract.price, contract.min_tick)
        walk.quote = Quote(start, start, start, 0, 0, 0, 0, start, start, start, start)
        _show(walk, contract)
        self._walks[contract.con_id] = walk
        return walk


def on_tick(price: float, tick: float) -> float:
    """`price` rounded to the instrument's price steps."""
    return round(round(price / tick) * tick, 10)


def conforms(price: float, tick: float) -> bool:
    """Whether `price` is one of the instrument's price steps."""
    return math.isclose(price, on_tick(price, tick), rel_tol=0, abs_tol=tick * 1e-4)


def _step(walk: _Walk, contract: Contract) -> None:
    walk.price = max(contract.min_tick * 10, walk.price * math.exp(walk.steps.gauss(0, _STEP_SIGMA)))
    _show(walk, contract)


def _show(walk: _Walk, contract: Contract) -> None:
    quote, tick = walk.quote, contract.min_tick
    bid = on_tick(walk.price - tick / 2, tick)
    lot = 1_000_000 if contract.is_cash else 100
    quote.bid, quote.ask = bid, on_tick(bid + tick, tick)
    quote.last = on_tick(walk.price, tick)
    quote.bid_size, quote.ask_size = (lot * walk.steps.randint(1, 20) for _ in range(2))
    quote.last_size = lot * walk.steps.randint(1, 5)
    quote.volume += quote.last_size
    quote.high, quote.low = max(quote.high, quote.last), min(quote.low, quote.last)
