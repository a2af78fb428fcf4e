"""`/v1/operations`: how what was begun has ended."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.http_api.description import EXAMPLES, accepted
from spreadpilot_core.ibkr.http_api.models import Accepted, Detached, Reconnected
from spreadpilot_core.ibkr.http_api.needs import CallerOf, must_still_be_let_in, needs
from spreadpilot_core.ibkr.http_api.operations import DEFAULT_WAIT, Operation, Wait
from spreadpilot_core.ibkr.http_api.served import Served, ServedApp
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot

router = APIRouter(tags=["operations"])
PATH = "/v1/operations"


async def answer(request: Request, served: ServedApp, operation: Operation, wait: float) -> Any:
    """What became of it, if it ends within so many seconds; else 202, how it stands, and where to ask again.

    Raises:
        GatewayManagerError: it was refused, or failed, or the caller may not know any more.
    """
    if await operation.has_ended(within=wait):
        await must_still_be_let_in(request)
        return operation.task.result()
    gateway = _snapshot(served, operation.follower_id)
    accepted_ = Accepted(operation=operation.id, gateway=gateway)
    return JSONResponse(
        jsonable_encoder(accepted_), status_code=202, headers={"Location": f"{PATH}/{quote(operation.id)}"}
    )


def _snapshot(served: ServedApp, follower_id: str | None) -> GatewaySnapshot | None:
    try:
        return served.manager.get_gateway(follower_id) if follower_id is not None else None
    except GatewayManagerError:  # its record was removed meanwhile
        return None


@router.get(
    "/operations/{operation_id}",
    dependencies=[needs(Role.VIEWER)],
    responses=EXAMPLES["gateway"] | accepted(),
    response_model=GatewaySnapshot | Reconnected | Detached,
)
async def show_operation(
    request: Request, served: Served, caller: CallerOf, operation_id: str, wait: Wait = DEFAULT_WAIT
) -> Any:
    """The answer of the request that began it, as soon as there is one; only who began it and operators find it."""
    return await answer(request, served, served.operations.find(operation_id, caller), wait)
