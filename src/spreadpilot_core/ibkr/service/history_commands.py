"""`history FOLLOWER`: what happened to its gateway, from the record store, beside a running manager or without one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import MOST_OF_A_PAGE, HistoryEntry, HistoryQuery
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster, store
from spreadpilot_core.ibkr.telemetry import set_up_logs

NEWEST = 200
"""Entries that are shown where nobody says since when."""
_UNITS = {"s": "seconds", "min": "minutes", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d{1,6})(s|min|m|h|d|w)")


class NoHistoryError(GatewayManagerError):
    """Nothing is kept of somebody whom nobody knows."""

    def __init__(self, follower_id: str) -> None:
        super().__init__(f"{follower_id!r} is no follower, and nothing is kept of it.")


def moment(text: str) -> datetime:
    """When that is: "2h" ago, or an ISO 8601 time, of the reader's zone where it names none.

    Raises:
        ValueError: it is neither.
    """
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        msg = f"{text!r} is neither a time like 2026-11-30T09:00 nor a span like 90s, 30min, 2h, 3d or 1w"
        raise ValueError(msg) from None


def history(follower_id: str, *, since: datetime | None, as_json: bool) -> None:
    """Print it, oldest first. Raises `NoHistoryError`, `StoreUnavailableError`."""
    set_up_logs(level="error")
    entries = asyncio.run(_read(Settings.read(), follower_id, since))
    if as_json:
        tables.print_json([_as_dict(each) for each in entries])
    elif entries:
        tables.console().print(tables.bare([[_shown(each.at), each.name, each.sentence] for each in entries]))
    else:
        print(f"Nothing is kept of {follower_id}{f' since {_shown(since)}' if since is not None else ''}.")


async def _read(settings: Settings, follower_id: str, since: datetime | None) -> Sequence[HistoryEntry]:
    """All since then, or the newest."""
    limit = NEWEST if since is None else MOST_OF_A_PAGE
    query = HistoryQuery(follower_id=FollowerId(follower_id), since=since, limit=limit)
    found: list[HistoryEntry] = []
    while (page := await store(settings).read_history(settings, query)) is not None:
        found += page.entries
        if page.older is None or since is None:
            break
        query = replace(query, before=page.older)
    if not found:
        roster = await read_roster(settings)
        if follower_id not in {*roster.usable, *roster.faulty}:
            raise NoHistoryError(follower_id)
    return found[::-1]


def _as_dict(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": entry.at.astimezone(UTC).isoformat(),
        "follower_id": entry.follower_id,
        "name": entry.name,
        "severity": entry.severity.value,
        "reason_code": entry.reason_code,
        "sentence": entry.sentence,
    }


def _shown(at: datetime) -> str:
    """In the reader's zone."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
