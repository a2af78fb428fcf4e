"""A screen read over RFB, and what becomes of its pixels in a PNG."""

from __future__ import annotations

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.screens.picture import Pixels, read_pixels
from spreadpilot_core.ibkr.screens.rfb import RfbError
from support.png import read_png

BELL = b"\x02"
CUT = struct.pack(">BxxxI4s", 3, 4, b"text")
COLOURS = struct.pack(">BxHH6s", 1, 0, 1, bytes(6))
RED, GREEN, BLUE = b"\xff\0\0\7", b"\0\xff\0\7", b"\0\0\xff\7"


def init(width: int, height: int, name: bytes = b"test") -> bytes:
    return struct.pack(">HH16sI", width, height, bytes(16), len(name)) + name


def update(*rectangles: tuple[int, int, int, int, bytes], encoding: int = 0) -> bytes:
    parts = [struct.pack(">HHHHi", *place, encoding) + content for *place, content in rectangles]
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(parts)


async def shown(said: bytes) -> tuple[Pixels, bytes]:
    """What is read of a server that says so, and what it was told."""
    reader, told = asyncio.StreamReader(), bytearray()
    reader.feed_data(said)
    reader.feed_eof()

    async def write(data: bytes) -> None:
        told.extend(data)

    return await read_pixels(reader.readexactly, write), bytes(told)


async def test_a_screen_comes_in_parts_and_with_other_messages_between() -> None:
    """Whole in the end, each pixel in its place; the server is told of others who watch, and of no key or pointer."""
    said = init(2, 2) + BELL + update((0, 0, 2, 1, RED + GREEN)) + CUT + COLOURS
    said += update((0, 1, 1, 1, BLUE), (1, 1, 1, 1, RED))
    pixels, told = await shown(said)
    image = read_png(pixels.as_png())
    assert (image.width, image.height) == (2, 2)
    found = [image.colour(x, y) for y in range(2) for x in range(2)]
    assert found == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0)]
    assert told[:1] == b"\1"
    assert (told[1], told[21], told[29], len(told)) == (0, 2, 3, 39)


@pytest.mark.parametrize(
    "said",
    [
        init(0, 10),
        init(60_000, 60_000),
        init(2, 2, b"x" * 70_000),
        init(2, 2) + update((0, 0, 2, 2, RED * 4), encoding=7),
        init(2, 2) + update((1, 0, 2, 2, RED * 4)),
        init(2, 2) + b"\x09",
        init(2, 2) + struct.pack(">BxxxI", 3, 1 << 31),
    ],
)
async def test_what_a_server_should_not_say_is_refused(said: bytes) -> None:
    """Before anything of its size is waited for, or kept."""
    with pytest.raises(RfbError):
        await shown(said)


async def test_a_server_that_hangs_up_leaves_no_half_picture() -> None:
    """What came until then is dropped."""
    with pytest.raises(EOFError):
        await shown(init(2, 2) + update((0, 0, 2, 1, RED + GREEN)))


@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_every_pixel_is_where_it_was(data: st.DataObject, width: int, height: int) -> None:
    """Red is red; the byte that means nothing is left out."""
    content = data.draw(st.binary(min_size=4 * width * height, max_size=4 * width * height))
    image = read_png(Pixels(width, height, content).as_png())
    for y in range(height):
        for x in range(width):
            at = 4 * (y * width + x)
            assert image.colour(x, y) == tuple(content[at : at + 3])
