"""`audit …`: the trail of secret reads and operator acts, shown and verified. It writes nothing."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from spreadpilot_core.ibkr.audit import AuditTrail
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.opening import open_records
from spreadpilot_core.ibkr.records import shown_version
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.settings import Settings

_COLUMNS = ("serial", "at", "act", "follower", "ref", "version", "source", "outcome", "detail", "who")


def show(*, follower: str | None, last: int, as_json: bool) -> None:
    """Print the newest lines, of one follower or of all."""
    entries = list(deque(_of(follower), maxlen=last))
    if as_json:
        tables.print_json(entries)
    elif entries:
        rows = [[_shown(entry, column) for column in _COLUMNS] for entry in entries]
        tables.console().print(tables.table([column.upper() for column in _COLUMNS], rows))
    else:
        print("No lines.")


def verify(recorded: str | None) -> None:
    """Go through the chain; say what was found, or how much is whole and which hash to keep."""
    trail = _trail()
    kept = recorded or asyncio.run(_recorded(trail))
    verdict = trail.verify(kept)
    if not verdict.is_whole:
        raise GatewayManagerError(f"The audit trail {trail.path} is not whole: {' '.join(verdict.findings)}")
    count = f"{verdict.lines} line{'s' * (verdict.lines != 1)}"
    newest = f"; the newest has the hash {verdict.head.hash}" if verdict.head else ""
    print(f"The audit trail {trail.path} is whole: {count}{newest}.")
    if kept is None:
        sentence = "No hash of it was kept yet (a manager keeps them): lines missing at its end would not show."
        print(sentence, file=sys.stderr)


def _shown(entry: dict[str, Any], column: str) -> Any:
    value = entry.get(column)
    return shown_version(value) if column == "version" and isinstance(value, str) else value


async def _recorded(trail: AuditTrail) -> str | None:
    """The newest hash that the record store kept of this trail; None when it kept none yet."""
    settings = Settings.read()
    if settings.store.startswith("local:") and not settings.local_store_dir.exists():
        return None
    records = open_records(settings)
    await records.open()
    try:
        head = await records.audit_head(trail.name)
    finally:
        await records.close()
    return head.hash if head is not None else None


def _of(follower: str | None) -> Iterator[dict[str, Any]]:
    return (entry for entry in _trail().entries() if follower is None or entry.get("follower") == follower)


def _trail() -> AuditTrail:
    return AuditTrail(Settings.read().state_dir)
