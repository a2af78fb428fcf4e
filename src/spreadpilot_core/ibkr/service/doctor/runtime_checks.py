"""The checks of one runtime: the module of this package that is named after it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from typing import Protocol, cast

from spreadpilot_core.ibkr.service.doctor.findings import Check
from spreadpilot_core.ibkr.settings import Settings


class RuntimeChecks(Protocol):
    """What such a module offers."""

    CHECKS: Sequence[Check]

    async def other_clock(self, settings: Settings) -> tuple[str, datetime] | None:
        """What time it is for the engine, and its name; None where it has no clock of its own."""


def runtime_checks(settings: Settings) -> RuntimeChecks:
    """Those of the runtime that the settings name."""
    return cast("RuntimeChecks", import_module(f"{__package__}.{settings.runtime_scheme}_checks"))
