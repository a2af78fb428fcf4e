"""Whether a login asks for a phone: a live one does, and a paper one of a live user may."""

from __future__ import annotations

from spreadpilot_core.ibkr.model.followers import Follower, TradingMode
from spreadpilot_core.ibkr.model.records import Record


def asks_phone(follower: Follower, record: Record) -> bool:
    """Whether the next login of this follower counts as one that a phone must approve."""
    return follower.trading_mode is TradingMode.LIVE or record.asks_phone
