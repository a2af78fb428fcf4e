"""How the courier reaches a created container's standard input: one attach, the length and the bytes, half-close.

A door is a mapping of str to str that a runtime gives out with `Created`:

    {"kind": "docker", "socket": PATH, "container": ID, "api_version": "1.41"}      Docker Engine's unix socket
    {"kind": "simulated", "socket": PATH, "container": ID}                          the simulated gateways' host process

Standard library only, so that the process which holds a password loads no SDK. It attaches once and never tries again:
after a failure the container is removed, since a second attach may be lost or may add to the first.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Self
from urllib.parse import quote

from spreadpilot_core.ibkr.errors import DeliveryError

TIMEOUT = 20.0
"""Seconds for one delivery; it takes milliseconds, and the manager gives up on a silent courier at 30."""
_ANSWER_LIMIT = 65536
_HIJACKED = {"101", "200"}


def deliver(door: Mapping[str, str], secret: bytes, *, timeout: float = TIMEOUT) -> None:
    """Bring `secret` through `door`.

    Raises:
        DeliveryError: it is not certain that all of it arrived.
    """
    attach = {"docker": _attach_docker, "simulated": _attach_simulated}.get(door.get("kind", ""))
    if attach is None:
        msg = f"There is no door of kind {door.get('kind')!r}."
        raise DeliveryError(msg)
    try:
        with _Line(door["socket"], timeout) as line:
            attach(line, door)
            line.send(b"%d\n" % len(secret) + secret)
            line.finish(wait=door["kind"] == "simulated")
    except (OSError, KeyError, ValueError) as error:
        reason = f"no {error} in the door" if isinstance(error, KeyError) else f"{error}"
        msg = f"Container {door.get('container', '?')[:12]} could not be given its password: {reason}."
        raise DeliveryError(msg) from None


class _Line:
    """A unix socket with one deadline for everything."""

    def __init__(self, path: str, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Self:
        try:
            self._hurry()
            self._socket.connect(self._path)
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
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


def _attach_simulated(line: _Line, door: Mapping[str, str]) -> None:
    line.send(json.dumps({"attach": door["container"]}).encode() + b"\n")
    answer = json.loads(line.read_until(b"\n"))
    if not answer.get("ok"):
        msg = str(answer.get("error", "the host refused"))
        raise ConnectionError(msg)


def _attach_docker(line: _Line, door: Mapping[str, str]) -> None:
    """Ask for the container's standard input; the engine answers 101 and the connection becomes the stream.

    Until the container starts, the engine reads nothing from it and does not close it: what was written waits in the
    socket, and stays there when this process ends.
    """
    path = f"/v{door['api_version']}/containers/{quote(door['container'], safe='')}/attach?stream=1&stdin=1"
    line.send(
        f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
    )
    head = line.read_until(b"\r\n\r\n").decode("latin-1")
    status = head.partition(" ")[2][:3]
    if status not in _HIJACKED:
        told = line.rest(1024).decode("utf-8", "replace").strip()
        msg = f"the engine answered {status} {told}"
        raise ConnectionError(msg)
