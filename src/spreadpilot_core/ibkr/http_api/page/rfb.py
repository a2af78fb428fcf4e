"""RFB (RFC 6143) as a browser hears it: it is let in without a password, and what it may send of its messages is passed on to the
gateway's VNC server, where `screens.rfb` has signed in. The password never reaches the browser.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from spreadpilot_core.ibkr.screens.rfb import (
    NO_AUTHENTICATION,
    OK,
    SET_ENCODINGS,
    SET_PIXEL_FORMAT,
    UPDATE_REQUEST,
    VERSION,
    ReadExactly,
    RfbError,
    Write,
)

LONGEST_MESSAGE = 64 * 1024
"""Bytes of one message of a browser: a clipboard of some pages."""

KEY, POINTER, CUT_TEXT = 4, 5, 6
CONTINUOUS_UPDATES, FENCE, XVP, DESKTOP_SIZE, QEMU = 150, 248, 250, 251, 255
_LENGTHS = {SET_PIXEL_FORMAT: 20, UPDATE_REQUEST: 10, KEY: 8, POINTER: 6, CONTINUOUS_UPDATES: 10, XVP: 4, QEMU: 12}
_VIEWING = frozenset({SET_PIXEL_FORMAT, SET_ENCODINGS, UPDATE_REQUEST, CONTINUOUS_UPDATES, FENCE})
"""What changes nothing on the screen."""
_CONTROLLING = _VIEWING | {KEY, POINTER, CUT_TEXT, QEMU}
"""Nothing else is passed on, whoever asks: the others resize the screen, and shut the machine down."""
_NOT_SPOKEN = frozenset({-316, 0xC0A1E5CE - (1 << 32)})
"""Pseudo-encodings that give messages another length (extended buttons and clipboard): the server never hears of them."""


async def let_in(read: ReadExactly, write: Write) -> None:
    """The browser: it needs no password, having shown who it is before. Raises `RfbError`."""
    await write(VERSION)
    if await read(len(VERSION)) != VERSION:
        raise RfbError("the browser speaks another version")
    await write(bytes([1, NO_AUTHENTICATION]))
    if await read(1) != bytes([NO_AUTHENTICATION]):
        raise RfbError("the browser wants another security type")
    await write(OK)


class BrowserMessages:
    """The browser's messages after it was let in, of which some are passed on."""

    def __init__(self, *, controls: bool) -> None:
        self._passed = _CONTROLLING if controls else _VIEWING
        self._pending = b""
        self._begun = False

    def take(self, data: bytes) -> bytes:
        """What is passed on of these bytes and those before. Raises `RfbError` for what can't be understood."""
        self._pending += data
        return b"".join(self._whole())

    def _whole(self) -> Iterator[bytes]:
        if not self._begun and self._pending:
            self._begun, self._pending = True, self._pending[1:]
            yield b"\1"  # others who watch stay connected
        while self._pending and (length := self._length()) is not None and len(self._pending) >= length:
            message, self._pending = self._pending[:length], self._pending[length:]
            if message[0] in self._passed:
                yield _spoken(message) if message[0] == SET_ENCODINGS else message

    def _length(self) -> int | None:
        """Of the message that comes; None while nobody knows."""
        kind, there = self._pending[0], self._pending
        length: int | None = _LENGTHS.get(kind)
        if length is None:
            length = _stated_length(kind, there)
        if kind == QEMU and len(there) > 1 and there[1] != 0:
            raise RfbError("an unknown message")
        if length is not None and length > LONGEST_MESSAGE:
            raise RfbError("a message that is too long")
        return length


def _stated_length(kind: int, there: bytes) -> int | None:
    """Of messages that say it themselves."""
    match kind:
        case 2:
            return 4 + 4 * struct.unpack(">H", there[2:4])[0] if len(there) >= 4 else None  # noqa: PLR2004  # as RFC 6143 has it
        case 6:
            return 8 + abs(struct.unpack(">i", there[4:8])[0]) if len(there) >= 8 else None  # noqa: PLR2004
        case 248:
            return 9 + there[8] if len(there) >= 9 else None  # noqa: PLR2004
        case 251:
            return 8 + 16 * there[6] if len(there) >= 7 else None  # noqa: PLR2004
        case _:
            raise RfbError("an unknown message")


def _spoken(message: bytes) -> bytes:
    """A list of encodings without those that are not spoken here."""
    (count,) = struct.unpack(">H", message[2:4])
    known = [each for each in struct.unpack(f">{count}i", message[4:]) if each not in _NOT_SPOKEN]
    return struct.pack(f">BxH{len(known)}i", SET_ENCODINGS, len(known), *known)
