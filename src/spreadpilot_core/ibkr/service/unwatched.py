"""Gateways that run on although no manager does: after a detach that no next manager followed, or a crash."""

from __future__ import annotations

import asyncio

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.runtimes.registry import reader
from spreadpilot_core.ibkr.service.client import NoManagerError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.wording import counted

_WITHIN = 5.0
"""Seconds that the runtime has to say what runs; whoever asks wants to know first that there is no manager."""
_TAKE_OVER = "`gateway-manager run` takes over (a service: `systemctl start gateway-manager`); `gateway-manager stop --offline --all` ends what runs."


class UnwatchedError(GatewayManagerError):
    """No manager answers, and gateways run all the same, or may."""


async def unwatched(settings: Settings, nobody: NoManagerError) -> UnwatchedError | None:
    """What there is to say of them; None where none runs, or a manager owns the directory."""
    if nobody.is_held:
        return None
    try:
        async with asyncio.timeout(_WITHIN), reader(settings) as runtime_reader:
            alive = sorted(each.follower_id for each in await runtime_reader.list() if each.phase.is_alive)
    except GatewayManagerError as error:
        return _unknown(nobody, error.what, error.hint)
    except TimeoutError:
        return _unknown(nobody, f"{settings.runtime_url} gave no answer within {_WITHIN:g} s.", None)
    if not alive:
        return None
    runs = "runs" if len(alive) == 1 else "run"
    return UnwatchedError(
        f"{nobody.what} {counted(len(alive), 'gateway')} {runs} unwatched: {', '.join(alive)}.", hint=_TAKE_OVER
    )


def _unknown(nobody: NoManagerError, why: str, cure: str | None) -> UnwatchedError:
    what = f"{nobody.what} Whether gateways run unwatched can't be seen: {why}"
    return UnwatchedError(what, hint=" ".join(filter(None, (cure, nobody.hint))))
