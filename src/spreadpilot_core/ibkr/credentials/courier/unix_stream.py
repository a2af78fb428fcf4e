"""A Unix socket to whoever takes a secret, with one deadline for everything. Standard library only."""

from __future__ import annotations

import socket
import time
from typing import Self

from spreadpilot_core.ibkr.system.peers import must_be_trusted

_ANSWER_LIMIT = 65536


class UnixStream:
    """A unix socket with one deadline for everything."""

    def __init__(self, path: str, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Self:
        try:
            self._hurry()
            self._socket.connect(self._path)
            must_be_trusted(self._socket)
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """All of it."""
        self._hurry()
        self._socket.sendall(data)

    def read_until(self, end: bytes) -> bytes:
        """What arrives up to and including `end`, read byte by byte so that nothing behind it is taken."""
        got = bytearray()
        while not got.endswith(end):
            self._hurry()
            byte = self._socket.recv(1)
            if not byte:
                msg = "the connection was closed before the answer"
                raise ConnectionError(msg)
            got += byte
            if len(got) > _ANSWER_LIMIT:
                msg = "the answer does not end"
                raise ConnectionError(msg)
        return bytes(got)

    def rest(self, limit: int) -> bytes:
        """Up to `limit` bytes more, as far as they arrive at once."""
        self._hurry()
        return self._socket.recv(limit)

    def finish(self, *, wait: bool) -> None:
        """Half-close; `wait` until the other side has closed too, which says that it took everything."""
        self._socket.shutdown(socket.SHUT_WR)
        while wait:
            self._hurry()
            if not self._socket.recv(4096):
                return

    def _hurry(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            msg = "it took too long"
            raise TimeoutError(msg)
        self._socket.settimeout(left)
