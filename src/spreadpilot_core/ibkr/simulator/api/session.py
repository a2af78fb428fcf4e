"""One API client on one connection: handshake, START_API, then requests until either side goes away.

`ApiServer` starts one per accepted connection. It knows the order of an opening and its faults; what a request means is
left to the dispatcher.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from spreadpilot_core.ibkr.simulator.api import wire

if TYPE_CHECKING:
    from spreadpilot_core.ibkr.simulator.api_server import ApiServer

_READ_SIZE = 1 << 16
_DUPLICATE_LINGERS = 0.7
"""Seconds between error 326 and the close, as a live gateway takes."""


class Session:
    """One client's connection."""

    def __init__(self, server: ApiServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self.version = 0
        self.client_id: int | None = None
        self.started = False

    async def run(self) -> None:
        """Serve the connection until it is closed."""
        with contextlib.suppress(ConnectionError, wire.WireError):
            frames = await self._shake_hands()
            while data := await self._read():
                for payload in frames.feed(data):
                    await self._handle(payload)

    def send(self, *fields: wire.Field) -> None:
        """Send one message."""
        self._writer.write(wire.message(*fields))

    def error(self, request_id: int, code: int, text: str) -> None:
        """Send an error, a warning or a notice in the form that this client's version has."""
        fields: list[wire.Field] = [4, 2, request_id, code, text]
        if self.version >= 166:  # noqa: PLR2004  # advancedOrderRejectJson exists from there on
            fields.append("")
        self.send(*fields)

    def close(self) -> None:
        """Close the connection; what was sent before still arrives."""
        self._writer.close()

    async def _read(self) -> bytes:
        await self._server.behaviour.while_frozen()
        data = await self._reader.read(_READ_SIZE)
        await self._server.behaviour.while_frozen()
        return data

    async def _shake_hands(self) -> wire.Frames:
        handshake = wire.Handshake()
        while data := await self._read():
            if hello := handshake.feed(data):
                if self._server.behaviour.mute_handshake:
                    await self._say_nothing()
                self.version = wire.negotiate(hello, self._server.server_version)
                self._writer.write(wire.greeting(self.version))
                return handshake.frames
        raise wire.WireError("the client left before its hello")

    async def _say_nothing(self) -> None:
        while await self._read():
            pass
        raise wire.WireError("the client gave up")

    async def _handle(self, payload: bytes) -> None:
        fields = payload.decode("utf-8", "backslashreplace").split("\0")
        if not self.started:
            await self._start(fields)
        elif fields[0] == "49":
            self.send(49, 1, self._server.now())

    async def _start(self, fields: list[str]) -> None:
        if fields[0] != "71":
            raise wire.WireError("the first request is not START_API")
        behaviour = self._server.behaviour
        self.client_id = int(fields[2])
        if behaviour.mute_start:
            await self._say_nothing()
        if behaviour.disclaimer_pending:
            self.error(-1, 10141, "Paper trading disclaimer must first be accepted for API connection.")
            raise wire.WireError("the disclaimer is pending")
        if behaviour.close_early:
            raise wire.WireError("closed early")
        if not self._server.admit(self):
            self.error(-1, 326, "Unable to connect as the client id is already in use. Retry with a unique client id.")
            await asyncio.sleep(_DUPLICATE_LINGERS)
            raise wire.WireError("the client id is in use")
        self.started = True
        self.send(15, 1, ",".join(self._server.accounts))
        self.send(9, 1, 1)
