"""`availability`: how long each gateway was ready in a month, from the running manager, else from the record store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from spreadpilot_core.ibkr.model.availability import Availability, summed
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.client import ControlClient, NoManagerError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import store

_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_COLUMNS = ("FOLLOWER", "READY", "DEGRADED", "DOWN", "AVAILABLE", "OUTSIDE RESET", "EXCHANGE HOURS")
_BELOW = {"OUTSIDE RESET": "outside reset", "EXCHANGE HOURS": "in exchange hours"}


def month(text: str) -> str:
    """The month that is meant, as "2026-11".

    Raises:
        ValueError: it is none.
    """
    if not _MONTH.fullmatch(text):
        msg = f"{text!r} is no month like 2026-11"
        raise ValueError(msg)
    return text


def availability(*, month: str | None, as_json: bool) -> None:
    """Print it, by follower. Raises `StoreUnavailableError`."""
    settings, asked = Settings.read(), month or f"{datetime.now(UTC):%Y-%m}"
    rows = _of_manager(settings, asked)
    if rows is None:
        rows = [each.as_dict() for each in asyncio.run(_of_store(settings, asked))]
    if as_json:
        tables.print_json(rows)
    elif rows:
        tables.console().print(tables.table(_COLUMNS, [_row(each) for each in rows], below=_BELOW))
    else:
        print(f"Nothing is known of {asked}.")


def _of_manager(settings: Settings, asked: str) -> list[dict[str, Any]] | None:
    """What the running manager says, up to now; None where none runs."""
    try:
        with ControlClient(settings.state_dir) as client:
            return client.availability(asked)
    except NoManagerError:
        return None


async def _of_store(settings: Settings, asked: str) -> Sequence[Availability]:
    return summed(await store(settings).read_availability(settings, asked), asked)


def _row(found: Mapping[str, Any]) -> list[Any]:
    total = found["total"]
    spans = [_span(total[name]) for name in ("ready", "degraded", "down")]
    parts = [_percent(found[name]["available"]) for name in ("total", "outside_reset", "exchange_hours")]
    return [found["follower_id"], *spans, *parts]


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _percent(part: float | None) -> str | None:
    return None if part is None else f"{100 * part:.3f} %"
