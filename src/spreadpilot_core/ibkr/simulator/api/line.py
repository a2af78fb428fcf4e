"""The sending half of a client's connection.

Messages are gathered and leave together at the end of the present turn of the event loop. While the gateway is frozen they
wait here. It knows how an error looks at each version, and no other message.
"""

from __future__ import annotations

import asyncio

from spreadpilot_core.ibkr.simulator.api import wire
from spreadpilot_core.ibkr.simulator.behaviour import Behaviour

_MOST_UNREAD = 16 * 1024 * 1024
"""Bytes that a client may leave unread before its connection is cut."""
_WITH_REJECT_JSON = 166
"""From this version on an error has a field for an order's advanced reject."""


class Line:
    """What can be sent to one client."""

    def __init__(self, writer: asyncio.StreamWriter, behaviour: Behaviour) -> None:
        self._writer = writer
        self._behaviour = behaviour
        self._gathered = bytearray()
        self._is_leaving = False
        self._thaw: asyncio.Task[None] | None = None
        self.version = 0
        self.client_id = -1

    @property
    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._writer.is_closing()

    def greet(self, version: int) -> None:
        """Answer the hello."""
        self.version = version
        self._writer.write(wire.greeting(version))

    def send(self, *fields: wire.Field) -> None:
        """Send one message."""
        if self._writer.is_closing():
            return
        self._gathered += wire.message(*fields)
        if not self._is_leaving:
            self._is_leaving = True
            asyncio.get_running_loop().call_soon(self._leave)

    def error(self, request_id: int, code: int, text: str) -> None:
        """Send an error, a warning or a notice."""
        json = [""] if self.version >= _WITH_REJECT_JSON else []
        self.send(4, 2, request_id, code, text.encode("ascii", "replace").decode(), *json)

    def close(self) -> None:
        """Close the connection; what was sent before still goes out, unless the client doesn't read."""
        if not self._behaviour.frozen:
            self._flush()
        self._writer.close()
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()

    def _leave(self) -> None:
        if self._behaviour.frozen:
            self._thaw = asyncio.get_running_loop().create_task(
                self._leave_later(), name="simulator: send after a freeze"
            )
        else:
            self._flush()

    async def _leave_later(self) -> None:
        await self._behaviour.while_frozen()
        self._flush()

    def _flush(self) -> None:
        self._is_leaving = False
        if not self._writer.is_closing():
            self._writer.write(bytes(self._gathered))
        self._gathered.clear()
        if self._writer.transport.get_write_buffer_size() > _MOST_UNREAD:
            self._writer.transport.abort()
