"""`/v1/followers`: whom the manager knows, and whom it lets go."""

from __future__ import annotations

from fastapi import APIRouter, Request

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.http_api.description import EXAMPLES
from spreadpilot_core.ibkr.http_api.limits import described, read_body
from spreadpilot_core.ibkr.http_api.models import Removals
from spreadpilot_core.ibkr.http_api.needs import needs
from spreadpilot_core.ibkr.http_api.served import Served
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot

router = APIRouter(tags=["followers"])


@router.post("/followers/reload", dependencies=[needs(Role.OPERATOR)], responses=EXAMPLES["gateways"])
async def reload_followers(served: Served) -> tuple[GatewaySnapshot, ...]:
    """Read the follower store now."""
    await served.manager.reload_followers()
    return served.manager.list_gateways()


@router.get("/followers/missing", dependencies=[needs(Role.VIEWER)], responses=EXAMPLES["followers"])
async def missing_followers(served: Served) -> tuple[str, ...]:
    """Whose records are gone while they have gateways, and nobody has said that they should be."""
    return served.manager.missing_followers()


@router.post(
    "/followers/confirm-removals",
    dependencies=[needs(Role.OPERATOR, leader=True)],
    openapi_extra=described(Removals, {"follower_ids": ["alice"]}),
    responses=EXAMPLES["followers"],
)
async def confirm_removals(request: Request, served: Served) -> tuple[str, ...]:
    """Let them go; answers who is."""
    asked = await read_body(request, Removals)
    return await served.manager.confirm_removals(asked.follower_ids)
