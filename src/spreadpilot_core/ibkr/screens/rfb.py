"""RFB (RFC 6143) as a client: connected to a VNC server and signed in there, so that it waits for the first message."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from spreadpilot_core.ibkr.model.details import ScreenAddress

VERSION = b"RFB 003.008\n"
NO_AUTHENTICATION, VNC_AUTHENTICATION = 1, 2
OK = b"\0\0\0\0"
_CHALLENGE = 16
_LONGEST_REASON = 1000
ANSWERED_WITHIN = 10.0
"""Seconds for a VNC server to answer, and again to let us in."""

SET_PIXEL_FORMAT, SET_ENCODINGS, UPDATE_REQUEST = 0, 2, 3
"""Messages of a client that only looks."""

ReadExactly = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]


class RfbError(Exception):
    """The other side does not speak RFB as it should, or does not let us in."""


@asynccontextmanager
async def signed_in(address: ScreenAddress) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the VNC server, closed afterwards. Entering raises `RfbError` with a clause that says why not."""
    try:
        async with asyncio.timeout(ANSWERED_WITHIN):
            reader, writer = await asyncio.open_connection(address.host, address.port)
    except (OSError, TimeoutError) as error:
        raise RfbError("its VNC server does not answer") from error
    try:
        try:
            async with asyncio.timeout(ANSWERED_WITHIN):
                await sign_in(reader.readexactly, writing(writer), address.password)
        except RfbError as error:
            raise RfbError(f"at its VNC server: {error}") from error
        except (OSError, TimeoutError, EOFError) as error:
            raise RfbError("its VNC server does not answer") from error
        yield reader, writer
    finally:
        writer.close()


def writing(writer: asyncio.StreamWriter) -> Write:
    """What writes there, and waits while the other side reads slowly."""

    async def write(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    return write


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
    if VNC_AUTHENTICATION in offered and password is not None:
        await write(bytes([VNC_AUTHENTICATION]))
        await write(answer_to(await read(_CHALLENGE), password))
    elif NO_AUTHENTICATION in offered:
        await write(bytes([NO_AUTHENTICATION]))
    else:
        raise RfbError("it wants a password, and none is known")
    if await read(4) != OK:
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
