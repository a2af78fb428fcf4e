"""Who is known to followers and records, read beside a running manager without making or writing anything."""

from __future__ import annotations

from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster, store


async def known_followers(settings: Settings) -> set[str]:
    """Who has a record, usable or not, or had one while a manager kept something. Raises `StoreUnavailableError`."""
    roster, loaded = await read_roster(settings), await store(settings).read_records(settings)
    return {*roster.usable, *roster.faulty, *loaded.usable, *loaded.damaged}
