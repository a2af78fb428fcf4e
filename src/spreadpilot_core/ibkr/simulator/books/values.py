"""An account's totals as the named values that clients ask for: account updates, the ledger, account summaries.

Names and spellings are IBKR's. Each row is (key, value, currency).
"""

from __future__ import annotations

from collections.abc import Iterable

from spreadpilot_core.ibkr.simulator.books.accounts import BASE, Account, Totals, buying_power
from spreadpilot_core.ibkr.simulator.books.market import Market

Row = tuple[str, str, str]

LEDGER_TAG = "$LEDGER"


def account_rows(account: Account, market: Market) -> list[Row]:
    """All values of an account, as an account update lists them."""
    totals = account.totals(market)
    return [
        ("AccountCode", account.name, ""),
        ("AccountReady", "true", ""),
        ("AccountType", "INDIVIDUAL", ""),
        ("Currency", BASE, BASE),
        *((key, _money(amount), BASE) for key, amount in _amounts(totals).items()),
        *_plain(totals),
        *ledger_rows(account, market),
    ]


def summary_rows(account: Account, market: Market, tags: Iterable[str]) -> list[Row]:
    """The values that an account summary with these tags lists; `$LEDGER:ALL` stands for the whole ledger."""
    totals = account.totals(market)
    known = {
        "AccountType": ("INDIVIDUAL", ""),
        **{key: (_money(amount), BASE) for key, amount in _amounts(totals).items()},
        **{key: (value, currency) for key, value, currency in _plain(totals)},
    }
    rows: list[Row] = []
    for tag in tags:
        if tag.startswith(LEDGER_TAG):
            rows += ledger_rows(account, market, tag.partition(":")[2] or BASE)
        elif tag in known:
            rows.append((tag, *known[tag]))
    return rows


def ledger_rows(account: Account, market: Market, currency: str = "ALL") -> list[Row]:
    """The cash book: one block in the base currency and one per currency held."""
    totals = account.totals(market)
    rows: list[Row] = []
    if currency in ("ALL", "BASE"):
        rows += _ledger_block("BASE", totals.cash, 1.0, totals)
    for held, amount in account.cash.items():
        if currency in ("ALL", held):
            rows += _ledger_block(held, amount, market.rate(held), totals if held == BASE else Totals(cash=amount))
    return rows


def _ledger_block(currency: str, cash: float, rate: float, totals: Totals) -> Iterable[Row]:
    return (
        ("CashBalance", _money(cash), currency),
        ("TotalCashBalance", _money(cash), currency),
        ("StockMarketValue", _money(totals.stock), currency),
        ("FuturesPNL", _money(totals.future_profit), currency),
        ("NetLiquidationByCurrency", _money(cash + totals.stock + totals.future_profit), currency),
        ("UnrealizedPnL", _money(totals.unrealized), currency),
        ("RealizedPnL", _money(totals.realized), currency),
        ("ExchangeRate", f"{rate:.8f}".rstrip("0").rstrip("."), currency),
    )


def _amounts(totals: Totals) -> dict[str, float]:
    margins = {"InitMarginReq": totals.initial_margin, "MaintMarginReq": totals.maintenance_margin}
    funds = {"AvailableFunds": totals.available, "ExcessLiquidity": totals.excess}
    return {
        "NetLiquidation": totals.net_liquidation,
        "TotalCashValue": totals.cash,
        "SettledCash": totals.cash,
        "AccruedCash": 0.0,
        "BuyingPower": buying_power(totals),
        "EquityWithLoanValue": totals.net_liquidation,
        "PreviousDayEquityWithLoanValue": totals.net_liquidation,
        "GrossPositionValue": totals.gross,
        "RegTEquity": totals.net_liquidation,
        "RegTMargin": totals.initial_margin,
        "SMA": totals.available,
        **margins,
        **funds,
        **{f"Full{key}": amount for key, amount in (margins | funds).items()},
        **{f"LookAhead{key}": amount for key, amount in (margins | funds).items()},
        "PASharesValue": 0.0,
    }


def _plain(totals: Totals) -> tuple[Row, ...]:
    equity = totals.net_liquidation
    return (
        ("Cushion", f"{totals.excess / equity:.6f}" if equity > 0 else "0", ""),
        ("Leverage", f"{totals.gross / equity:.2f}" if equity > 0 else "0", ""),
        ("DayTradesRemaining", "-1", ""),
        ("LookAheadNextChange", "0", ""),
        ("HighestSeverity", "0", ""),
    )


def _money(amount: float) -> str:
    return f"{amount + 0.0:.2f}" if abs(amount) >= 0.005 else "0.00"  # noqa: PLR2004  # half a cent: never "-0.00"
