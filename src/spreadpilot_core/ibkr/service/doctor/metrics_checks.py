"""`metrics_address`: whether what serves it is installed; a manager that lacks it does not start."""

from __future__ import annotations

from collections.abc import Sequence

from spreadpilot_core.ibkr.instrumentation.setup import measuring
from spreadpilot_core.ibkr.service.doctor.findings import Finding, ok
from spreadpilot_core.ibkr.settings import Settings


async def metrics(settings: Settings) -> Sequence[Finding]:
    """Raises `SettingsError` for a package that is missing."""
    measuring(settings.metrics_address).close()
    return [ok("What metrics_address needs is installed.")]
