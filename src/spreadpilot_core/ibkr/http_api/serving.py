"""What a started manager serves, by its settings: the control socket, `http_address`, and metrics with probes.

All of it is made off the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from starlette.types import ASGIApp

from spreadpilot_core.ibkr.http_api.app import address_app, control_app
from spreadpilot_core.ibkr.http_api.gates import Auditing, TokenGate
from spreadpilot_core.ibkr.http_api.hardening import KnownHosts
from spreadpilot_core.ibkr.http_api.leader import Leader
from spreadpilot_core.ibkr.http_api.operations import Operations
from spreadpilot_core.ibkr.http_api.probes import Exposed, probes_app
from spreadpilot_core.ibkr.http_api.served import ServedApp
from spreadpilot_core.ibkr.http_api.served_manager import ServedManager
from spreadpilot_core.ibkr.http_api.server import MOST_AT_AN_ADDRESS, AddressServer, ControlServer
from spreadpilot_core.ibkr.http_api.tls import Certificate
from spreadpilot_core.ibkr.model.readiness import Readiness
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.tasks import Tell, untold

A = TypeVar("A", bound=ASGIApp)

MOST_OF_A_PEER = 64
"""Connections of one peer to `http_address`, where the peer is no proxy and not this host itself."""


class ProbedManager(ServedManager, Protocol):
    """What is asked of a `GatewayManager` besides."""

    def readiness(self) -> Readiness:
        """Whether it does its work."""


class Part(Protocol):
    """Something that runs beside the manager."""

    async def start(self) -> None:
        """Begin. Raises `SettingsError` where that can't be done."""

    async def close(self) -> None:
        """End, and leave nothing behind."""


def parts(
    manager: ProbedManager,
    settings: Settings,
    *,
    detach: Callable[[], None],
    exposition: Exposed | None,
    shared: SharedDocuments,
    auditor: Auditing,
    tell: Tell = untold,
) -> Sequence[Part]:
    """Those that the settings ask for, none started; they are closed in the other order.

    Raises:
        SettingsError: the certificate can't be used.
    """
    made: list[Part] = []
    if settings.control_socket or settings.http_address is not None:
        operations, leader = Operations(), Leader(shared, settings, lambda: manager.is_leader)
        made += [operations, leader]
        for_all = ServedApp(
            manager=manager, whole_manager=manager, detach=detach, auditor=auditor, operations=operations, leader=leader
        )
        if settings.control_socket:
            made.append(ControlServer(_warmed(control_app(manager, detach=detach, served=for_all)), settings.state_dir))
        if settings.http_address is not None:
            gate = TokenGate(shared, settings, auditor=auditor, tell=tell)
            made.append(_address_server(replace(for_all, gate=gate), settings.http_address, tell))
    if settings.metrics_address is not None and exposition is not None:
        app = KnownHosts(probes_app(exposition, manager.readiness), allowed=settings.http_allowed_hosts)
        made.append(AddressServer(app, "metrics_address", settings.metrics_address))
    return made


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
