"""What a running manager answers on its control socket and at `http_address`: HTTP with JSON.

    GET  /v1/gateways                       every snapshot
    GET  /v1/gateways/FOLLOWER              one
    POST /v1/gateways/FOLLOWER/launch       {"retry_login": true, "live": true} or {"override_account_lock": USER}, or nothing;
                                            answers the snapshot
    POST /v1/gateways/FOLLOWER/stop         answers the snapshot once the gateway is gone
    POST /v1/gateways/FOLLOWER/restart
    POST /v1/gateways/FOLLOWER/reconnect    {"reconnected": true, "gateway": snapshot}
    POST /v1/gateways/FOLLOWER/clients      {"name": "bot"}: leases a client id and says where the gateway is; ?wait=SECONDS ?require=
    PUT  /v1/gateways/FOLLOWER/clients/LEASE  holds it for another while (also POST); ?wait=SECONDS
    DELETE /v1/gateways/FOLLOWER/clients/LEASE  gives it back
    GET  /v1/gateways/FOLLOWER/pictures     what its screen showed last before it was given up; /ID is one of them, as PNG
    GET  /v1/clients                        who holds which client id
    GET  /v1/endpoints/FOLLOWER             where the gateway is, for who brings a client id; ?wait=SECONDS
    POST /v1/followers/reload               reads the follower store now
    GET  /v1/followers/missing              whose records are gone while they have gateways
    POST /v1/followers/confirm-removals     {"follower_ids": ["anna"]}, or nothing for all of them; answers who is let go
    GET  /v1/events                         everything that happens from now on, or after `Last-Event-ID`: one JSON object a line
    GET  /v1/history                        what happened, newest first: ?follower_id= &since= &before= &limit=
    GET  /v1/availability?month=2026-11     how long each gateway was ready; without a month, in this one
    GET  /v1/manager                        who serves here
    GET  /v1/openapi.json                   all of this, for programs
    POST /v1/manager/detach                 end the manager, leave the gateways

A refusal is {"error", "sentence", "hint"} with a status code that says whose turn it is. It calls `GatewayManager` and
decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from spreadpilot_core.ibkr.http_api.description import describe, refusals
from spreadpilot_core.ibkr.http_api.gates import TokenGate
from spreadpilot_core.ibkr.http_api.hardening import KnownHosts, SecurityHeaders
from spreadpilot_core.ibkr.http_api.leader import Leader
from spreadpilot_core.ibkr.http_api.limits import BodyLimit
from spreadpilot_core.ibkr.http_api.needs import must_declare_needs, needs_of
from spreadpilot_core.ibkr.http_api.operations import Operations
from spreadpilot_core.ibkr.http_api.page import routes as page_routes
from spreadpilot_core.ibkr.http_api.page import screen
from spreadpilot_core.ibkr.http_api.page.refusing import refused_page
from spreadpilot_core.ibkr.http_api.page.rendering import Pages
from spreadpilot_core.ibkr.http_api.refusals import refuse_in_one_form
from spreadpilot_core.ibkr.http_api.routes import ADDRESS_ROUTERS, ROUTERS
from spreadpilot_core.ibkr.http_api.routes.manager import VERSION
from spreadpilot_core.ibkr.http_api.served import ServedApp
from spreadpilot_core.ibkr.http_api.served_manager import ProbedManager

PREFIX = "/v1"
"""Of every route: another form of the answers would come beside it."""
_REFUSALS = (400, 404, 408, 409, 413, 422, 500, 503)
_REFUSALS_OF_CALLERS = (401, 403, 421, 429)


def control_app(manager: ProbedManager, *, detach: Callable[[], None], served: ServedApp | None = None) -> FastAPI:
    """The application of the control socket, whose callers may do everything.

    Args:
        manager: is served.
        detach: is called when somebody asks for it, and must return at once.
        served: what its routes may use; made when it is not given.
    """
    served = served or ServedApp(
        manager=manager,
        whole_manager=manager,
        detach=detach,
        operations=Operations(),
        leader=Leader(None, manager.settings, lambda: manager.is_leader),
    )
    return _application(served, ROUTERS, _REFUSALS, cookie=None)


def address_app(served: ServedApp) -> ASGIApp:
    """The application of `http_address`, whose callers show a token or a session, behind what stands before every route."""
    gate = served.gate
    assert isinstance(gate, TokenGate)
    app = _application(served, ADDRESS_ROUTERS, (*_REFUSALS, *_REFUSALS_OF_CALLERS), cookie=gate.cookie)
    for router in (page_routes.router, screen.router):
        must_declare_needs(router)
        app.include_router(router)
    app.state.pages = Pages()
    refuse_in_one_form(app, refused_page)
    allowed = served.whole_manager.settings.http_allowed_hosts
    return SecurityHeaders(KnownHosts(app, allowed=allowed))  # outermost: also an answer about a defect has the headers


def _application(
    served: ServedApp, routers: tuple[APIRouter, ...], codes: tuple[int, ...], *, cookie: str | None
) -> FastAPI:
    app = FastAPI(
        title="SpreadPilot Gateway Manager",
        version=VERSION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # with the scheme of our side of a proxy a token would go on in the clear
    )
    app.add_middleware(BodyLimit)
    app.state.served = served
    for router in routers:
        must_declare_needs(router)
        app.include_router(router, prefix=PREFIX, responses=refusals(*codes))
    roles = {
        (method.lower(), f"{PREFIX}{route.path_format}"): declared.role
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and (declared := needs_of(route)) is not None
        for method in route.methods or ()
    }
    describe(app, roles, cookie=cookie)
    refuse_in_one_form(app)
    return app
