"""`settings show`: each setting as a command or manager with this environment has it, and where its value comes from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.settings_sources import ignored, masked, origin_of


def show(*, as_json: bool) -> None:
    """Print them all; what looks like a setting and is not obeyed follows on standard error."""
    rows = list(_rows(Settings.read()))
    if as_json:
        tables.print_json(rows)
    else:
        shown = [[row["setting"], _text(row["value"]), row["from"]] for row in rows]
        tables.console().print(tables.table(["SETTING", "VALUE", "FROM"], shown, below={"FROM": "from", "VALUE": "is"}))
    for sentence in ignored(Settings):
        print(sentence, file=sys.stderr)


def _rows(settings: Settings) -> list[dict[str, Any]]:
    rows = []
    for name in Settings.model_fields:
        origin = origin_of(Settings, name, {})
        value = masked(name, getattr(settings, name))
        shown = str(value) if isinstance(value, Path) else value
        rows.append({"setting": name, "value": shown, "from": origin.where if origin else None})
    return rows


def _text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
