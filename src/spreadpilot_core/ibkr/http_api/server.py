"""Serves applications beside the manager on the same loop: on the socket in the state directory, or at an address.

It is a guest in the manager's program: it takes no signal, writes no log of its own, and holds no more than its limits,
whatever is connected. Only the owner can connect to the socket, so there the limits are for programs that went wrong.
"""

from __future__ import annotations

import asyncio
import json
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.http_api.address import SOCKET, listening_at, listening_socket
from spreadpilot_core.ibkr.http_api.connections import LimitedSocket
from spreadpilot_core.ibkr.http_api.hardening import NO_STORE, SECURITY_HEADERS
from spreadpilot_core.ibkr.http_api.tls import Certificate
from spreadpilot_core.ibkr.system.peers import must_be_trusted
from spreadpilot_core.ibkr.tasks import Tasks, keep_running

_LAST_ANSWERS = 2
"""Seconds that open requests and event streams get at the end."""
MOST_CONNECTIONS = 128
"""Connections at once: many times what commands and a few programs that follow the events need."""
MOST_AT_AN_ADDRESS = 256
"""The same at an address, where pages and programs stay connected."""
_ANSWERED_BEYOND = 32
"""Connections beyond these that are told why they are closed; further ones are not."""
LONGEST_WEBSOCKET_MESSAGE = 128 * 1024
"""Bytes of one that a browser sends."""
LONGEST_HEAD = 16 * 1024
"""Bytes of a request's line and headers."""
IDLE = 10.0
"""Seconds that a connection may take to say what it wants."""


class Server(ABC):
    """Serves from `start()` to `close()`, or in an `async with`."""

    def __init__(
        self,
        app: Any,
        connection: type[asyncio.Protocol],
        called: str,
        *,
        certificate: Certificate | None = None,
        websockets: bool = False,
    ) -> None:
        self._called = called
        self._tasks = Tasks(called)
        self._certificate = certificate
        self._config = uvicorn.Config(
            app,
            http=connection,
            h11_max_incomplete_event_size=LONGEST_HEAD,
            ws=_WebSocket if websockets else "none",
            ws_max_size=LONGEST_WEBSOCKET_MESSAGE,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # anybody may send them: `peers` believes a proxy that a setting names
            timeout_graceful_shutdown=_LAST_ANSWERS,
        )
        self._config.load()
        self._config.ssl = certificate.context if certificate is not None else None
        self._listening: socket.socket | None = None
        self._server: _Server | None = None
        self._is_ending = False

    async def start(self) -> None:
        """Listen. Raises `SettingsError` where that can't be done."""
        self._listening = await self._listen()
        if self._certificate is not None:
            self._certificate.begin()
        self._tasks.begin("serve", keep_running(f"serve the {self._called}", self._serve, may_end=True))
        # whoever connects now waits in the backlog until uvicorn accepts

    async def _listen(self) -> socket.socket:
        """Make the socket off the loop; whoever is cancelled meanwhile leaves none open."""
        making = asyncio.ensure_future(asyncio.to_thread(self._make_socket))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            with suppress(SettingsError):
                (await making).close()
            raise

    async def _serve(self) -> None:
        """Serve until it is to end; a server that ended otherwise has taken its socket along."""
        listening, self._listening = self._listening, None
        if listening is None:
            listening = await self._listen()
        self._server = _Server(self._config)
        self._server.should_exit = self._is_ending
        await self._server.serve(sockets=[listening])
        if not self._is_ending:
            msg = "the server ended by itself"
            raise RuntimeError(msg)

    @abstractmethod
    def _make_socket(self) -> socket.socket:
        """One that listens. Raises `SettingsError`."""

    @abstractmethod
    def _remove_socket(self) -> None:
        """Leave nothing of it behind, now that it is closed."""

    async def close(self) -> None:
        """Give open requests a moment, end, and leave nothing behind."""
        self._is_ending = True
        if self._server is not None:
            self._server.should_exit = True
        try:
            await self._tasks.wait()
        finally:
            if self._certificate is not None:
                await self._certificate.close()
            await self._tasks.cancel()
            if self._listening is not None:  # nobody came to serve it
                self._listening.close()
            with suppress(OSError):  # it could not be made, or somebody removed it
                await asyncio.to_thread(self._remove_socket)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class ControlServer(Server):
    """On the socket in the state directory."""

    def __init__(self, app: FastAPI, state_dir: Path, listening: socket.socket | None = None) -> None:
        """`listening`: the socket there, where it listens already."""
        super().__init__(app, _OwnersConnection, "control socket")
        self._path = state_dir / SOCKET
        self._given = listening

    def _make_socket(self) -> socket.socket:
        given, self._given = self._given, None
        return given if given is not None else listening_socket(self._path.parent)

    def _remove_socket(self) -> None:
        self._path.unlink()


class AddressServer(Server):
    """At a host and port."""

    def __init__(
        self,
        app: Any,
        setting: str,
        address: str,
        *,
        certificate: Certificate | None = None,
        most_of_a_peer: int = MOST_AT_AN_ADDRESS,
        websockets: bool = False,
    ) -> None:
        """`setting` names the setting that holds the address."""
        super().__init__(app, _AddressConnection, setting, certificate=certificate, websockets=websockets)
        self._setting, self._address = setting, address
        self._most_of_a_peer = most_of_a_peer

    def _make_socket(self) -> socket.socket:
        listening = listening_at(self._setting, self._address)
        return LimitedSocket.of(
            listening, most=MOST_AT_AN_ADDRESS + _ANSWERED_BEYOND, most_of_a_peer=self._most_of_a_peer
        )

    def _remove_socket(self) -> None:
        pass


class _Server(uvicorn.Server):
    """uvicorn without its hands on the process's signals: they are the program's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own for sockets that are given, but that a TLS handshake has its time."""
        config, loop, tls = self.config, asyncio.get_running_loop(), self.config.ssl

        def connection() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]  # uvicorn's
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        self.servers = [
            await loop.create_server(
                connection,
                sock=each,
                ssl=tls,
                backlog=config.backlog,
                ssl_handshake_timeout=IDLE if tls is not None else None,
                ssl_shutdown_timeout=_LAST_ANSWERS if tls is not None else None,
            )
            for each in sockets or ()
        ]
        self.started = True


class _Connection(H11Protocol):
    """One connection, closed when there are too many, or when it does not say what it wants."""

    _silence: asyncio.TimerHandle | None = None

    def most(self) -> int:
        """How many there may be."""
        return MOST_CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self.most():
            transport.write(_TOO_MANY)
            transport.close()
        else:
            self._await_request()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # what a library says of a request is nobody's
        """In the form of every refusal."""
        self.transport.write(_NO_REQUEST)
        self.transport.close()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """A WebSocket may be silent for as long as it likes."""
        if self._silence is not None:
            self._silence.cancel()
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._silence = self.loop.call_later(IDLE, self._close_if_silent)

    def _close_if_silent(self) -> None:
        """Before its first request, or between two; a request that is being answered takes as long as it takes."""
        exchange = getattr(self, "cycle", None)  # uvicorn's annotation says that there always is one
        if exchange is None or exchange.response_complete:
            self.transport.close()


class _WebSocket(WebSocketsSansIOProtocol):
    """One that was refused with an answer is over, and no defect, for which uvicorn takes it."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True


class _AddressConnection(_Connection):
    """Anybody may connect there."""

    def most(self) -> int:
        """How many there may be."""
        return MOST_AT_AN_ADDRESS


class _OwnersConnection(_Connection):
    """It speaks to root and to our own user alone; the socket's mode keeps others out, and this does where it was changed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        try:
            must_be_trusted(transport.get_extra_info("socket"))
        except OSError:
            transport.abort()


def _answer(code: str, refusal: dict[str, Any]) -> bytes:
    body = json.dumps(refusal).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "cache-control": NO_STORE,
        **SECURITY_HEADERS,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {code}\r\n{head}\r\n".encode() + body


_NO_REQUEST = _answer(
    "400 Bad Request",
    {
        "error": "InvalidRequest",
        "sentence": f"This is no HTTP request, or its head is longer than {LONGEST_HEAD // 1024} KiB.",
        "hint": None,
    },
)
_TOO_MANY = _answer(
    "503 Service Unavailable",
    {
        "error": "TooManyConnections",
        "sentence": "As many programs are connected here as are served, and more are not served.",
        "hint": "End some of them.",
    },
)
