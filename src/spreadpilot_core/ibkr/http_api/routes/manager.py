"""`/v1/manager`: who serves here, and its end."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.http_api.description import EXAMPLES, accepted
from spreadpilot_core.ibkr.http_api.models import Accepted, Detached, ManagerView
from spreadpilot_core.ibkr.http_api.needs import CallerOf, needs
from spreadpilot_core.ibkr.http_api.operations import DEFAULT_WAIT, Wait
from spreadpilot_core.ibkr.http_api.routes.operations import answer
from spreadpilot_core.ibkr.http_api.served import Served, ServedApp

VERSION = version("spreadpilot-gateway-manager")
"""Read at import: it is in a file."""

router = APIRouter(tags=["manager"])


@router.get("/manager", dependencies=[needs(Role.VIEWER)], responses=EXAMPLES["manager"])
async def show_manager(served: Served) -> ManagerView:
    """Who serves here."""
    return await _view(served)


async def _view(served: ServedApp) -> ManagerView:
    settings = served.manager.settings
    return ManagerView(
        pid=os.getpid(),
        version=VERSION,
        state_dir=str(settings.state_dir),
        store=settings.store,
        followers=settings.followers,
        runtime=settings.runtime_url,
        notices=served.manager.list_notices(),
        identity=served.manager.identity,
        adopted=served.manager.adopted_identities,
        leader=served.manager.is_leader,
        leader_address=await served.leader.find(),
        left_alone=served.manager.left_alone(),
    )


@router.post(
    "/manager/detach",
    status_code=202,
    dependencies=[needs(Role.OPERATOR)],
    responses=accepted(EXAMPLES["detached"][202]["content"]["application/json"]["example"]),
    response_model=Detached | Accepted,
)
async def detach(request: Request, served: Served, caller: CallerOf, wait: Wait = DEFAULT_WAIT) -> Any:
    """End the manager and leave the gateways; done when no login is waited for any more, and before it ends."""

    async def leave() -> Detached:
        left = await served.manager.leave_logins()
        view = await _view(served)
        served.detach()
        return Detached(**view.model_dump(), left=left)

    return await answer(request, served, served.operations.begin(caller, None, leave()), wait)
