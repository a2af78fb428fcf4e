"""Two ends of a connection within one process: what one writes, the other is given at the loop's next turn. No socket."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any


class MemoryTransport(asyncio.Transport):
    """One end."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._peer: MemoryTransport | None = None
        self._is_closing = False
        self._has_ended = False
        self._is_paused = False
        self._unread: deque[bytes | None] = deque()
        """What came while nobody read; None is the end."""

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self._is_closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """To the other end."""
        if not self._is_closing and data:
            self._send(bytes(data))

    def can_write_eof(self) -> bool:
        """Yes."""
        return True

    def write_eof(self) -> None:
        """Nothing more is written; the other end reads the end of the stream after all that was."""
        if not self._has_ended:
            self._has_ended = True
            self._send(None)

    def close(self) -> None:
        """The other end reads the end of the stream after all that was written."""
        if not self._is_closing:
            self.write_eof()
            self._is_closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """The same: nothing waits in between."""
        self.close()

    def get_write_buffer_size(self) -> int:
        """Nothing waits in between."""
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002  # there is none
        """Nothing."""
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """From now on this one is told."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told."""
        return self._protocol

    def is_reading(self) -> bool:
        """Whether what comes is handed on."""
        return not self._is_paused

    def pause_reading(self) -> None:
        """Keep what comes."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Hand on what was kept, and what comes."""
        self._is_paused = False
        self._hand_on()

    def _send(self, data: bytes | None) -> None:
        if self._peer is not None:
            self._loop.call_soon(self._peer._receive, data)  # noqa: SLF001  # the other end of this one

    def _receive(self, data: bytes | None) -> None:
        self._unread.append(data)
        self._hand_on()

    def _hand_on(self) -> None:
        while self._unread and not self._is_paused and not self._is_closing:
            data = self._unread.popleft()
            if not isinstance(self._protocol, asyncio.Protocol):
                continue
            if data is not None:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()


def connect_ends(one: asyncio.BaseProtocol, other: asyncio.BaseProtocol) -> tuple[MemoryTransport, MemoryTransport]:
    """A connection between these two."""
    ends = MemoryTransport(one), MemoryTransport(other)
    ends[0]._peer, ends[1]._peer = ends[1], ends[0]  # noqa: SLF001  # made together
    for end, protocol in zip(ends, (one, other), strict=True):
        protocol.connection_made(end)
    return ends
