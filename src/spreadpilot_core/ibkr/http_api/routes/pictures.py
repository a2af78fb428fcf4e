"""`/v1/gateways/FOLLOWER/pictures`: what its screen showed last before a gateway was given up, for those who may see the screen."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.http_api.description import EXAMPLES, PNG
from spreadpilot_core.ibkr.http_api.needs import needs
from spreadpilot_core.ibkr.http_api.pictures import picture_answer
from spreadpilot_core.ibkr.http_api.served import Served
from spreadpilot_core.ibkr.model.details import Picture

router = APIRouter(tags=["gateways"])


@router.get(
    "/gateways/{follower_id:path}/pictures", dependencies=[needs(Role.OPERATOR)], responses=EXAMPLES["pictures"]
)
async def list_pictures(served: Served, follower_id: str) -> list[Picture]:
    """The newest first; at most three are kept, on the host of the manager that took them."""
    return list(await served.manager.details.pictures(follower_id))


@router.get(
    "/gateways/{follower_id:path}/pictures/{picture_id}",
    dependencies=[needs(Role.OPERATOR)],
    responses=PNG,
    response_class=Response,
)
async def show_picture(served: Served, follower_id: str, picture_id: str) -> Response:
    """One of them, as PNG; it is written into the audit trail before."""
    return await picture_answer(served, follower_id, picture_id)
