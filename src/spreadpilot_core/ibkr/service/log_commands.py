"""`logs FOLLOWER`: what its gateway prints, straight from where it runs; else the last words of the one before.

It asks the runtime and not the manager, so it works as well while no manager runs. Nothing is changed, and a line is
shown as it is but for characters that would do something to the terminal, and values that are named a password.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing, suppress

from spreadpilot_core.ibkr.errors import (
    GatewayManagerError,
    RuntimeUnavailableError,
    StoreUnavailableError,
    UnknownFollowerError,
)
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.runtimes.reader import RuntimeReader
from spreadpilot_core.ibkr.runtimes.registry import reader
from spreadpilot_core.ibkr.service.reading import known_followers
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import store
from spreadpilot_core.ibkr.system.printable import printable
from spreadpilot_core.ibkr.telemetry import set_up_logs, without_named_passwords


class NoLinesError(GatewayManagerError):
    """There is nothing to show."""

    def __init__(self, follower_id: str) -> None:
        super().__init__(f"{follower_id!r} has no gateway, and none before it has left any lines.")


class UnknownGatewayError(GatewayManagerError):
    """The last words of one before were shown, and whether they are the newest can't be known."""

    def __init__(self, follower_id: str, away: RuntimeUnavailableError) -> None:
        super().__init__(
            f"These are the last words of a gateway of {follower_id!r} that is gone; whether it has another one now can't be"
            f" seen: {away.what}",
            hint=away.hint,
        )


def logs(follower_id: str, *, last: int, follow: bool) -> None:
    """Print them. Raises `NoLinesError`, or why they, or those of the present gateway, could not be looked at."""
    set_up_logs(level="error")
    with suppress(KeyboardInterrupt):
        asyncio.run(_logs(Settings.read(), follower_id, last=last, follow=follow))


async def _logs(settings: Settings, follower_id: str, *, last: int, follow: bool) -> None:
    async with AsyncExitStack() as held:
        try:
            runtime_reader = await held.enter_async_context(reader(settings))
            known = [each for each in await runtime_reader.list() if each.follower_id == follower_id]
        except RuntimeUnavailableError as error:
            await _print_last_words(settings, follower_id, last=last, away=error)
            raise UnknownGatewayError(follower_id, error) from None
        gateway = _newest(known)
        if gateway is not None:
            printed = await _print_all(runtime_reader, gateway, last=last, follow=follow)
            if printed or gateway.phase.is_alive:  # what the one before printed is not what this one does
                return
    await _print_last_words(settings, follower_id, last=last)


async def _print_last_words(
    settings: Settings, follower_id: str, *, last: int, away: RuntimeUnavailableError | None = None
) -> None:
    """Of the gateway before. Raises that there are none, or why they can't be known."""
    words = await _last_words(settings, follower_id)
    if not words:
        with suppress(StoreUnavailableError):
            known = await known_followers(settings)
            if follower_id not in known:
                raise UnknownFollowerError(follower_id, known)
        raise away or NoLinesError(follower_id)
    for line in words[-last:]:
        _print(line)


async def _print_all(runtime_reader: RuntimeReader, gateway: Gateway, *, last: int, follow: bool) -> bool:
    printed = False
    async with aclosing(runtime_reader.lines(gateway, last=last, follow=follow)) as lines:
        async for line in lines:
            _print(line)
            printed = True
    return printed


def _newest(gateways: Sequence[Gateway]) -> Gateway | None:
    """The one that lives, where a dead one was not removed yet."""
    return max(gateways, key=lambda each: (each.phase.is_alive, str(each.started_at or "")), default=None)


async def _last_words(settings: Settings, follower_id: str) -> list[str]:
    records = (await store(settings).read_records(settings)).usable
    record = next((each for each in records.values() if each.follower_id == follower_id), None)
    return record.last_words.splitlines() if record is not None and record.last_words else []


def _print(line: str) -> None:
    print(shown(line), flush=True)


def shown(line: str) -> str:
    """The line as a terminal may have it."""
    return without_named_passwords(printable(line, keep="\t"))
