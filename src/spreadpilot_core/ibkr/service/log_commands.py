"""`logs FOLLOWER`: what its gateway prints, straight from where it runs; else the last words of the one before.

It asks the runtime and not the manager, so it works as well while no manager runs. Nothing is changed, and a line is
shown as it is but for characters that would do something to the terminal, and values that are named a password.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import aclosing, suppress

from spreadpilot_core.ibkr.errors import GatewayManagerError, RuntimeUnavailableError
from spreadpilot_core.ibkr.protocols import Gateway, RuntimeState
from spreadpilot_core.ibkr.runtimes.looking import Onlooker, onlooker
from spreadpilot_core.ibkr.service.reading import read_records
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.telemetry import MASK, set_up_logs

_ALIVE = (RuntimeState.RUNNING, RuntimeState.PAUSED)
_NAMED_PASSWORD = re.compile(r"(?i)(\w*(?:password|passwd|passphrase)\w*\s*[=:]\s*)\S.*")


class NoLinesError(GatewayManagerError):
    """There is nothing to show."""

    def __init__(self, follower_id: str) -> None:
        super().__init__(f"{follower_id!r} has no gateway, and none before it has left any lines.")


def logs(follower_id: str, *, last: int, follow: bool) -> None:
    """Print them. Raises `NoLinesError`, or why neither could be looked at."""
    set_up_logs(level="error")
    with suppress(KeyboardInterrupt):
        asyncio.run(_logs(Settings.read(), follower_id, last=last, follow=follow))


async def _logs(settings: Settings, follower_id: str, *, last: int, follow: bool) -> None:
    away: RuntimeUnavailableError | None = None
    try:
        if await _print_living(settings, follower_id, last=last, follow=follow):
            return
    except RuntimeUnavailableError as error:
        away = error
    words = await _last_words(settings, follower_id)
    if not words:
        raise away or NoLinesError(follower_id)
    for line in words[-last:]:
        _print(line)


async def _print_living(settings: Settings, follower_id: str, *, last: int, follow: bool) -> bool:
    """Whether anything was there to print."""
    async with onlooker(settings) as looking:
        gateway = _newest([each for each in await looking.find() if each.follower_id == follower_id])
        return gateway is not None and await _print_all(looking, gateway, last=last, follow=follow)


async def _print_all(looking: Onlooker, gateway: Gateway, *, last: int, follow: bool) -> bool:
    printed = False
    async with aclosing(looking.lines(gateway, last=last, follow=follow)) as lines:
        async for line in lines:
            _print(line)
            printed = True
    return printed


def _newest(gateways: Sequence[Gateway]) -> Gateway | None:
    """The one that lives, where a dead one was not removed yet."""
    return max(gateways, key=lambda each: (each.state in _ALIVE, str(each.started_at or "")), default=None)


async def _last_words(settings: Settings, follower_id: str) -> list[str]:
    records = await read_records(settings) or {}
    record = next((each for each in records.values() if each.follower_id == follower_id), None)
    return record.last_words.splitlines() if record is not None and record.last_words else []


def _print(line: str) -> None:
    print(shown(line), flush=True)


def shown(line: str) -> str:
    """The line as a terminal may have it."""
    plain = "".join(each if each.isprintable() or each == "\t" else "\N{REPLACEMENT CHARACTER}" for each in line)
    return _NAMED_PASSWORD.sub(rf"\g<1>{MASK}", plain)
