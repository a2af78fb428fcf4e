"""RFB (RFC 6143), as far as a bridge speaks it: it signs in at the gateway's VNC server, lets the browser in without a password,
and passes on of the browser's messages what it may send. The password never reaches the browser.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterator

VERSION = b"RFB 003.008\n"
_NO_AUTHENTICATION, _VNC_AUTHENTICATION = 1, 2
_OK = b"\0\0\0\0"
_CHALLENGE = 16
_LONGEST_REASON = 1000
LONGEST_MESSAGE = 64 * 1024
"""Bytes of one message of a browser: a clipboard of some pages."""

SET_PIXEL_FORMAT, SET_ENCODINGS, UPDATE_REQUEST, KEY, POINTER, CUT_TEXT = 0, 2, 3, 4, 5, 6
CONTINUOUS_UPDATES, FENCE, XVP, DESKTOP_SIZE, QEMU = 150, 248, 250, 251, 255
_LENGTHS = {SET_PIXEL_FORMAT: 20, UPDATE_REQUEST: 10, KEY: 8, POINTER: 6, CONTINUOUS_UPDATES: 10, XVP: 4, QEMU: 12}
_VIEWING = frozenset({SET_PIXEL_FORMAT, SET_ENCODINGS, UPDATE_REQUEST, CONTINUOUS_UPDATES, FENCE})
"""What changes nothing on the screen."""
_CONTROLLING = _VIEWING | {KEY, POINTER, CUT_TEXT, QEMU}
"""Nothing else is passed on, whoever asks: the others resize the screen, and shut the machine down."""
_NOT_SPOKEN = frozenset({-316, 0xC0A1E5CE - (1 << 32)})
"""Pseudo-encodings that give messages another length (extended buttons and clipboard): the server never hears of them."""

ReadExactly = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]


class RfbError(Exception):
    """The other side does not speak RFB as it should, or does not let us in."""


async def sign_in(read: ReadExactly, write: Write, password: str | None) -> None:
    """At the server: afterwards it waits for the client's first message. Raises `RfbError`."""
    version = await read(len(VERSION))
    if not version.startswith(b"RFB 003."):
        raise RfbError("it is no VNC server")
    await write(VERSION)
    (count,) = await read(1)
    if count == 0:
        raise RfbError(f"it refuses: {await _reason(read)}")
    offered = await read(count)
    if _VNC_AUTHENTICATION in offered and password is not None:
        await write(bytes([_VNC_AUTHENTICATION]))
        await write(answer_to(await read(_CHALLENGE), password))
    elif _NO_AUTHENTICATION in offered:
        await write(bytes([_NO_AUTHENTICATION]))
    else:
        raise RfbError("it wants a password, and none is known")
    if await read(4) != _OK:
        raise RfbError(f"it refuses: {await _reason(read)}")


async def _reason(read: ReadExactly) -> str:
    (length,) = struct.unpack(">I", await read(4))
    return (await read(min(length, _LONGEST_REASON))).decode(errors="replace")


def answer_to(challenge: bytes, password: str) -> bytes:
    """DES with the password's first eight bytes, the bits of each turned around, as VNC has always had it."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES  # noqa: PLC0415  # where a screen is opened
    from cryptography.hazmat.primitives.ciphers import Cipher, modes  # noqa: PLC0415

    key = bytes(int(f"{each:08b}"[::-1], 2) for each in password.encode("latin-1", "replace")[:8].ljust(8, b"\0"))
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305  # three times the same key is DES
    return encryptor.update(challenge) + encryptor.finalize()


async def let_in(read: ReadExactly, write: Write) -> None:
    """The browser: it needs no password, having shown who it is before. Raises `RfbError`."""
    await write(VERSION)
    if await read(len(VERSION)) != VERSION:
        raise RfbError("the browser speaks another version")
    await write(bytes([1, _NO_AUTHENTICATION]))
    if await read(1) != bytes([_NO_AUTHENTICATION]):
        raise RfbError("the browser wants another security type")
    await write(_OK)


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
