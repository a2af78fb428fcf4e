"""The colours of a PNG as this project writes it: eight bits, red, green and blue, rows unfiltered."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Image:
    width: int
    height: int
    rows: tuple[bytes, ...]

    def colour(self, x: int, y: int) -> tuple[int, ...]:
        """Red, green and blue."""
        return tuple(self.rows[y][3 * x : 3 * x + 3])


def read_png(content: bytes) -> Image:
    """Raises `AssertionError` where it is none."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    parts = dict(_chunks(content[8:]))
    width, height, bits, kind = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    assert (bits, kind, parts[b"IEND"]) == (8, 2, b"")
    content, length = zlib.decompress(parts[b"IDAT"]), 1 + 3 * width
    assert (len(content), set(content[::length])) == (length * height, {0})
    return Image(width, height, tuple(content[begin + 1 : begin + length] for begin in range(0, len(content), length)))


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    while content:
        (length,) = struct.unpack(">I", content[:4])
        kind, part, check = content[4:8], content[8 : 8 + length], content[8 + length : 12 + length]
        assert struct.unpack(">I", check) == (zlib.crc32(kind + part),)
        yield kind, part
        content = content[12 + length :]
