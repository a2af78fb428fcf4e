"""What the API server tells of all things of a kind without being asked again.

A watch ends by itself every few minutes and goes on where it was, by the version that its bookmarks keep fresh; one that broke says
None, for whoever lists then is told why, and again when it is back. A version that the API server has forgotten costs a list.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final, NamedTuple

import aiohttp

from spreadpilot_core.ibkr.errors import GatewayManagerError, RuntimeUnavailableError
from spreadpilot_core.ibkr.kubernetes.api import Api, Query, RefusedError
from spreadpilot_core.ibkr.tasks import Backoff
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two tries to reach an API server that is away."""
_WATCH_SECONDS: Final = 240
_SILENCE: Final = _WATCH_SECONDS + 30
"""Seconds without a word, not even a bookmark or the end, after which a connection is taken for dead."""
_LONGEST_THING: Final = 8 * 1024 * 1024
"""Bytes; the API server takes no thing that is half as big."""


class Change(NamedTuple):
    """Of one thing."""

    thing: Mapping[str, Any]
    """As it is now, or was at its end."""
    is_end: bool


class _ForgottenError(Exception):
    """The API server can't tell what happened since then."""


class Watch:
    """One subscription, to all of a kind in our namespace."""

    def __init__(self, api: Api, kind: str, *, group: str = "", selector: str = "") -> None:
        """`selector`: the labels of those that are meant."""
        self._api = api
        self._kind = kind
        self._group = group
        self._selected = {"labelSelector": selector} if selector else {}
        self._version = ""
        self.is_live = False
        """Whether every change from now on is told, or that some may have been missed."""
        self.refused: RefusedError | None = None
        """Why the API server allows no watch, while it does not."""

    async def follow(self) -> AsyncGenerator[Change | None, None]:
        """Each change; None: some may have been missed. Ends when the API is closed."""
        try:
            async with aclosing(self._follow()) as changes:
                async for change in changes:
                    yield change
        finally:
            self.is_live = False

    async def _follow(self) -> AsyncGenerator[Change | None, None]:
        api, backoff, away = self._api, Backoff(FIRST_PAUSE, LONGEST_PAUSE), False
        while api.is_open:
            broke = None
            try:
                async with aclosing(self._once(away=away)) as changes:
                    async for change in changes:
                        backoff.reset()
                        away = False
                        yield change
            except GatewayManagerError as fault:
                broke = fault
            if broke is None or not api.is_open:
                continue
            self.is_live, self.refused = False, broke if isinstance(broke, RefusedError) else None
            if not away:
                log.warning("watch broke", of=self._kind, why=str(broke))
                yield None  # whoever lists now is told why it broke
            away = True
            await asyncio.sleep(backoff.next())

    async def _once(self, *, away: bool) -> AsyncGenerator[Change | None, None]:
        """What one watch tells, None first where something may have been missed; begins anew where the API server has forgotten."""
        if not self._version:
            await self._begin()
            away = True
        try:
            async with aclosing(self._watch()) as changes:
                async for change in changes:
                    if away:
                        away = False
                        yield None
                    if change is not None:
                        yield change
        except _ForgottenError:
            self._version = ""

    async def _begin(self) -> None:
        """From now on; all that is there already is not told."""
        query: Query = {**self._selected, "limit": 1}
        found = await self._api.ask(f"list {self._kind}", self._place, query=query)
        self._version = str((found.get("metadata") or {}).get("resourceVersion", ""))

    async def _watch(self) -> AsyncGenerator[Change | None, None]:
        """What one watch tells; None for what says nothing of any of them."""
        query: Query = {
            "watch": "1",
            **self._selected,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _WATCH_SECONDS,
        }
        try:
            stream = self._api.stream(f"watch {self._kind}", self._place, query, longest_line=_LONGEST_THING)
            async with stream as lines:
                self.is_live, self.refused = True, None
                yield None
                while line := await _next_line(lines):
                    yield self._take(line)
        except RefusedError as refused:
            if refused.is_expired:
                raise _ForgottenError from refused
            raise

    @property
    def _place(self) -> str:
        return self._api.place(self._kind, group=self._group)

    def _take(self, line: bytes) -> Change | None:
        try:
            event = json.loads(line)
            kind, thing = event["type"], event["object"]
        except (ValueError, KeyError, TypeError) as fault:
            raise RuntimeUnavailableError("The Kubernetes API server's watch says what makes no sense.") from fault
        if kind == "ERROR":
            if thing.get("code") == 410:  # noqa: PLR2004  # HTTP
                raise _ForgottenError
            raise RuntimeUnavailableError(f"The Kubernetes API server ended its watch: {thing.get('message')}.")
        self._version = str(thing["metadata"]["resourceVersion"])
        return None if kind == "BOOKMARK" else Change(thing, is_end=kind == "DELETED")


async def _next_line(lines: aiohttp.StreamReader) -> bytes:
    """Empty at the end. Unlike `wait_for` it needs no task, and swallows no cancellation that comes together with a line."""
    async with asyncio.timeout(_SILENCE):
        return await lines.readline()
