"""The demo's page: an address of its own on this machine, and a token that signs in there as long as the demo runs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from spreadpilot_core.ibkr.access import sessions, tokens
from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import utc_now
from spreadpilot_core.ibkr.wiring import open_shared

_HOST = "127.0.0.1"
_VALID = timedelta(hours=12)
_POLL_EVERY = 0.25
SIGNED_IN_WITHIN = 600.0
"""Seconds for which what goes wrong waits for somebody to see it."""


def free_address() -> str:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return f"{_HOST}:{probe.getsockname()[1]}"


@asynccontextmanager
async def _shared(settings: Mapping[str, Any]) -> AsyncIterator[SharedDocuments]:
    shared = open_shared(Settings.read(**settings))
    try:
        await shared.open()
        yield shared
    finally:
        await shared.close()


async def sign_in_address(settings: Mapping[str, Any]) -> str:
    """Where a browser is signed in: the token stands behind the `#`, which is sent to nobody and logged nowhere."""
    async with _shared(settings) as shared:
        token = await tokens.add(
            shared, "demo", role=Role.OPERATOR, followers=None, expires_at=utc_now() + _VALID, now=utc_now()
        )
    return f"http://{settings['http_address']}/sign-in#token={token}"


async def until_somebody_signs_in(settings: Mapping[str, Any]) -> bool:
    """Wait for it; whether it was so in time."""
    async with _shared(settings) as shared:
        try:
            async with asyncio.timeout(SIGNED_IN_WITHIN):
                while not await shared.all(sessions.KIND):  # noqa: ASYNC110  # another task makes it
                    await asyncio.sleep(_POLL_EVERY)
        except TimeoutError:
            return False
    return True
