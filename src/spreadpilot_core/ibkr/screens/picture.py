"""What a gateway's screen shows, as a PNG: one whole update in the plainest encoding, and nothing else of RFB or of images."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from spreadpilot_core.ibkr.screens.rfb import (
    SET_ENCODINGS,
    SET_PIXEL_FORMAT,
    UPDATE_REQUEST,
    ReadExactly,
    RfbError,
    Write,
)

MOST_PIXELS = 2560 * 1600
"""Of a screen of which a picture is taken."""
_LONGEST_TEXT = 64 * 1024
"""Bytes of a server's name or clipboard."""
_BYTES = 4
"""Of a pixel: red, green, blue, and one that means nothing."""
_PIXEL_FORMAT = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
_RAW = 0
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS, _RGB = 8, 2


@dataclass(frozen=True, slots=True)
class Pixels:
    """Of one screen, row by row."""

    width: int
    height: int
    content: bytes
    """Four bytes a pixel."""

    def as_png(self) -> bytes:
        """As a file; takes tenths of a second, so off the event loop."""
        rgb, row = bytearray(3 * self.width * self.height), 3 * self.width
        for colour in range(3):
            rgb[colour::3] = self.content[colour::_BYTES]
        rows = b"".join(b"\0" + rgb[begin : begin + row] for begin in range(0, len(rgb), row))  # 0: unfiltered
        header = struct.pack(">IIBBBBB", self.width, self.height, _BITS, _RGB, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        return _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


async def read_pixels(read: ReadExactly, write: Write) -> Pixels:
    """Of a server that has let us in. Others who watch stay connected. Raises `RfbError`."""
    await write(b"\1")
    width, height = struct.unpack(">HH", await read(4))
    await read(len(_PIXEL_FORMAT))
    await _text(read)
    if not 0 < width * height <= MOST_PIXELS:
        raise RfbError(f"its screen has {width} x {height} pixels, too many or none")
    await write(bytes([SET_PIXEL_FORMAT, 0, 0, 0]) + _PIXEL_FORMAT)
    await write(struct.pack(">BxHi", SET_ENCODINGS, 1, _RAW))
    await write(struct.pack(">BBHHHH", UPDATE_REQUEST, 0, 0, 0, width, height))
    content = bytearray(_BYTES * width * height)
    missing = width * height
    while missing > 0:  # whoever sends nothing meets the caller's limit
        missing -= await _message(read, content, width, height)
    return Pixels(width, height, bytes(content))


async def _message(read: ReadExactly, content: bytearray, width: int, height: int) -> int:
    """Take one in; gives how many pixels it brought."""
    match (await read(1))[0]:
        case 0:
            (count,) = struct.unpack(">xH", await read(3))
            return sum([await _rectangle(read, content, width, height) for _ in range(count)])
        case 1:
            _, count = struct.unpack(">xHH", await read(5))
            await read(6 * count)
        case 2:
            pass
        case 3:
            await read(3)
            await _text(read)
        case _:
            raise RfbError("an unknown message")
    return 0


async def _rectangle(read: ReadExactly, content: bytearray, width: int, height: int) -> int:
    left: int
    top: int
    columns: int
    rows: int
    encoding: int
    left, top, columns, rows, encoding = struct.unpack(">HHHHi", await read(12))
    if encoding != _RAW or left + columns > width or top + rows > height:
        raise RfbError("an update that was not asked for")
    taken = _BYTES * columns
    found = await read(taken * rows)
    for row in range(rows):
        begin = _BYTES * ((top + row) * width + left)
        content[begin : begin + taken] = found[row * taken : (row + 1) * taken]
    return columns * rows


async def _text(read: ReadExactly) -> None:
    (length,) = struct.unpack(">I", await read(4))
    if length > _LONGEST_TEXT:
        raise RfbError("a text that is too long")
    await read(length)
