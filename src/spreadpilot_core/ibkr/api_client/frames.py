"""Between a client library and its socket: whole frames of a bounded size, a few at a time, and nothing else.

Both client libraries collect whatever a server sends: a frame that is announced with 4 GB grows without end, thousands of
tiny frames in one read cost seconds of the event loop, and each frame that can't be decoded costs a traceback. A guard
takes the socket's data in the library's place, cuts it into frames and hands those on. It sits on one client object, at
the event by which its connection hands on data; no class of a library is touched.

What no gateway sends closes the connection, with a sentence. IBKR's longest messages (scanner parameters, fundamental
reports) are a few MiB.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Any

LONGEST_FRAME = 16 * 1024 * 1024
"""Bytes."""
MOST_FIELDS = 1_000_000
"""In one frame: a field costs the libraries many times its bytes."""
MOST_UNDECODABLE = 100
"""Messages in a row of which the library could decode none. One now and then is a newer gateway's."""
FRAMES_AT_ONCE = 200
BYTES_AT_ONCE = 64 * 1024
"""How much is handed on before the event loop has another turn; a single frame may be longer."""
TRACEBACKS = 3
"""Of undecodable messages that the library may log for one connection, before its log is turned down."""
_PREFIX = struct.Struct(">I")
_LONGEST_NUMBER = 10
"""Digits of a message's number, and of the version that begins a handshake."""
_SHOWN = 24


class FrameGuard:
    """Guards one client object, for as long as that lives and over its connections."""

    def __init__(self, client: Any) -> None:
        """Take the place of the client's own reader.

        Args:
            client: `IB.client` of ib_async or ib_insync, not connected yet.
        """
        self._client = client
        self._receive: Callable[[bytes], None] = client._onSocketHasData  # noqa: SLF001  # the libraries' only seam
        self._log = _CountedLog(client.decoder.logger)
        client.decoder.logger = self._log
        self._transport: asyncio.Transport | None = None
        """Of the connection that the rest here is about."""
        self._held = bytearray()
        self._undecodable = 0
        self._is_paused = False
        self.fault: str | None = None
        """Why the connection was closed, as the end of a sentence that begins with its peer."""
        self.heard: set[Callable[[], None]] = set()
        """Called whenever the library has decoded a message."""
        client.conn.hasData.disconnect(client._onSocketHasData)  # noqa: SLF001  # as above
        client.conn.hasData.connect(self._on_data)

    def _on_data(self, data: bytes) -> None:
        transport = self._client.conn.transport
        if transport is None:
            return  # it speaks before it was greeted, as no gateway does
        if transport is not self._transport:
            self._held.clear()
            self._transport, self.fault, self._undecodable, self._is_paused = transport, None, 0, False
        if self.fault is None:
            self._held += data
            self._hand_on()

    def _hand_on(self) -> None:
        """Hand on what is whole, up to a turn's worth; the rest follows in the loop's next turn."""
        size, frames = self._measure()
        if frames:
            batch = bytes(self._held[:size])
            del self._held[:size]
            self._feed(batch, frames)
        if self.fault is not None:
            self._refuse(self.fault)
        elif frames and self._next_is_whole():
            self._pause()

    def _measure(self) -> tuple[int, int]:
        """How many bytes and frames may be handed on now; a fault ends it."""
        size = frames = 0
        while frames < FRAMES_AT_ONCE and (size < BYTES_AT_ONCE or not frames):
            end = self._frame_end(size)
            if end is None:
                break
            self.fault = self._fault_of(size + _PREFIX.size, end)
            if self.fault is not None:
                break
            size, frames = end, frames + 1
        return size, frames

    def _frame_end(self, start: int) -> int | None:
        """Where the frame ends that begins at `start`; None when it is not whole yet, or too long."""
        if len(self._held) - start < _PREFIX.size:
            return None
        (length,) = _PREFIX.unpack_from(self._held, start)
        if length > LONGEST_FRAME:
            self.fault = f"announced a message of {length:,} bytes; {LONGEST_FRAME:,} is the most that is taken"
            return None
        end: int = start + _PREFIX.size + length
        return end if end <= len(self._held) else None

    def _fault_of(self, start: int, end: int) -> str | None:
        """What is wrong with the frame: each begins with its number."""
        head = bytes(self._held[start : min(end, start + _LONGEST_NUMBER + 1)])
        digits, found, _ = head.partition(b"\0")
        if not found or not digits.isdigit():
            shown = bytes(self._held[start : min(end, start + _SHOWN)])
            return f"sent what no gateway sends: {shown!r}"
        if self._held.count(b"\0", start, end) > MOST_FIELDS:
            return f"sent a message of more than {MOST_FIELDS:,} fields"
        return None

    def _feed(self, batch: bytes, frames: int) -> None:
        """Have the library decode it. What it can't decode it logs, and raises only over a broken opening."""
        before = self._log.failures
        try:
            self._receive(batch)
        except Exception as error:  # noqa: BLE001  # a peer's bytes, in somebody else's decoder
            self.fault = f"sent an opening that can't be understood: {error!r}"
            return
        failed = self._log.failures - before
        if failed < frames:
            self._undecodable = 0
            for heard in tuple(self.heard):
                heard()
            return
        self._undecodable += failed
        if self._undecodable >= MOST_UNDECODABLE:
            self.fault = f"sent {self._undecodable} messages in a row that can't be decoded"

    def _next_is_whole(self) -> bool:
        return self._frame_end(0) is not None or self.fault is not None

    def _pause(self) -> None:
        transport = self._client.conn.transport
        if transport is not None and not self._is_paused:
            self._is_paused = True
            transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on, transport)

    def _go_on(self, transport: asyncio.Transport) -> None:
        if transport is self._client.conn.transport:
            self._is_paused = False
            transport.resume_reading()
            self._hand_on()

    def _refuse(self, fault: str) -> None:
        """Close at once: a peer like this is waited for no longer."""
        self.fault = fault
        self._held.clear()
        if self._client.conn.transport is not None:
            self._client.conn.transport.abort()


class _CountedLog(logging.LoggerAdapter[logging.Logger]):
    """The decoder's log, which tells of each message that it can't decode: counted, and told a few times only."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger)
        self.failures = 0

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        self.failures += 1
        if self.failures <= TRACEBACKS:
            super().exception(str(msg)[:1000], *args, exc_info=exc_info, **kwargs)
