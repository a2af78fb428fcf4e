"""Bytes of the TWS API below server version 201: length-prefixed frames of NUL-terminated text fields.

The lowest layer: it turns socket bytes into frames and fields into bytes, and agrees on a version. It knows no message.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator

MAX_FRAME = 0xFFFFFF
"""Largest frame in bytes; the official clients close the connection beyond it."""

OLDEST_VERSION = 157
NEWEST_VERSION = 178
REFUSED_VERSION = 158
"""The official client reads an order's `duration` from 158 on, ib_async from 159 on: at 158 one of them reads garbage."""

_PREFIX = b"API\0"
_HELLO = re.compile(rb"v(\d{1,9})(?:\.\.(\d{1,9}))?(?: .*)?", re.DOTALL)

Field = str | int | float | bool | None


class WireError(Exception):
    """The peer does not speak this protocol; the connection has to be closed."""


def check_server_version(version: int) -> int:
    """Give `version` back when a server may offer it.

    Raises:
        ValueError: with the sentence why not.
    """
    if not OLDEST_VERSION <= version <= NEWEST_VERSION:
        raise ValueError(f"server_version is {version}; the simulator serves {OLDEST_VERSION} to {NEWEST_VERSION}")
    if version == REFUSED_VERSION:
        raise ValueError(
            f"server_version {REFUSED_VERSION} is refused: clients disagree about the layout of its openOrder message; "
            f"use {OLDEST_VERSION} or {REFUSED_VERSION + 1}"
        )
    return version


def message(*fields: Field) -> bytes:
    """One frame with these fields: None is empty, a bool is 1 or 0, a number its shortest text."""
    return frame("".join(f"{text_of(field)}\0" for field in fields).encode("utf-8", "backslashreplace"))


def frame(payload: bytes) -> bytes:
    """`payload` behind its length."""
    return struct.pack(">I", len(payload)) + payload


def text_of(field: Field) -> str:
    """How a value is written in a field."""
    match field:
        case None:
            return ""
        case bool():
            return "1" if field else "0"
        case float():
            return f"{field + 0.0:.10f}".rstrip("0").rstrip(".")
        case _:
            return str(field)


class Frames:
    """Cuts a stream of bytes into frames, however the bytes were cut on their way."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take `data` and yield every frame that is now whole.

        Raises:
            WireError: a frame announces more than `MAX_FRAME` bytes.
        """
        self._buffer += data
        while len(self._buffer) >= 4:  # noqa: PLR2004  # the length prefix
            (length,) = struct.unpack_from(">I", self._buffer)
            if length > MAX_FRAME:
                raise WireError(f"a frame of {length} bytes is announced; the limit is {MAX_FRAME}")
            if len(self._buffer) < 4 + length:
                return
            payload = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            yield payload


class Handshake:
    """The client's opening: the bytes "API" and NUL, then a frame with the versions it speaks."""

    def __init__(self) -> None:
        self._opening = b""
        self.frames = Frames()

    def feed(self, data: bytes) -> tuple[int, int] | None:
        """Take `data`; the client's lowest and highest version as soon as they are known.

        Frames that came in the same bytes wait in `frames`.

        Raises:
            WireError: this is no API client.
        """
        if len(self._opening) < len(_PREFIX):
            needed = len(_PREFIX) - len(self._opening)
            self._opening += data[:needed]
            data = data[needed:]
            if not _PREFIX.startswith(self._opening):
                raise WireError("the connection does not open with the API prefix")
        return next((parse_hello(payload) for payload in self.frames.feed(data)), None)


def parse_hello(payload: bytes) -> tuple[int, int]:
    """The lowest and highest version in a hello such as `v157..178` or `v157`.

    Raises:
        WireError: it is no hello.
    """
    if (found := _HELLO.fullmatch(payload.rstrip(b"\0"))) is None:
        raise WireError("the first frame is no version range")
    lowest = int(found[1])
    return lowest, int(found[2] or lowest)


def negotiate(hello: tuple[int, int], offered: int) -> int:
    """The version to speak with a client.

    Raises:
        WireError: there is none.
    """
    lowest, highest = hello
    version = min(highest, offered)
    if version == REFUSED_VERSION:
        version = OLDEST_VERSION
    if version < max(lowest, OLDEST_VERSION):
        raise WireError(f"the client speaks {lowest} to {highest}, this server {OLDEST_VERSION} to {offered}")
    return version


def greeting(version: int) -> bytes:
    """The server's answer to the hello: the version and its clock. Nothing may share its TCP segment."""
    return message(version, time.strftime("%Y%m%d %H:%M:%S UTC", time.gmtime()))
