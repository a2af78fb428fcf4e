"""A WebSocket to the API server of a Kubernetes cluster, with one deadline for everything. Standard library only."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

_ANSWER_LIMIT: Final = 65536
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10
_SHORT, _MIDDLE = 126, 127
_NOT_NOW: Final = (["429"], ["503"])
"""What a server that is too busy, or about to begin, answers."""
_PAUSE: Final = 1.0


class _NotNowError(ConnectionError):
    """The server may take it in a moment."""


class WebStream:
    """Messages to and from one path of a server that has proved who it is.

    `access` has the server's address and names of files: `ca`, and `token` or `certificate` and `key`.
    """

    def __init__(self, access: Mapping[str, str], path: str, protocols: Sequence[str], timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._access = access
        self._path = path
        self._protocols = protocols
        self._rest = b""
        self.protocol = ""
        """Which of the protocols the server took."""

    def __enter__(self) -> Self:
        while True:
            try:
                self._open()
            except (_NotNowError, ConnectionRefusedError):  # nothing was sent
                if self._deadline - time.monotonic() <= _PAUSE:
                    raise
                time.sleep(_PAUSE)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, message: bytes, kind: int = _BINARY) -> None:
        """One message."""
        self._hurry()
        length = len(message)
        if length < _SHORT:
            head = struct.pack(">BB", 0x80 | kind, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack(">BBH", 0x80 | kind, 0x80 | _SHORT, length)
        else:
            head = struct.pack(">BBQ", 0x80 | kind, 0x80 | _MIDDLE, length)
        mask = os.urandom(4)
        self._socket.sendall(head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(message)))

    def receive(self) -> bytes | None:
        """The next message; None when the server has closed."""
        whole = b""
        while True:
            first, second = self._read(2)
            length = second & 0x7F
            if length == _SHORT:
                (length,) = struct.unpack(">H", self._read(2))
            elif length == _MIDDLE:
                (length,) = struct.unpack(">Q", self._read(8))
            if length + len(whole) > _ANSWER_LIMIT:
                msg = "the answer does not end"
                raise ConnectionError(msg)
            content, kind = self._read(length), first & 0x0F
            if kind == _CLOSE:
                return None
            if kind == _PING:
                self.send(content, _PONG)
            elif kind != _PONG:
                whole += content
                if first & 0x80:
                    return whole

    def close(self) -> None:
        """Say that nothing more is sent."""
        self.send(struct.pack(">H", 1000), _CLOSE)

    # ------------------------------------------------------------------ inside

    def _open(self) -> None:
        self._socket = self._connect()
        try:
            self._upgrade()
        except BaseException:
            self._socket.close()
            raise

    def _connect(self) -> ssl.SSLSocket:
        address = urlsplit(self._access["server"])
        if address.scheme != "https" or address.hostname is None:
            msg = f"{self._access['server']} need not prove who it is"
            raise ConnectionError(msg)
        context = ssl.create_default_context(cafile=self._access.get("ca"))
        if "certificate" in self._access:
            context.load_cert_chain(self._access["certificate"], self._access.get("key"))
        plain = socket.create_connection((address.hostname, address.port or 443), self._left())
        try:
            return context.wrap_socket(plain, server_hostname=self._access.get("server_name") or address.hostname)
        except BaseException:
            plain.close()
            raise

    def _upgrade(self) -> None:
        address = urlsplit(self._access["server"])
        head = [
            f"GET {address.path.rstrip('/')}{self._path} HTTP/1.1",
            f"Host: {address.netloc}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            f"Sec-WebSocket-Protocol: {', '.join(self._protocols)}",
        ]
        if "token" in self._access:
            head.append(f"Authorization: Bearer {Path(self._access['token']).read_text().strip()}")
        self._hurry()
        self._socket.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        answer, _, self._rest = self._read_head().partition(b"\r\n\r\n")
        status, *lines = answer.decode("latin-1").split("\r\n")
        said = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if status.split(" ")[1:2] != ["101"]:
            msg = f"the API server answered {status.partition(' ')[2]} {self._rest[:1024].decode('utf-8', 'replace').strip()}"
            raise (_NotNowError if status.split(" ")[1:2] in _NOT_NOW else ConnectionError)(msg)
        self.protocol = said.get("sec-websocket-protocol", "")

    def _read_head(self) -> bytes:
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._receive()
            if len(got) > _ANSWER_LIMIT:
                msg = "the answer does not end"
                raise ConnectionError(msg)
        return got

    def _read(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._rest += self._receive()
        got, self._rest = self._rest[:count], self._rest[count:]
        return got

    def _receive(self) -> bytes:
        self._hurry()
        got = self._socket.recv(65536)
        if not got:
            msg = "the connection was closed before the answer"
            raise ConnectionError(msg)
        return got

    def _hurry(self) -> None:
        self._socket.settimeout(self._left())

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            msg = "it took too long"
            raise TimeoutError(msg)
        return left
