"""`/v1/gateways/FOLLOWER/clients`: clients in other programs, each with a client id of its own for as long as it renews it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.http_api.description import EXAMPLES
from spreadpilot_core.ibkr.http_api.limits import described, read_body
from spreadpilot_core.ibkr.http_api.models import ClientAsked, GivenBack
from spreadpilot_core.ibkr.http_api.needs import must_still_be_let_in, needs
from spreadpilot_core.ibkr.http_api.places import place_of
from spreadpilot_core.ibkr.http_api.served import Served
from spreadpilot_core.ibkr.model.client_leases import (
    LONGEST_WAIT,
    ClientPlace,
    GatewayEndpoint,
    LeasedClient,
    LeaseView,
)
from spreadpilot_core.ibkr.model.followers import TradingMode

router = APIRouter(tags=["clients"])

Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="Seconds until the gateway must be ready.")]


def _place(request: Request) -> ClientPlace:
    return place_of(request)


From = Annotated[ClientPlace, Depends(_place)]


@router.post(
    "/gateways/{follower_id:path}/clients",
    dependencies=[needs(Role.TRADER, leader=True)],
    openapi_extra=described(ClientAsked, {"name": "my-bot"}),
    responses=EXAMPLES["client"],
)
async def lease_client(
    request: Request,
    served: Served,
    place: From,
    follower_id: str,
    *,
    wait: Wait = 0,
    require: Annotated[TradingMode | None, Query(description="Refused in the other trading mode.")] = None,
) -> LeasedClient:
    """Lease a client id for 60 s, and learn where the gateway is; refused where it is not ready."""
    asked = await read_body(request, ClientAsked)
    clients = served.manager.clients
    leased = await clients.lease(follower_id, place, name=asked.name, wait=wait, require=require)
    try:
        await must_still_be_let_in(request)
    except GatewayManagerError:
        await clients.give_back(follower_id, leased.lease)
        raise
    return leased


@router.put(
    "/gateways/{follower_id:path}/clients/{lease}",
    dependencies=[needs(Role.TRADER, leader=True, audited=False)],  # three times a minute it says nothing new
    responses=EXAMPLES["client"],
)
async def renew_client(
    request: Request, served: Served, place: From, follower_id: str, lease: str, *, wait: Wait = 0
) -> LeasedClient:
    """Hold a lease for another 60 s, and learn where the gateway is now; with `wait` once it is ready, or is down."""
    leased = await served.manager.clients.renew(follower_id, lease, place, wait=wait)
    await must_still_be_let_in(request)
    return leased


@router.post(
    "/gateways/{follower_id:path}/clients/{lease}",
    dependencies=[needs(Role.TRADER, leader=True, audited=False)],
    responses=EXAMPLES["client"],
)
async def renew_client_by_post(
    request: Request, served: Served, place: From, follower_id: str, lease: str, *, wait: Wait = 0
) -> LeasedClient:
    """The same, for who can't PUT."""
    return await renew_client(request, served, place, follower_id, lease, wait=wait)


@router.delete(
    "/gateways/{follower_id:path}/clients/{lease}",
    dependencies=[needs(Role.TRADER, leader=True)],
    responses=EXAMPLES["given_back"],
)
async def give_client_back(served: Served, follower_id: str, lease: str) -> GivenBack:
    """End a lease."""
    return GivenBack(given_back=await served.manager.clients.give_back(follower_id, lease))


@router.get("/clients", dependencies=[needs(Role.VIEWER)], responses=EXAMPLES["clients"])
async def list_clients(served: Served) -> tuple[LeaseView, ...]:
    """Who holds which client id."""
    return await served.manager.clients.list()


@router.get("/endpoints/{follower_id:path}", dependencies=[needs(Role.TRADER)], responses=EXAMPLES["endpoint"])
async def show_endpoint(
    request: Request, served: Served, place: From, follower_id: str, wait: Wait = 0
) -> GatewayEndpoint:
    """Where a gateway is, for programs with a client id of their own; refused where it is not ready."""
    found = await served.manager.clients.endpoint(follower_id, place, wait=wait)
    await must_still_be_let_in(request)
    return found
