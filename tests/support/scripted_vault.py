"""A server in Vault's place that answers as a script says: content types, statuses and bodies that no real one sends today."""

from __future__ import annotations

import http.server
import json
import threading
from dataclasses import dataclass, field
from typing import Any, Self

SECRET = {
    "data": {
        "data": {"IB_USER": "edemo", "IB_PASS": "planted-pw"},
        "metadata": {"version": 1, "created_time": "2026-11-20T09:15:02Z"},
    }
}


@dataclass
class Said:
    """One answer."""

    status: int = 200
    body: Any = field(default_factory=lambda: SECRET)
    """JSON, or bytes as they are."""
    content_type: str | None = "application/json"


class ScriptedVault:
    """Answers a read of a secret with `read`, a look at the token with `token`, and one at the mount with `mount`."""

    def __init__(self) -> None:
        self.read = Said()
        self.token = Said(body={"data": {"ttl": 0, "renewable": False}})
        self.mount = Said(body={"data": {"options": {"version": "2"}}})
        self.asked: list[str] = []
        script = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # http.server's name
                script.asked.append(self.path)
                said = script.read
                said = script.token if self.path.startswith("/v1/auth/") else said
                said = script.mount if self.path.startswith("/v1/sys/") else said
                body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                self.send_response(said.status)
                if said.content_type is not None:
                    self.send_header("Content-Type", said.content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  # http.server's name

            def log_message(self, *_: object) -> None:
                """Quietly."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
