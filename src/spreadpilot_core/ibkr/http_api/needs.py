"""What a route needs of who asks; a route that does not say so keeps the application from being made.

    @router.post("/gateways/{follower_id:path}/stop", dependencies=[needs(Role.OPERATOR, leader=True)])
    async def stop_gateway(served: Served, caller: CallerOf, ...)

The check runs before anything else of the route: before its body is read and its parameters are judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

from spreadpilot_core.ibkr.access.callers import Caller, ForbiddenError, NotSignedInError, Role
from spreadpilot_core.ibkr.audit.auditor import OPERATOR
from spreadpilot_core.ibkr.http_api.gates import SAFE_METHODS
from spreadpilot_core.ibkr.http_api.leader import NotLeaderError
from spreadpilot_core.ibkr.http_api.served import served_app

_MARK = "route_needs"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a route declares."""

    role: Role | None
    """At least this one; None: anybody, also who has not signed in."""
    leader: bool = False
    """It acts on gateways, so a manager that stands by refuses it."""
    audited: bool = True
    """A request that changes something is written into the audit trail before it is obeyed."""


def needs(role: Role | None, *, leader: bool = False, audited: bool = True) -> Any:
    """The dependency by which a route says what it needs, as in `Needs`."""
    declared = Needs(role, leader=leader, audited=audited)

    async def check(connection: HTTPConnection) -> None:
        if declared.role is None:
            return
        served = served_app(connection)
        caller = await served.gate.identify(connection)
        connection.state.caller = caller
        OPERATOR.set(caller.actor)
        if not caller.role.covers(declared.role):
            raise ForbiddenError(caller.role, declared.role)
        if declared.leader and not served.whole_manager.is_leader:
            raise NotLeaderError(await served.leader.find(), served.whole_manager.readiness().reason)
        if declared.audited and served.gate.audits_requests and not _is_safe(connection):
            await served.auditor.write("request", _facts(connection))

    setattr(check, _MARK, declared)
    return Depends(check)


def _is_safe(connection: HTTPConnection) -> bool:
    return connection.scope["type"] == "http" and connection.scope["method"] in SAFE_METHODS


def _facts(connection: HTTPConnection) -> dict[str, str | None]:
    method = connection.scope.get("method", "WebSocket")
    follower = connection.path_params.get("follower_id", connection.query_params.get("follower"))
    return {"follower": follower, "detail": f"{method} {connection.url.path}"}


async def must_still_be_let_in(connection: HTTPConnection) -> None:
    """For who has waited for long: a token may have been revoked meanwhile. Raises `NotSignedInError`."""
    if not await served_app(connection).gate.still_lets_in(caller_of(connection)):
        raise NotSignedInError("The token has been revoked, or has expired, since the request was made.")


def caller_of(connection: HTTPConnection) -> Caller:
    """Who asks, on a route that needs a role."""
    caller = connection.state.caller
    assert isinstance(caller, Caller)
    return caller


CallerOf = Annotated[Caller, Depends(caller_of)]
"""What a route's function takes to know who asks."""


def needs_of(route: BaseRoute) -> Needs | None:
    """What a route declares; None: nothing."""
    if not isinstance(route, APIRoute | APIWebSocketRoute):
        return None
    return next((each for each in map(_declared, route.dependant.dependencies) if each is not None), None)


def _declared(dependant: Dependant) -> Needs | None:
    call: Callable[..., Any] | None = dependant.call
    found = getattr(call, _MARK, None)
    return found if isinstance(found, Needs) else None


def must_declare_needs(router: APIRouter) -> None:
    """Raise `RuntimeError` for a route that does not say who may use it."""
    silent = [getattr(route, "path", repr(route)) for route in router.routes if needs_of(route) is None]
    if silent:
        msg = f"these routes don't say what they need of who asks: {', '.join(silent)}"
        raise RuntimeError(msg)
