"""Couriers over a state directory of the test's own, and a look at the processes they start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.credentials.broker import CourierBroker, first_line
from spreadpilot_core.ibkr.settings import Settings


@asynccontextmanager
async def couriers_in(
    state_dir: Path, *, settings: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[CourierBroker]:
    """Couriers with that state directory, closed at the end."""
    read = Settings.read(state_dir=state_dir, **{"vault_enabled": False, **(settings or {})})
    couriers = CourierBroker(first_line(read), **options)
    try:
        yield couriers
    finally:
        await couriers.close()


def pids(couriers: CourierBroker) -> list[int]:
    """The processes of these couriers."""
    return [courier._process.pid for courier in couriers._live.values()]


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie doesn't)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
