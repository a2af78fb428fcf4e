"""To the standard input of a container, over the Docker Engine's Unix socket.

    {"kind": "docker", "socket": PATH, "container": ID, "api_version": "1.41"}

Until the container starts, the engine reads nothing from it and does not close it: what was written waits in the socket, and
stays there when this process ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from spreadpilot_core.ibkr.credentials.courier.unix_stream import UnixStream

_HIJACKED = {"101", "200"}


def send(target: Mapping[str, str], secret: bytes, timeout: float) -> None:
    """Ask for its standard input, then length and bytes, half-close."""
    path = f"/v{target['api_version']}/containers/{quote(target['container'], safe='')}/attach?stream=1&stdin=1"
    with UnixStream(target["socket"], timeout) as stream:
        _attach(stream, path)
        stream.send(b"%d\n" % len(secret) + secret)
        stream.finish(wait=False)


def _attach(stream: UnixStream, path: str) -> None:
    """The engine answers 101 and the connection becomes the stream."""
    stream.send(
        f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
    )
    head = stream.read_until(b"\r\n\r\n").decode("latin-1")
    status = head.partition(" ")[2][:3]
    if status not in _HIJACKED:
        text = stream.rest(1024).decode("utf-8", "replace").strip()
        msg = f"the engine answered {status} {text}"
        raise ConnectionError(msg)
