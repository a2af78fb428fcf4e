"""`pictures FOLLOWER`: where the last pictures of its gateways' screens are on this host; needs no running manager."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from spreadpilot_core.ibkr.errors import StoreUnavailableError, UnknownFollowerError
from spreadpilot_core.ibkr.screens.last_pictures import pictures_of
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.reading import known_followers
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.telemetry import set_up_logs


def pictures(follower_id: str, *, as_json: bool) -> None:
    """Print time and file of each, the newest first. Raises `UnknownFollowerError`."""
    set_up_logs(level="error")
    settings = Settings.read()
    found = pictures_of(settings.state_dir, follower_id)
    if not found:
        _must_be_known(settings, follower_id)
    if as_json:
        rows = [
            {"id": each.id, "at": each.at.isoformat(), "size": each.size, "file": str(file)} for each, file in found
        ]
        tables.print_json(rows)
        return
    for each, file in found:
        print(f"{each.at.astimezone():%Y-%m-%d %H:%M:%S %Z}  {file}")
    if not found:
        print(f"No picture of {follower_id} is on this host.")


def _must_be_known(settings: Settings, follower_id: str) -> None:
    with suppress(StoreUnavailableError):
        known = asyncio.run(known_followers(settings))
        if follower_id not in known:
            raise UnknownFollowerError(follower_id, known)
