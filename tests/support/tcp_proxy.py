"""A path to a server that can be made slow, half-open, dribbling, resetting or refused; in threads of its own."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Literal, Self

Mode = Literal["pass", "half_open", "reset", "dribble", "late"]


class TcpProxy:
    """Listens on a port (of loopback, unless `host` is another address) and carries each connection to `port`, in whatever mode holds when data comes.

    `to`: whose port it is.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1", to: str = "127.0.0.1") -> None:
        self.host = host
        self._to = to
        self.mode: Mode = "pass"
        self.delay = 0.0
        """Seconds that each answer is held back in mode "late"."""
        self.requests: list[str] = []
        """First line of every HTTP request that came, passed on or not."""
        self._upstream = port
        self._listener = socket.create_server((host, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._closed = False

    @property
    def address(self) -> str:
        """For `VAULT_ADDR`."""
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection that is open."""
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        self._open.add(client)
        with suppress(OSError), client, socket.create_connection((self._to, self._upstream)) as server:
            self._open.add(server)
            threading.Thread(target=self._back, args=(server, client), daemon=True).start()
            while data := client.recv(65536):
                if data.split(b" ", 1)[0] in {b"GET", b"POST", b"PUT", b"LIST", b"DELETE"}:
                    self.requests.append(data.split(b"\r\n", 1)[0].decode())
                if self.mode == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if self.mode != "half_open":
                    server.sendall(data)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if self.mode == "late":
                    time.sleep(self.delay)
                if self.mode == "dribble":
                    self._dribble(data, client)
                elif self.mode in {"pass", "late"}:
                    client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _dribble(self, data: bytes, client: socket.socket) -> None:
        for byte in data:
            if self.mode != "dribble" or self._closed:
                return
            client.sendall(bytes([byte]))
            time.sleep(0.3)
