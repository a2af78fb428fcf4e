"""`/v1/session`: a browser signs in with a token, and out again. At `http_address` alone: the control socket asks nobody."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from spreadpilot_core.ibkr.access.callers import Caller, Role
from spreadpilot_core.ibkr.http_api.description import EXAMPLES
from spreadpilot_core.ibkr.http_api.gates import TokenGate
from spreadpilot_core.ibkr.http_api.limits import described, read_body
from spreadpilot_core.ibkr.http_api.models import SessionView, SignIn
from spreadpilot_core.ibkr.http_api.needs import CallerOf, needs
from spreadpilot_core.ibkr.http_api.served import served_app

router = APIRouter(tags=["session"])


def token_gate(request: Request) -> TokenGate:
    """What lets browsers in, at `http_address`."""
    gate = served_app(request).gate
    assert isinstance(gate, TokenGate)
    return gate


@router.post(
    "/session",
    status_code=201,
    dependencies=[needs(None)],
    openapi_extra=described(SignIn, {"token": "gm_…"}, required=True) | {"security": []},
    responses=EXAMPLES["session_begun"],
)
async def sign_in(request: Request, response: Response) -> SessionView:
    """Begin a session: the answer sets its cookie."""
    asked = await read_body(request, SignIn)
    signed_in = await token_gate(request).sign_in(request, asked.token)
    token_gate(request).give_cookie(response, signed_in)
    return session_view(signed_in.caller)


@router.get("/session", dependencies=[needs(Role.VIEWER)], responses=EXAMPLES["session"])
async def show_session(caller: CallerOf) -> SessionView:
    """Who asks, by cookie or token."""
    return session_view(caller)


@router.delete("/session", status_code=204, dependencies=[needs(Role.VIEWER)])
async def sign_out(request: Request, response: Response) -> None:
    """End the session whose cookie is sent."""
    await token_gate(request).sign_out(request, response)


def session_view(caller: Caller) -> SessionView:
    """What is said of a caller."""
    followers = tuple(sorted(caller.followers)) if caller.followers is not None else None
    return SessionView(name=caller.name, role=caller.role, followers=followers, csrf_token=caller.csrf_token)
