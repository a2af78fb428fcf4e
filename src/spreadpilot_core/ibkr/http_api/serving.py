"""What serves a started manager, loaded and made off the event loop: its control socket, `http_address`, and metrics with probes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from starlette.types import ASGIApp

from spreadpilot_core.ibkr.http_api.app import address_app, control_app
from spreadpilot_core.ibkr.http_api.gates import Auditing, TokenGate
from spreadpilot_core.ibkr.http_api.hardening import KnownHosts
from spreadpilot_core.ibkr.http_api.leader import Leader
from spreadpilot_core.ibkr.http_api.on_demand import Part
from spreadpilot_core.ibkr.http_api.operations import Operations
from spreadpilot_core.ibkr.http_api.probes import Exposed, probes_app
from spreadpilot_core.ibkr.http_api.served import ServedApp
from spreadpilot_core.ibkr.http_api.served_manager import ProbedManager
from spreadpilot_core.ibkr.http_api.server import MOST_AT_AN_ADDRESS, AddressServer, ControlServer
from spreadpilot_core.ibkr.http_api.tls import Certificate
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.tasks import Tell, untold

A = TypeVar("A", bound=ASGIApp)

MOST_OF_A_PEER = 64
"""Connections of one peer to `http_address`, where the peer is no proxy and not this host itself."""


def all_parts(
    manager: ProbedManager,
    *,
    detach: Callable[[], None],
    exposition: Exposed | None,
    shared: SharedDocuments,
    auditor: Auditing,
    tell: Tell = untold,
) -> Sequence[Part]:
    """Those that the settings ask for, none started.

    Raises:
        SettingsError: the certificate can't be used.
    """
    settings = manager.settings
    made: list[Part] = []
    if settings.control_socket or settings.http_address is not None:
        leader = Leader(shared, settings, lambda: manager.is_leader)
        for_all = _for_all(manager, detach=detach, leader=leader, auditor=auditor)
        made += [for_all.operations, leader]
        if settings.control_socket:
            made.append(_control_server(for_all))
        if settings.http_address is not None:
            gate = TokenGate(shared, settings, auditor=auditor, tell=tell)
            made.append(_address_server(replace(for_all, gate=gate), settings.http_address, tell))
    if settings.metrics_address is not None and exposition is not None:
        app = KnownHosts(probes_app(exposition, manager.readiness), allowed=settings.http_allowed_hosts)
        made.append(AddressServer(app, "metrics_address", settings.metrics_address))
    return made


def control_parts(
    manager: ProbedManager,
    listening: socket.socket,
    *,
    detach: Callable[[], None],
    leader: Leader,
    auditor: Auditing,
) -> Sequence[Part]:
    """What serves a control socket that listens already, none started."""
    for_all = _for_all(manager, detach=detach, leader=leader, auditor=auditor)
    return for_all.operations, _control_server(for_all, listening)


def _for_all(manager: ProbedManager, *, detach: Callable[[], None], leader: Leader, auditor: Auditing) -> ServedApp:
    operations = Operations()
    return ServedApp(
        manager=manager, whole_manager=manager, detach=detach, auditor=auditor, operations=operations, leader=leader
    )


def _control_server(served: ServedApp, listening: socket.socket | None = None) -> ControlServer:
    app = control_app(served.whole_manager, detach=served.detach, served=served)
    return ControlServer(_warmed(app), served.manager.settings.state_dir, listening)


def _address_server(served: ServedApp, address: str, tell: Tell) -> AddressServer:
    settings = served.whole_manager.settings
    certificate = None
    if settings.http_cert_file is not None and settings.http_key_file is not None:
        certificate = Certificate(settings.http_cert_file, settings.http_key_file, tell=tell)
    is_shared = settings.http_behind_proxy or certificate is None
    most = MOST_AT_AN_ADDRESS if is_shared else MOST_OF_A_PEER
    return AddressServer(
        _warmed(address_app(served)),
        "http_address",
        address,
        certificate=certificate,
        most_of_a_peer=most,
        websockets=True,  # gateways' screens
    )


def _warmed(app: A) -> A:
    """The application, after a request that finds nothing.

    FastAPI makes what each route needs with the first request that is compared with it: hundreds of milliseconds, which the
    manager's loop would stand still for somebody's first page.
    """
    asyncio.run(_find_nothing(app))
    return app


async def _find_nothing(app: ASGIApp) -> None:
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/v1/nothing",
        "raw_path": b"/v1/nothing",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": None,
        "server": None,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: object) -> None:
        return

    await app(scope, receive, send)
