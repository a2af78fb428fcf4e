"""A password's way to a pod: TLS, a WebSocket, length and bytes, and the end of input, by both protocols."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import deliver
from spreadpilot_core.ibkr.errors import DeliveryError
from support.certificates import Certificates, make_certificates

NEWER, OLDER = Subprotocol("v5.channel.k8s.io"), Subprotocol("v4.channel.k8s.io")
SECRET = b"Correct horse, battery \\ staple" * 1000


class ApiServer:
    """As far as one attach goes."""

    def __init__(self, protocol: Subprotocol, verdict: dict[str, str]) -> None:
        self.protocol = protocol
        self.verdict = verdict
        self.received = b""
        self.path = ""
        self.refusals: list[int] = []
        """How it answers the next who want to attach."""

    def admit(self, connection: ServerConnection, _: Request) -> Response | None:
        """Refuse, as often as it was said."""
        if not self.refusals:
            return None
        status = HTTPStatus(self.refusals.pop(0))
        return connection.respond(status, status.phrase)

    def attach(self, connection: ServerConnection) -> None:
        """Take the input to its end, and say how it went."""
        assert connection.request is not None
        self.path = connection.request.path
        try:
            for message in connection:
                assert isinstance(message, bytes)
                if message == bytes([255, 0]):
                    connection.send(b"\3" + json.dumps(self.verdict).encode())
                    return
                assert message[:1] == b"\0"
                self.received += message[1:]
        except ConnectionClosed:
            return


@contextmanager
def serving(server: ApiServer, certificates: Certificates) -> Iterator[dict[str, str]]:
    """Gives the delivery target of a pod behind it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    with serve(
        server.attach,
        "127.0.0.1",
        0,
        ssl=context,
        subprotocols=[server.protocol],
        process_request=server.admit,
        max_size=2**20,
    ) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        port = listening.socket.getsockname()[1]
        yield {
            "kind": "kubernetes",
            "container": "u-1",
            "server": f"https://127.0.0.1:{port}",
            "namespace": "trading",
            "pod": "gateway-alice",
            "name": "gateway",
            "ca": str(certificates.authority),
        }
        listening.shutdown()


@pytest.mark.parametrize("protocol", [NEWER, OLDER])
def test_all_of_a_password_arrives_with_its_length(protocol: Subprotocol, tmp_path: Path) -> None:
    """And the container's input is asked for, and nothing else of it."""
    server = ApiServer(protocol, {"status": "Success"})
    with serving(server, make_certificates(tmp_path)) as target:
        deliver(target, SECRET)
    assert server.received == b"%d\n" % len(SECRET) + SECRET
    assert server.path.startswith("/api/v1/namespaces/trading/pods/gateway-alice/attach?container=gateway&stdin=true")
    assert "stdout=false" in server.path


def test_a_refusal_is_told_without_the_password(tmp_path: Path) -> None:
    """It is not certain that all of it arrived."""
    server = ApiServer(NEWER, {"status": "Failure", "message": "container not found"})
    with serving(server, make_certificates(tmp_path)) as target, pytest.raises(DeliveryError) as refused:
        deliver(target, SECRET)
    assert "container not found" in str(refused.value)
    assert "battery" not in str(refused.value)


def test_nothing_is_sent_to_a_server_that_does_not_prove_who_it_is(tmp_path: Path) -> None:
    """By another authority, or without TLS."""
    server, certificates = ApiServer(NEWER, {"status": "Success"}), make_certificates(tmp_path)
    with serving(server, certificates) as target:
        with pytest.raises(DeliveryError, match="certificate"):
            deliver({**target, "ca": str(certificates.stranger)}, SECRET)
        with pytest.raises(DeliveryError, match="need not prove"):
            deliver({**target, "server": target["server"].replace("https", "http")}, SECRET)
    assert server.received == b""


def test_a_server_that_is_too_busy_to_open_the_way_is_asked_again(tmp_path: Path) -> None:
    """Nothing was sent yet: no login is lost for it. Any other refusal is an answer."""
    server, certificates = ApiServer(NEWER, {"status": "Success"}), make_certificates(tmp_path)
    with serving(server, certificates) as target:
        server.refusals = [429, 503]
        deliver(target, SECRET)
        assert server.received.endswith(SECRET)
        server.refusals = [429] * 1000
        with pytest.raises(DeliveryError, match="429"):
            deliver(target, SECRET, timeout=0.5)
        server.refusals = [403]
        with pytest.raises(DeliveryError, match="403"):
            deliver(target, SECRET)
        assert server.refusals == []
