"""`audit …`: the trail of secret reads and operator acts, shown and verified. It writes nothing."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.errors import GatewayManagerError, StoreUnavailableError, UnknownFollowerError
from spreadpilot_core.ibkr.model.secret_refs import shown_version
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.reading import known_followers
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.local_time import local_time
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.wiring import open_records

_COLUMNS = ("serial", "at", "act", "follower", "ref", "version", "source", "outcome", "detail", "who")
_BELOW = {"WHO": "by", "DETAIL": "", "SOURCE": "from", "VERSION": "version", "REF": "secret", "OUTCOME": "outcome"}
"""What moves below a line where the terminal is too narrow."""


def show(*, follower: str | None, last: int, as_json: bool) -> None:
    """Print the newest lines, of one follower or of all."""
    entries = list(deque(_of(follower), maxlen=last))
    if follower is not None and not entries:
        _must_be_known(follower)
    if as_json:
        tables.print_json(entries)
    elif entries:
        rows = [[_shown(entry, column) for column in _COLUMNS] for entry in entries]
        tables.console().print(tables.table([column.upper() for column in _COLUMNS], rows, below=_BELOW))
    else:
        print("No lines.")


def verify(recorded: str | None) -> None:
    """Go through the chain; say what was found, or how much is whole and which hash to keep."""
    trail = _trail()
    known_head = recorded or asyncio.run(_recorded(trail))
    verdict = trail.verify(known_head)
    if not verdict.is_whole:
        raise GatewayManagerError(f"The audit trail {trail.path} is not whole: {' '.join(verdict.findings)}")
    count = counted(verdict.lines, "line")
    newest = f"; the newest has the hash {verdict.head.hash}" if verdict.head else ""
    print(f"The audit trail {trail.path} is whole: {count}{newest}.")
    if known_head is None:
        sentence = "No hash of it was kept yet (a manager keeps them): lines missing at its end would not show."
        print(sentence, file=sys.stderr)


def _must_be_known(follower: str) -> None:
    """Raises `UnknownFollowerError` when neither a record nor a line names this follower, as far as that can be seen now."""
    with suppress(StoreUnavailableError):
        known = asyncio.run(known_followers(Settings.read()))
        if follower not in known:
            named = {str(entry["follower"]) for entry in _trail().entries() if entry.get("follower")}
            raise UnknownFollowerError(follower, known | named)


def _shown(entry: dict[str, Any], column: str) -> Any:
    value = entry.get(column)
    if not isinstance(value, str):
        return value
    match column:
        case "version":
            return shown_version(value)
        case "at":
            return local_time(value)
        case _:
            return value


async def _recorded(trail: AuditTrail) -> str | None:
    """The newest hash that the record store kept of this trail; None when it kept none yet."""
    settings = Settings.read()
    if settings.store_is_local and not settings.local_store_dir.exists():
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
