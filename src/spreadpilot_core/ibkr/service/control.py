"""What a running manager answers over its control socket: HTTP with JSON, for the commands and for other programs.

    GET  /gateways                       every snapshot
    GET  /gateways/FOLLOWER              one
    POST /gateways/FOLLOWER/launch       {"retry_login": true}, or nothing; answers the snapshot
    POST /gateways/FOLLOWER/stop         answers the snapshot once the gateway is gone
    POST /gateways/FOLLOWER/restart
    POST /gateways/FOLLOWER/reconnect    {"reconnected": true, "gateway": snapshot}
    POST /followers/reload               reads the follower store now
    GET  /events                         everything that happens from now on, one JSON object a line
    GET  /manager                        who serves here
    POST /manager/detach                 end the manager, leave the gateways

A refusal is {"error", "sentence", "hint"} with a status code that says whose turn it is. It calls `GatewayManager` and
decides nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated
from urllib.parse import unquote

import structlog
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, StrictBool
from starlette.exceptions import HTTPException

from spreadpilot_core.ibkr.auditing import OPERATOR
from spreadpilot_core.ibkr.errors import (
    GatewayManagerError,
    LaunchError,
    LoginRefusedError,
    NotStartedError,
    SettingsError,
    UnavailableError,
    UnknownFollowerError,
)
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.snapshots import GatewaySnapshot

log = structlog.get_logger(__name__)

_VERSION = version("spreadpilot-gateway-manager")
"""Read at import: it is in a file."""

_CODES: tuple[tuple[type[GatewayManagerError], int], ...] = (
    (UnknownFollowerError, 404),
    (LoginRefusedError, 409),
    (LaunchError, 409),
    (SettingsError, 400),
    (NotStartedError, 503),
    (UnavailableError, 503),
    (GatewayManagerError, 500),
)
"""The first that fits: 4xx is the caller's turn, 503 may pass by itself."""


class Refusal(BaseModel):
    """Every answer that is no success."""

    error: str
    """The error's class name."""
    sentence: str
    hint: str | None = None


class Launch(BaseModel):
    """What may be said with a launch."""

    model_config = ConfigDict(extra="forbid")

    retry_login: StrictBool = False  # an override is said plainly, not by a word that looks like yes
    """Take one more login after a rejection or a spent budget."""


class Reconnected(BaseModel):
    """How a reconnect ended."""

    reconnected: bool
    gateway: GatewaySnapshot


class ManagerView(BaseModel):
    """Who serves here."""

    pid: int
    version: str
    state_dir: str
    store: str
    runtime: str


@dataclass(frozen=True, slots=True)
class _Served:
    manager: GatewayManager
    detach: Callable[[], None]


def _served(request: Request) -> _Served:
    served = request.app.state.served
    assert isinstance(served, _Served)
    return served


Served = Annotated[_Served, Depends(_served)]


async def _know_operator(operator: Annotated[str | None, Header()] = None) -> None:
    """Who asks, as the command says it: for the audit trail. Whoever may open the socket may say anything."""
    said = "".join(filter(str.isprintable, unquote(operator)))[:200] if operator else "somebody"
    OPERATOR.set(f"{said}, through the control socket")


router = APIRouter(
    responses={code: {"model": Refusal} for code in (400, 404, 409, 422, 500, 503)},
    dependencies=[Depends(_know_operator)],
)


def control_app(manager: GatewayManager, *, detach: Callable[[], None]) -> FastAPI:
    """The application that serves `manager`; `detach` is called when somebody asks for it and must return at once."""
    app = FastAPI(title="SpreadPilot Gateway Manager", docs_url=None, redoc_url=None)
    app.state.served = _Served(manager, detach)
    app.include_router(router)
    app.add_exception_handler(GatewayManagerError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(HTTPException, _refuse_unknown)
    app.add_exception_handler(Exception, _tell_defect)
    return app


@router.get("/gateways")
async def list_gateways(served: Served) -> tuple[GatewaySnapshot, ...]:
    """Every snapshot, by follower id."""
    return served.manager.list_gateways()


@router.get("/events")
async def follow_events(served: Served) -> StreamingResponse:
    """Everything that happens from now on."""
    return StreamingResponse(_event_lines(served.manager), media_type="application/x-ndjson")


@router.get("/manager")
async def show_manager(served: Served) -> ManagerView:
    """Who serves here."""
    settings = served.manager.settings
    return ManagerView(
        pid=os.getpid(),
        version=_VERSION,
        state_dir=str(settings.state_dir),
        store=settings.store,
        runtime=settings.runtime_url,
    )


@router.post("/manager/detach", status_code=202)
async def detach(served: Served) -> ManagerView:
    """End the manager and leave the gateways; it answers before it ends."""
    served.detach()
    return await show_manager(served)


@router.post("/followers/reload")
async def reload_followers(served: Served) -> tuple[GatewaySnapshot, ...]:
    """Read the follower store now."""
    await served.manager.reload_followers()
    return served.manager.list_gateways()


@router.post("/gateways/{follower_id:path}/launch")
async def launch_gateway(served: Served, follower_id: str, asked: Launch | None = None) -> GatewaySnapshot:
    """Start the gateway; answers when its process runs or its login is queued."""
    await served.manager.launch_gateway(follower_id, retry_login=asked is not None and asked.retry_login)
    return _snapshot(served.manager, follower_id)


@router.post("/gateways/{follower_id:path}/stop")
async def stop_gateway(served: Served, follower_id: str) -> GatewaySnapshot:
    """Stop the gateway; answers when it is gone."""
    await served.manager.stop_gateway(follower_id)
    return _snapshot(served.manager, follower_id)


@router.post("/gateways/{follower_id:path}/restart")
async def restart_gateway(served: Served, follower_id: str) -> GatewaySnapshot:
    """Stop the gateway and start it with the newest spec and secret."""
    await served.manager.restart_gateway(follower_id)
    return _snapshot(served.manager, follower_id)


@router.post("/gateways/{follower_id:path}/reconnect")
async def reconnect(served: Served, follower_id: str) -> Reconnected:
    """Replace the client connection."""
    reconnected = await served.manager.reconnect(follower_id)
    return Reconnected(reconnected=reconnected, gateway=_snapshot(served.manager, follower_id))


@router.get("/gateways/{follower_id:path}")
async def show_gateway(served: Served, follower_id: str) -> GatewaySnapshot:
    """One snapshot."""
    return _snapshot(served.manager, follower_id)


def _snapshot(manager: GatewayManager, follower_id: str) -> GatewaySnapshot:
    gateways = manager.list_gateways()
    for snapshot in gateways:
        if snapshot.follower_id == follower_id:
            return snapshot
    raise UnknownFollowerError(follower_id, len(gateways))


async def _event_lines(manager: GatewayManager) -> AsyncIterator[bytes]:
    async for event in manager.events():
        yield json.dumps(event.as_dict(), default=str).encode() + b"\n"


# ---------------------------------------------------------------------------------------------- refusals


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GatewayManagerError)
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    return _refusal(code, type(error).__name__, error.what, error.hint)


async def _refuse_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return _refusal(422, "InvalidRequest", f"The request can't be understood: {faults}.")


async def _refuse_unknown(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentence = f"{request.method} {request.url.path}: {error.detail}."
    return _refusal(error.status_code, "HTTPException", sentence)


async def _tell_defect(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    return _refusal(500, "InternalError", "The manager failed at this by a defect of its own.", "Its log says more.")


def _refusal(code: int, error: str, sentence: str, hint: str | None = None) -> JSONResponse:
    return JSONResponse(Refusal(error=error, sentence=sentence, hint=hint).model_dump(), status_code=code)
