"""Who is known to followers and records, read beside a running manager without making or writing anything."""

from __future__ import annotations

from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import store


async def known_followers(settings: Settings) -> set[str]:
    """Who has a record, usable or not, or had one while a manager kept something. Raises `StoreUnavailableError`."""
    there = store(settings)
    roster, loaded = await there.read_roster(settings), await there.read_records(settings)
    return {*roster.usable, *roster.faulty, *loaded.usable, *loaded.damaged}
