"""How a request is refused: one form for whatever went wrong, under a code that says whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketState

from spreadpilot_core.ibkr.access.callers import Caller, RefusedCallerError
from spreadpilot_core.ibkr.errors import (
    ClientLeaseLostError,
    ClientOutOfReachError,
    GatewayDownError,
    GatewayManagerError,
    LaunchError,
    LoginRefusedError,
    NotStartedError,
    ScreenError,
    SettingsError,
    UnavailableError,
    UnknownFollowerError,
    WrongTradingModeError,
)
from spreadpilot_core.ibkr.http_api.leader import NotLeaderError
from spreadpilot_core.ibkr.http_api.models import NotLeaderRefusal, Refusal
from spreadpilot_core.ibkr.http_api.pictures import UnknownPictureError
from spreadpilot_core.ibkr.http_api.served import served_app
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_CODES: tuple[tuple[type[GatewayManagerError], int], ...] = (
    (UnknownFollowerError, 404),
    (LoginRefusedError, 409),
    (LaunchError, 409),
    (WrongTradingModeError, 409),
    (GatewayDownError, 409),
    (ClientOutOfReachError, 409),
    (ClientLeaseLostError, 409),
    (ScreenError, 409),
    (UnknownPictureError, 404),
    (SettingsError, 400),
    (NotStartedError, 503),
    (UnavailableError, 503),
    (GatewayManagerError, 500),
)
"""The first that fits: 4xx is the caller's turn, 503 may pass by itself."""
_UNKNOWN: Mapping[int, tuple[str, str | None]] = {
    404: ("UnknownRoute", "`GET /v1/openapi.json` describes every route."),
    405: ("MethodNotAllowed", "`GET /v1/openapi.json` describes every route."),
    408: ("BodyTooSlow", None),
    413: ("BodyTooLong", None),
}
"""What is wrong with a request that reached no route of ours, by its code: its name, and what helps."""


Shown = Callable[[HTTPConnection, int, Refusal, Mapping[str, str]], Response | None]
"""A refusal in another form, for whoever wants one; None: as JSON."""


def refuse_in_one_form(app: FastAPI, shown: Shown | None = None) -> None:
    """From now on every refusal of this application is a `Refusal`, or a page that says the same."""
    app.state.refusal_shown = shown
    app.add_exception_handler(GatewayManagerError, _refuse_either)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(HTTPException, _refuse_unknown)
    app.add_exception_handler(Exception, _tell_defect)


async def _refuse_either(connection: Any, error: Exception) -> Any:
    """A request, or a WebSocket that was not accepted yet."""
    answer = await _refuse(connection, error)
    if not isinstance(connection, WebSocket):
        return answer
    if connection.client_state is WebSocketState.CONNECTING:
        await connection.send_denial_response(answer)
    return None


async def _refuse(request: HTTPConnection, error: Exception) -> Response:
    assert isinstance(error, GatewayManagerError)
    sentence, hint = _words(request, error)
    if isinstance(error, NotLeaderError):
        refusal = NotLeaderRefusal(error=ReasonCode.NOT_LEADER.value, sentence=sentence, hint=hint, leader=error.leader)
        return _answer(request, error.code, refusal, error.headers)
    refusal_ = Refusal(error=type(error).__name__, sentence=sentence, hint=hint)
    if isinstance(error, RefusedCallerError):
        return _answer(request, error.code, refusal_, error.headers)
    return _answer(request, next(code for kind, code in _CODES if isinstance(error, kind)), refusal_)


def _words(request: HTTPConnection, error: GatewayManagerError) -> tuple[str, str | None]:
    """What it says to this caller."""
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Caller) or caller.followers is None:
        return error.what, error.hint
    return served_app(request).redaction(caller.followers).error(error)


async def _refuse_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return _answer(
        request, 422, Refusal(error="InvalidRequest", sentence=f"The request can't be understood: {faults}.")
    )


async def _refuse_unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    name, hint = _UNKNOWN.get(error.status_code, ("InvalidRequest", None))
    sentence = f"{request.method} {request.url.path}: {error.detail}."
    return _answer(request, error.status_code, Refusal(error=name, sentence=sentence, hint=hint), error.headers)


async def _tell_defect(request: Request, error: Exception) -> Response:
    log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    sentence, hint = "The manager failed at this by a defect of its own.", "Its log says more."
    return _answer(request, 500, Refusal(error="InternalError", sentence=sentence, hint=hint))


def _answer(request: HTTPConnection, code: int, refusal: Refusal, headers: Mapping[str, str] | None = None) -> Response:
    shown: Shown | None = request.app.state.refusal_shown
    page = shown(request, code, refusal, headers or {}) if shown is not None else None
    return page or JSONResponse(refusal.model_dump(mode="json"), status_code=code, headers=dict(headers or {}))
