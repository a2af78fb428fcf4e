"""The other side of a door: a host of simulated gateways and a Docker Engine, as far as one attach goes."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

from spreadpilot_core.ibkr.model.gateways import DeliveryTarget
from spreadpilot_core.ibkr.model.records import ContainerId


class Doorway:
    """Listens on a unix socket, answers each attach, and keeps what came through, by container."""

    def __init__(self, path: Path, kind: Literal["simulated", "docker"], *, refuse: str | None = None) -> None:
        self.path = path
        self.kind = kind
        self.refuse = refuse
        self.received: dict[str, bytes] = {}
        self.requests: list[bytes] = []
        self.silent = False
        self._arrived = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def target(self, container: str) -> DeliveryTarget:
        """That of a container behind this doorway, as its runtime gives it out."""
        address = {"socket": str(self.path)} | ({"api_version": "1.41"} if self.kind == "docker" else {})
        return DeliveryTarget(self.kind, ContainerId(container), address)

    def delivery_target(self, container: str) -> dict[str, str]:
        """The same as the courier is told it."""
        return self.target(container).as_json()

    def wait_for(self, container: str, timeout: float = 20) -> bytes:
        """What came through for `container`, without its length line."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: container in self.received, timeout), f"nothing came for {container}"
            length, _, content = self.received[container].partition(b"\n")
        assert int(length) == len(content)
        return content

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(ConnectionError), connection, connection.makefile("rwb") as stream:
            container = self._attach(stream)
            if self.silent or container is None:
                stream.read()
                return
            content = stream.read()
            with self._arrived:
                self.received[container] = self.received.get(container, b"") + content
                self._arrived.notify_all()

    def _attach(self, stream: socket.SocketIO) -> str | None:  # type: ignore[name-defined]  # what makefile gives
        if self.kind == "simulated":
            request = stream.readline()
            answer = b'{"ok": true}\n' if self.refuse is None else json.dumps({"error": self.refuse}).encode() + b"\n"
            container = str(json.loads(request)["attach"]) if request else None
        else:
            request = b""
            while (line := stream.readline()) not in (b"\r\n", b""):
                request += line
            answer = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            if self.refuse is not None:
                body = json.dumps({"message": self.refuse}).encode()
                answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            container = request.decode().split("/containers/")[1].split("/")[0] if request else None
        self.requests.append(request)
        if not self.silent:
            stream.write(answer)
            stream.flush()
        return container if self.refuse is None else None
