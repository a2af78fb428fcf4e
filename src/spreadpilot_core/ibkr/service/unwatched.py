"""Gateways that run on although no manager does: after a detach that no next manager followed, or a crash."""

from __future__ import annotations

import asyncio

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.runtimes.identity import living
from spreadpilot_core.ibkr.runtimes.registry import reader
from spreadpilot_core.ibkr.service.client import NoManagerError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.wiring import known_identities

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
        async with asyncio.timeout(_WITHIN):
            identities = await known_identities(settings)
            async with reader(settings, identities) as runtime_reader:
                alive = sorted(each.follower_id for each in await runtime_reader.list() if each.phase.is_alive)
                others = [] if identities else [each for each in runtime_reader.foreign if not each.is_ended]
    except GatewayManagerError as error:
        return _unknown(nobody, error.what, error.hint)
    except TimeoutError:
        return _unknown(nobody, f"{settings.runtime_url} gave no answer within {_WITHIN:g} s.", None)
    if others:
        names = f"{counted(len(others), 'container')} there {'looks like a gateway' if len(others) == 1 else 'look like gateways'}"
        why = f"no identity of this manager is known, and {names}: {', '.join(sorted(each.name for each in others))}."
        return _unknown(nobody, why, others[0].cure)
    if not alive:
        return None
    if identities is not None and (watching := await asyncio.to_thread(living, identities.all)):
        what = f"{nobody.what} The gateways of its identity are watched by {watching[0]}, which has another state directory."
        return UnwatchedError(what, hint="Ask that one, by its GATEWAY_MANAGER_STATE_DIR.")
    runs = "runs" if len(alive) == 1 else "run"
    return UnwatchedError(
        f"{nobody.what} {counted(len(alive), 'gateway')} {runs} unwatched: {', '.join(alive)}.", hint=_TAKE_OVER
    )


def _unknown(nobody: NoManagerError, why: str, cure: str | None) -> UnwatchedError:
    what = f"{nobody.what} Whether gateways run unwatched can't be seen: {why}"
    return UnwatchedError(what, hint=" ".join(filter(None, (cure, nobody.hint))))
