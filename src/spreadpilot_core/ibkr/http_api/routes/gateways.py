"""`/v1/gateways`: how each gateway is, and what is done with one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.errors import UnknownFollowerError
from spreadpilot_core.ibkr.http_api.description import EXAMPLES, accepted
from spreadpilot_core.ibkr.http_api.limits import described, read_body
from spreadpilot_core.ibkr.http_api.models import Launch, Reconnected
from spreadpilot_core.ibkr.http_api.needs import CallerOf, needs
from spreadpilot_core.ibkr.http_api.operations import DEFAULT_WAIT, Wait
from spreadpilot_core.ibkr.http_api.pages import Page
from spreadpilot_core.ibkr.http_api.routes.operations import answer
from spreadpilot_core.ibkr.http_api.served import Served
from spreadpilot_core.ibkr.http_api.served_manager import ServedManager
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.system.clock import utc_now

router = APIRouter(tags=["gateways"])
last = APIRouter(tags=["gateways"])
"""Its paths match what others begin with, so it is included after every other router."""


@router.get("/gateways", dependencies=[needs(Role.VIEWER)], responses=EXAMPLES["gateways"])
async def list_gateways(served: Served, page: Page) -> tuple[GatewaySnapshot, ...]:
    """Every snapshot, by follower id; where `limit` leaves some out, the header `Link` names the next page."""
    return page.of(served.manager.list_gateways())


@router.post(
    "/gateways/{follower_id:path}/launch",
    dependencies=[needs(Role.OPERATOR, leader=True)],
    openapi_extra=described(Launch, {"retry_login": True}),
    responses=EXAMPLES["gateway"] | accepted(),
    response_model=GatewaySnapshot,
)
async def launch_gateway(
    request: Request, served: Served, caller: CallerOf, follower_id: str, wait: Wait = DEFAULT_WAIT
) -> Any:
    """Start the gateway; done when its process runs or its login is queued."""
    asked = await read_body(request, Launch)

    async def launch() -> GatewaySnapshot:
        await served.manager.launch_gateway(follower_id, **asked.model_dump())
        return served.manager.get_gateway(follower_id)

    return await answer(request, served, served.operations.begin(caller, follower_id, launch()), wait)


@router.post(
    "/gateways/{follower_id:path}/stop",
    dependencies=[needs(Role.OPERATOR, leader=True)],
    responses=EXAMPLES["gateway"] | accepted(),
    response_model=GatewaySnapshot,
)
async def stop_gateway(
    request: Request, served: Served, caller: CallerOf, follower_id: str, wait: Wait = DEFAULT_WAIT
) -> Any:
    """Stop the gateway; done when it is gone."""
    manager = served.manager
    stop = _then_shown(manager, follower_id, manager.stop_gateway)
    return await answer(request, served, served.operations.begin(caller, follower_id, stop), wait)


@router.post(
    "/gateways/{follower_id:path}/restart",
    dependencies=[needs(Role.OPERATOR, leader=True)],
    responses=EXAMPLES["gateway"] | accepted(),
    response_model=GatewaySnapshot,
)
async def restart_gateway(
    request: Request, served: Served, caller: CallerOf, follower_id: str, wait: Wait = DEFAULT_WAIT
) -> Any:
    """Stop the gateway and start it with the newest spec and secret; done as a launch is."""
    manager = served.manager
    restart = _then_shown(manager, follower_id, manager.restart_gateway)
    return await answer(request, served, served.operations.begin(caller, follower_id, restart), wait)


@router.post(
    "/gateways/{follower_id:path}/reconnect",
    dependencies=[needs(Role.TRADER, leader=True)],
    responses=EXAMPLES["reconnected"] | accepted(),
    response_model=Reconnected,
)
async def reconnect(
    request: Request, served: Served, caller: CallerOf, follower_id: str, wait: Wait = DEFAULT_WAIT
) -> Any:
    """Replace the client connection."""

    async def replace() -> Reconnected:
        reconnected = await served.manager.reconnect(follower_id)
        return Reconnected(reconnected=reconnected, gateway=served.manager.get_gateway(follower_id))

    return await answer(request, served, served.operations.begin(caller, follower_id, replace()), wait)


@last.get("/gateways/{follower_id:path}", dependencies=[needs(Role.VIEWER)], responses=EXAMPLES["gateway"])
async def show_gateway(served: Served, follower_id: str) -> GatewaySnapshot:
    """One snapshot."""
    return served.manager.get_gateway(follower_id)


async def _then_shown(
    manager: ServedManager, follower_id: str, act: Callable[[str], Awaitable[None]]
) -> GatewaySnapshot:
    before = manager.get_gateway(follower_id)
    await act(follower_id)
    try:
        return manager.get_gateway(follower_id)
    except UnknownFollowerError:  # its record is gone, and since the act its gateway, too
        gone = {"status": State.DISABLED.status, "state": State.DISABLED, "endpoint": None, "container": None}
        why = {"reason": "Its record is gone, and so is its gateway.", "reason_code": ReasonCode.NOT_ENABLED}
        then = {"next_action": "It starts when its record is back, and an operator launches it.", "notices": ()}
        return before.model_copy(
            update={**gone, **why, **then, "since": utc_now(), "severity": Severity.INFO, "facts": {}}
        )
