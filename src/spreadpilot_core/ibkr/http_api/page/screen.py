"""A gateway's screen in a browser: a WebSocket on one side, the container's VNC port on the other.

View-only unless the operator asked for more: what else a browser sends is dropped here, whatever its script does. Each opening
is in the audit trail before anything is shown.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from spreadpilot_core.ibkr.access.callers import Caller, Role
from spreadpilot_core.ibkr.errors import GatewayManagerError, ScreenError
from spreadpilot_core.ibkr.http_api.needs import CallerOf, needs
from spreadpilot_core.ibkr.http_api.page.rfb import LONGEST_MESSAGE, BrowserMessages, let_in
from spreadpilot_core.ibkr.http_api.served import Served, ServedApp
from spreadpilot_core.ibkr.screens.rfb import ANSWERED_WITHIN, RfbError, signed_in, writing
from spreadpilot_core.ibkr.tasks import Tasks

router = APIRouter()

CHECK_EVERY = 5.0
"""Seconds after which it is asked again whether the operator may look: a revoked token ends it."""

Control = Annotated[bool, Query(description="With keyboard and mouse.")]


class Browser:
    """The WebSocket as a stream of bytes."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._pending = b""

    async def read(self) -> bytes:
        """What has come; raises `WebSocketDisconnect`."""
        pending, self._pending = self._pending, b""
        return pending or await self._socket.receive_bytes()

    async def read_exactly(self, count: int) -> bytes:
        """So many bytes."""
        while len(self._pending) < count:
            self._pending += await self._socket.receive_bytes()
        found, self._pending = self._pending[:count], self._pending[count:]
        return found

    async def write(self, data: bytes) -> None:
        """Send it."""
        await self._socket.send_bytes(data)


@router.websocket("/gateway/screen", dependencies=[needs(Role.OPERATOR, audited=False)])
async def show_screen(
    socket: WebSocket,
    served: Served,
    caller: CallerOf,
    follower: Annotated[str, Query(max_length=200)],
    control: Control = False,
) -> None:
    """Until either side ends it."""
    address = await served.manager.details.screen(follower)
    detail = "with keyboard and mouse" if control else "view only"
    await served.auditor.write("screen-open", {"follower": follower, "detail": detail})
    async with AsyncExitStack() as held:
        try:
            reader, writer = await held.enter_async_context(signed_in(address))
        except RfbError as error:
            raise ScreenError(follower, str(error)) from error
        await socket.accept()
        browser = Browser(socket)
        tasks = Tasks("screen")
        sides = [
            tasks.begin("show", _show(reader, browser), then=_ended),
            tasks.begin("obey", _obey(browser, writer, controls=control), then=_ended),
        ]
        try:
            while not any(each.done() for each in sides):
                await asyncio.wait(sides, timeout=CHECK_EVERY, return_when=asyncio.FIRST_COMPLETED)
                if not await _may(served, caller):
                    break
        finally:
            await tasks.cancel()
            if socket.client_state is WebSocketState.CONNECTED and socket.application_state is WebSocketState.CONNECTED:
                with suppress(RuntimeError, WebSocketDisconnect):
                    await socket.close()


async def _may(served: ServedApp, caller: Caller) -> bool:
    try:
        return await served.gate.still_lets_in(caller)
    except GatewayManagerError:  # nobody can know
        return False


async def _show(reader: asyncio.StreamReader, browser: Browser) -> None:
    """What the server draws; it begins only after the browser's first message, so nothing comes before that was let in."""
    while data := await reader.read(LONGEST_MESSAGE):
        await browser.write(data)


async def _obey(browser: Browser, writer: asyncio.StreamWriter, *, controls: bool) -> None:
    """What the browser may send."""
    async with asyncio.timeout(ANSWERED_WITHIN):
        await let_in(browser.read_exactly, browser.write)
    messages, write = BrowserMessages(controls=controls), writing(writer)
    while True:
        if passed := messages.take(await browser.read()):
            await write(passed)


def _ended(task: asyncio.Task[None]) -> None:
    """That a side ends is how it ends."""
    if not task.cancelled():
        task.exception()
