"""Runs the checks at once, each within its own time; one that fails or hangs is a line, and never stops the others."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from spreadpilot_core.ibkr.errors import GatewayManagerError, SettingsError
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.doctor import identity_checks, machine_checks, port_checks, store_checks
from spreadpilot_core.ibkr.service.doctor.findings import Check, Finding, Verdict, problem, raised
from spreadpilot_core.ibkr.service.doctor.runtime_checks import runtime_checks
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.local_time import in_local_time
from spreadpilot_core.ibkr.telemetry import set_up_logs

_COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "bold red"}

Line = tuple[str, Finding]


def doctor(*, as_json: bool) -> int:
    """Print all findings; how many are problems."""
    set_up_logs(level="error")
    try:
        settings = Settings.read()
    except SettingsError as error:
        lines: Sequence[Line] = [("settings", raised(error))]
    else:
        lines = asyncio.run(_examined(settings, checks_for(settings)))
    _show(lines, as_json=as_json)
    return sum(finding.verdict is Verdict.PROBLEM for _, finding in lines)


def checks_for(settings: Settings) -> Sequence[Check]:
    """All that concern these settings, in the order of their lines."""
    return [
        Check("state_dir", machine_checks.state_dir),
        *runtime_checks(settings).CHECKS,
        Check("identity", identity_checks.identity),
        Check("ports", port_checks.ports),
        Check("followers", store_checks.followers),
        *_follower_checks(settings),
        Check("records", store_checks.records),
        *_credential_checks(),
        *_notification_checks(),
        *_http_checks(settings),
        *_metrics_checks(settings),
        Check("clock", machine_checks.clock),
        Check("descriptors", machine_checks.descriptors),
        Check("manager", machine_checks.manager),
    ]


def _follower_checks(settings: Settings) -> Sequence[Check]:
    if settings.followers_url is None:
        return []
    from spreadpilot_core.ibkr.service.doctor import kubernetes_checks

    return [Check("ibgateways", kubernetes_checks.follower_rights)]


def _credential_checks() -> Sequence[Check]:
    from spreadpilot_core.ibkr.service.doctor import credential_checks

    return [
        Check("credentials", credential_checks.stored),
        Check("secrets", credential_checks.references, within=60.0),
    ]


def _notification_checks() -> Sequence[Check]:
    from spreadpilot_core.ibkr.service.doctor import notification_checks

    return [Check("notifications", notification_checks.notifications)]


def _http_checks(settings: Settings) -> Sequence[Check]:
    if settings.http_address is None:
        return []
    from spreadpilot_core.ibkr.service.doctor import http_checks

    return [Check("http_address", http_checks.certificate)]


def _metrics_checks(settings: Settings) -> Sequence[Check]:
    if settings.metrics_address is None:
        return []
    from spreadpilot_core.ibkr.service.doctor import metrics_checks

    return [Check("metrics_address", metrics_checks.metrics)]


async def _examined(settings: Settings, checks: Sequence[Check]) -> list[Line]:
    found = await asyncio.gather(*(examine(check, settings) for check in checks))
    return [(check.name, finding) for check, findings in zip(checks, found, strict=True) for finding in findings]


async def examine(check: Check, settings: Settings) -> Sequence[Finding]:
    """What the check finds, whatever happens to it."""
    try:
        async with asyncio.timeout(check.within):
            return await check.observe(settings)
    except GatewayManagerError as error:
        return [raised(error)]
    except TimeoutError:
        return [problem(f"This check got no answer within {check.within:g} s.")]
    except Exception as error:  # noqa: BLE001  # one failing check never stops the others
        return [problem(f"This check itself failed: {_place(error)}.", "Please report it.")]


def _place(error: Exception) -> str:
    """Type and place, without its text, which may hold anything."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}"


def _show(lines: Sequence[Line], *, as_json: bool) -> None:
    if as_json:
        tables.print_json(
            {"check": name, "verdict": finding.verdict.value, "what": finding.what, "cure": finding.cure}
            for name, finding in lines
        )
        return
    rows = [
        (
            Text(finding.verdict.value, style=_COLOURS[finding.verdict]),
            name,
            in_local_time(" ".join(filter(None, (finding.what, finding.cure)))),
        )
        for name, finding in lines
    ]
    tables.console().print(tables.bare(rows))
