"""`/v1/events`: what happens, while it happens, as JSON lines or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.http_api.description import EVENTS
from spreadpilot_core.ibkr.http_api.needs import CallerOf, needs
from spreadpilot_core.ibkr.http_api.served import Served
from spreadpilot_core.ibkr.model.events import Event

router = APIRouter(tags=["events"])
T = TypeVar("T")

SSE = "text/event-stream"
LINES = "application/x-ndjson"
ALIVE = b": alive\n\n"
"""What a stream of server-sent events says to live."""
SIGN_OF_LIFE = 15.0
"""Seconds after which a silent stream of server-sent events says that it lives: proxies close others."""
CHECK_EVERY = 5.0
"""Seconds after which it is asked again whether the reader may read: a revoked token ends its streams."""
_LAST_ID = 2**63 - 1

LastEventId = Annotated[int | None, Header(ge=0, le=_LAST_ID, description="Go on after this one.")]
After = Annotated[int | None, Query(ge=0, le=_LAST_ID, description="The same, for who can't send headers.")]


@router.get("/events", dependencies=[needs(Role.VIEWER)], response_class=StreamingResponse, responses=EVENTS)
async def follow_events(
    served: Served,
    caller: CallerOf,
    accept: Annotated[str | None, Header(description=f"With `{SSE}` as server-sent events.")] = None,
    last_event_id: LastEventId = None,
    after: After = None,
) -> StreamingResponse:
    """Everything that happens from now on, or after the event that is named."""
    events = served.manager.events(after=last_event_id if last_event_id is not None else after)
    as_sse = accept is not None and SSE in accept.lower()

    async def may_read() -> bool:
        return await served.gate.still_lets_in(caller)

    written = stream(events, may_read, _sse if as_sse else _line, ALIVE if as_sse else b"")
    return StreamingResponse(written, media_type=SSE if as_sse else LINES)


def _line(event: Event) -> bytes:
    return json.dumps(event.as_dict()).encode() + b"\n"


def _sse(event: Event) -> bytes:
    return f"id: {event.id}\nevent: {event.name}\ndata: {json.dumps(event.as_dict())}\n\n".encode()


async def stream(
    events: AsyncIterator[T],
    may_read: Callable[[], Awaitable[bool]],
    written: Callable[[T], bytes],
    alive: bytes,
) -> AsyncIterator[bytes]:
    """Each as it is written, until there are no more, or the reader may not read any more; silence is broken by `alive`."""
    following: asyncio.Future[T | None] | None = None
    checked = said = time.monotonic()
    yield alive  # so that the reader knows at once that it is connected
    try:
        while True:
            following = following or asyncio.ensure_future(_next(events))
            await asyncio.wait({following}, timeout=CHECK_EVERY)
            now = time.monotonic()
            if now - checked >= CHECK_EVERY:
                checked = now
                if not await _allowed(may_read):
                    return
            if following.done():
                event, following, said = following.result(), None, now
                if event is None:
                    return
                yield written(event)
            elif now - said >= SIGN_OF_LIFE:
                said = now
                yield alive
    finally:
        await _end(events, following)


async def _end(events: AsyncIterator[T], following: asyncio.Future[T | None] | None) -> None:
    """Wait for no event any more."""
    if following is not None:
        following.cancel()
        await asyncio.wait({following})
    if (close := getattr(events, "aclose", None)) is not None:
        await close()


async def _next(events: AsyncIterator[T]) -> T | None:
    return await anext(events, None)


async def _allowed(may_read: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await may_read()
    except GatewayManagerError:  # nobody can know who may read
        return False
