"""Asks raw whether an API server answers: the handshake alone, no START_API, so no client id is used.

`connector` does it before every try with a client library: both libraries wait their whole timeout when the peer
closes early, while a raw reader sees that within a millisecond. An answer proves that the API server runs, not that the
gateway is logged in: a gateway whose login was lost still answers a handshake.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Literal

from spreadpilot_core.ibkr.errors import UnavailableError

OLDEST_VERSION = 157
"""The oldest protocol that both client libraries speak."""
NEWEST_VERSION = 178
"""What ib_async offers; a newer gateway answers with this."""
LONGEST_REPLY = 512
"""Bytes; a real reply has about 30."""

_HELLO = f"v{OLDEST_VERSION}..{NEWEST_VERSION}".encode()
_GREETING = b"API\0" + struct.pack(">I", len(_HELLO)) + _HELLO

ProbeTrouble = Literal["refused", "unreachable", "closed", "silent", "garbage", "too_old"]


class ProbeError(UnavailableError):
    """The endpoint did not answer a handshake. `trouble` says in which way."""

    def __init__(self, trouble: ProbeTrouble, host: str, port: int, detail: str = "") -> None:
        self.trouble: ProbeTrouble = trouble
        sentences = {
            "refused": f"Nothing listens on {host}:{port} (connection refused).",
            "unreachable": f"{host}:{port} can't be reached: {detail}.",
            "closed": f"{host}:{port} accepted the connection and closed it at once: the API is not open yet.",
            "silent": f"{host}:{port} did not answer the handshake within {detail} s.",
            "garbage": f"What answers on {host}:{port} is no IB Gateway: it sent {detail}.",
            "too_old": f"The gateway on {host}:{port} speaks version {detail} of the API, older than {OLDEST_VERSION}.",
        }
        super().__init__(sentences[trouble])


async def probe(host: str, port: int, *, timeout: float) -> int:  # noqa: ASYNC109  # the error names the figure
    """Shake hands and hang up.

    Args:
        host: address of the gateway's API.
        port: its port.
        timeout: seconds for connecting and answering together.

    Returns:
        The protocol version the server would speak with us.

    Raises:
        ProbeError: it did not answer as a gateway does; seen at once, except for silence.
    """
    loop = asyncio.get_running_loop()
    transport: asyncio.WriteTransport | None = None
    try:
        async with asyncio.timeout(timeout):
            transport, talk = await loop.create_connection(_Handshake, host, port)
            reply = await talk.reply
    except TimeoutError:
        raise ProbeError("silent", host, port, f"{timeout:g}") from None
    except ConnectionRefusedError as error:
        raise ProbeError("refused", host, port) from error
    except OSError as error:
        closed = transport is not None
        raise ProbeError("closed" if closed else "unreachable", host, port, error.strerror or str(error)) from error
    finally:
        if transport is not None:
            transport.abort()
    return _version(reply, host, port)


def _version(reply: bytes, host: str, port: int) -> int:
    """The version in `<version> NUL <time> NUL`."""
    fields = reply.split(b"\0")
    if len(fields) < 2 or not fields[0].isdigit():  # noqa: PLR2004  # a version and a time
        raise ProbeError("garbage", host, port, repr(reply[:40]))
    version = int(fields[0])
    if version < OLDEST_VERSION:
        raise ProbeError("too_old", host, port, str(version))
    return version


class _Handshake(asyncio.Protocol):
    """Our side of one handshake; `reply` is the body of the first frame, or the early end as an `OSError`."""

    def __init__(self) -> None:
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self.reply.done() or len(self._received) < struct.calcsize(">I"):
            return
        (length,) = struct.unpack_from(">I", self._received)
        if length > LONGEST_REPLY:
            self.reply.set_result(self._received)  # no frame of ours: told as it is
        elif len(self._received) >= struct.calcsize(">I") + length:
            self.reply.set_result(self._received[4 : 4 + length])

    def connection_lost(self, error: Exception | None) -> None:
        if not self.reply.done():
            self.reply.set_exception(error or ConnectionResetError("closed before it answered"))
            self.reply.exception()  # nobody may be waiting any more
