"""What `/v1/openapi.json` says beyond what the routes' functions say: examples, refusals, and who may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.http_api.models import Accepted, NotLeaderRefusal, Refusal

_GATEWAY: dict[str, Any] = {
    "follower_id": "alice",
    "status": "RUNNING",
    "state": "ready",
    "reason": None,
    "reason_code": None,
    "severity": "info",
    "facts": {},
    "since": "2026-11-24T09:30:00Z",
    "next_action": None,
    "endpoint": "127.0.0.1:4100",
    "client_id": 1000,
    "accounts": ["DU1000001"],
    "trading_mode": "paper",
    "container": "ibgateway-follower-alice",
    "container_health": None,
    "image": "ghcr.io/gnzsnz/ib-gateway:latest",
    "outdated": False,
    "credentials": {"source": "vault", "version": "3", "date": "2026-11-01"},
    "notices": [],
    "last_heartbeat": "2026-11-24T14:00:05Z",
    "round_trip_ms": 2.1,
    "vnc": None,
}
_MANAGER: dict[str, Any] = {
    "pid": 4242,
    "version": "0.1.0",
    "state_dir": "/var/lib/gateway-manager",
    "store": "mongodb:",
    "followers": "mongodb:",
    "runtime": "docker:",
    "notices": [],
    "identity": "3f9c1d7a",
    "adopted": [],
    "leader": True,
    "leader_address": {
        "host": "trading-1",
        "pid": 4242,
        "socket": "/var/lib/gateway-manager/control.sock",
        "url": "https://trading-1:8443",
    },
    "left_alone": [],
}
_SHARE = {"ready": 86390.0, "degraded": 0.0, "down": 10.0, "available": 0.9999}
_EVENT: dict[str, Any] = {
    "name": "GatewayReady",
    "id": 1795599005001,
    "at": "2026-11-24T09:30:05+00:00",
    "follower_id": "alice",
    "severity": "info",
    "reason_code": None,
    "sentence": "alice is ready.",
    "trace_id": None,
    "span_id": None,
    "endpoint": "127.0.0.1:4100",
    "client_id": 1000,
    "accounts": ["DU1000001"],
}
_HISTORY: dict[str, Any] = {
    "entries": [
        {
            "id": "1795599005001-3f9c",
            "at": "2026-11-24T09:30:05Z",
            "follower_id": "alice",
            "name": "GatewayReady",
            "severity": "info",
            "reason_code": None,
            "sentence": "alice is ready.",
        }
    ],
    "older": None,
}
_ENDPOINT: dict[str, Any] = {
    "follower_id": "alice",
    "ready": True,
    "is_down": False,
    "reason": None,
    "reason_code": None,
    "host": "127.0.0.1",
    "port": 4100,
    "account": "DU1000001",
    "accounts": ["DU1000001"],
    "trading_mode": "paper",
    "read_only": False,
    "serial": "9f31c2a4b7d0",
}
_CLIENT = {
    **_ENDPOINT,
    "lease": "10000-5f0c9a",
    "client_id": 10000,
    "expires": "2026-11-24T14:01:05Z",
    "renew_every": 20.0,
}
_SESSION: dict[str, Any] = {"name": "desk-bot", "role": "trader", "followers": ["alice"], "csrf_token": None}
Responses = dict[int | str, dict[str, Any]]


def _example(example: Any, code: int = 200) -> Responses:
    return {code: {"content": {"application/json": {"example": example}}}}


EXAMPLES: Mapping[str, Responses] = {
    "gateways": _example([_GATEWAY]),
    "gateway": _example(_GATEWAY),
    "reconnected": _example({"reconnected": True, "gateway": _GATEWAY}),
    "followers": _example(["alice"]),
    "history": _example(_HISTORY),
    "availability": _example(
        [
            {
                "follower_id": "alice",
                "month": "2026-11",
                **dict.fromkeys(("total", "outside_reset", "exchange_hours"), _SHARE),
            }
        ]
    ),
    "manager": _example(_MANAGER),
    "detached": _example({**_MANAGER, "left": []}, 202),
    "client": _example(_CLIENT),
    "endpoint": _example(_ENDPOINT),
    "clients": _example([{"follower_id": "alice", "client_id": 10000, "name": "my-bot"}]),
    "pictures": _example([{"id": "20261124T093512004211", "at": "2026-11-24T09:35:12.004211Z", "size": 20480}]),
    "given_back": _example({"given_back": True}),
    "session": _example(_SESSION),
    "session_begun": _example({**_SESSION, "csrf_token": "yV5mRk0"}, 201),
}
"""Of each kind of answer."""
EVENTS: Responses = {
    200: {
        "description": "One JSON object a line, or a server-sent event.",
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}, "example": f"{_EVENT}\n".replace("'", '"')},
            "text/event-stream": {"schema": {"type": "string"}, "example": "id: 1795599005001\nevent: GatewayReady\n"},
        },
    }
}

PNG: Responses = {
    200: {
        "description": "A picture.",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}, "example": "(its bytes)"}},
    }
}


def accepted(example: Any | None = None) -> Responses:
    """What is answered while it goes on."""
    begun = {"operation": "q5lX0vJmQyWc3n1d", "gateway": {**_GATEWAY, "state": "starting", "status": "STARTING"}}
    where = {"Location": {"description": "Where its answer is fetched.", "schema": {"type": "string"}}}
    answer: dict[str, Any] = {"content": {"application/json": {"example": example or begun}}}
    if example is None:
        answer |= {"model": Accepted, "description": "It goes on.", "headers": where}
    return {202: answer}


def refusals(*codes: int) -> Responses:
    """What each route may answer instead."""
    return {code: {"model": NotLeaderRefusal | Refusal if code == 503 else Refusal} for code in codes}  # noqa: PLR2004


_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token that `gateway-manager tokens add` has made.",
}


def describe(app: FastAPI, roles: Mapping[tuple[str, str], Role | None], *, cookie: str | None) -> None:
    """Have the application describe itself.

    Args:
        app: has all its routes.
        roles: what each route needs, by method and path.
        cookie: the name of a session's cookie; None: it asks nobody who they are.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app, roles, cookie)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way


def _described(app: FastAPI, roles: Mapping[tuple[str, str], Role | None], cookie: str | None) -> dict[str, Any]:
    described = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
    for (method, path), role in roles.items():
        if (operation := described["paths"].get(path, {}).get(method)) is not None:
            operation["x-role"] = role.value if role is not None else None
    if cookie is not None:
        session = {"type": "apiKey", "in": "cookie", "name": cookie, "description": "What POST /v1/session sets."}
        described["components"]["securitySchemes"] = {"token": _BEARER, "session": session}
        described["security"] = [{"token": []}, {"session": []}]
    return described
