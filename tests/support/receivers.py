"""Where notifications arrive: a webhook by HTTP and a mail server, both real, in threads of the test's process."""

from __future__ import annotations

import email
import email.policy
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller

from support.ports import free_ports

HOST = "127.0.0.1"


@dataclass
class Received:
    """What has arrived at one receiver, oldest first."""

    url: str = ""
    """As apprise wants it; it holds a word that must never be shown."""
    status: int = 204
    """What a webhook answers."""
    tries: int = 0
    messages: list[tuple[str, str]] = field(default_factory=list)
    """Title and body of those that were taken."""

    @property
    def titles(self) -> list[str]:
        """Of those that were taken."""
        return [title for title, _ in self.messages]

    @property
    def about_followers(self) -> list[str]:
        """The same without those of the manager's own trouble, such as a store that a busy machine opens late."""
        return [title for title in self.titles if "gateway manager" not in title]


@contextmanager
def webhook(secret: str) -> Iterator[Received]:
    """A receiver of apprise's `json://`; answers with `status`, and takes a message only with a 2xx."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.tries += 1
            if received.status < 300:
                received.messages.append((said["title"], said["message"]))
            self.send_response(received.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    received.url = f"json://{HOST}:{server.server_port}/{secret}"
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def hanging(secret: str) -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server((HOST, 0), backlog=200) as server:
        yield f"json://{HOST}:{server.getsockname()[1]}/{secret}"


class _Mailbox:
    def __init__(self, received: Received) -> None:
        self._received = received

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        """Take a mail."""
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        body = mail.get_body(("plain", "html"))
        assert body is not None
        self._received.messages.append((str(mail["Subject"]), body.get_content()))
        return "250 OK"


@contextmanager
def mail_server() -> Iterator[Received]:
    """A real SMTP server without TLS, on loopback."""
    received, port = Received(), free_ports(1)
    controller = Controller(_Mailbox(received), hostname=HOST, port=port)
    controller.start()
    received.url = f"mailto://{HOST}:{port}?from=manager@example.com&to=people@example.com&mode=insecure"
    try:
        yield received
    finally:
        controller.stop()
