"""Clients in other programs, as the control socket leases them: a real manager, real gateways of the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from ib_async import IB

from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.http_api.address import SOCKET
from support.home import Home, eventually


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


@pytest.fixture
async def manager(home: Home) -> AsyncIterator[GatewayManager]:
    await home.add("alice")
    await home.add("off", enabled=False)
    async with home.manager() as manager:
        yield manager


@pytest.fixture
async def http(home: Home, manager: GatewayManager) -> AsyncIterator[httpx.AsyncClient]:
    assert manager.identity is not None  # it serves there
    transport = httpx.AsyncHTTPTransport(uds=str(home.directory / SOCKET))
    async with httpx.AsyncClient(transport=transport, base_url="http://manager/v1", timeout=90) as client:
        yield client


async def test_a_leased_client_id_connects_beside_the_managers_own(
    home: Home, manager: GatewayManager, http: httpx.AsyncClient
) -> None:
    """Wait, connect, renew, give back; the next manager on the same store knows the lease."""
    leased = (await http.post("/gateways/alice/clients?wait=60", json={"name": "bot"})).json()
    ib = IB()
    await ib.connectAsync(leased["host"], leased["port"], leased["client_id"])
    assert ib.managedAccounts() == leased["accounts"] == [leased["account"]]
    assert (await http.put(f"/gateways/alice/clients/{leased['lease']}")).json()["serial"] == leased["serial"]

    await manager.detach()
    async with home.manager() as after:
        await eventually(lambda: after.is_healthy("alice"))
        renewed = (await http.post(f"/gateways/alice/clients/{leased['lease']}?wait=60")).json()
        known = (await http.get("/clients")).json()
        assert ib.isConnected()
        given = [(await http.delete(f"/gateways/alice/clients/{leased['lease']}")).json()["given_back"] for _ in "ab"]
        ib.disconnect()
        await after.stop()
    for same in ("client_id", "host", "port", "serial"):
        assert renewed[same] == leased[same]
    assert known == [{"follower_id": "alice", "client_id": leased["client_id"], "name": "bot"}]
    assert given == [True, False]


@pytest.mark.parametrize(
    ("method", "path", "code", "error"),
    [
        ("POST", "/gateways/nobody/clients?wait=60", 404, "UnknownFollowerError"),
        ("POST", "/gateways/off/clients?wait=60", 409, "GatewayDownError"),
        ("POST", "/gateways/alice/clients?wait=60&require=live", 409, "WrongTradingModeError"),
        ("POST", "/gateways/alice/clients?wait=-1", 422, "InvalidRequest"),
        ("POST", "/gateways/alice/clients?wait=nan", 422, "InvalidRequest"),
        ("PUT", "/gateways/alice/clients/none", 409, "ClientLeaseLostError"),
    ],
)
async def test_a_refusal_says_whose_turn_it_is(
    http: httpx.AsyncClient, method: str, path: str, code: int, error: str
) -> None:
    """A code, the error's name and its sentence."""
    answer = await http.request(method, path)
    assert (answer.status_code, answer.json()["error"]) == (code, error)
    assert answer.json()["sentence"]


async def test_many_programs_wait_for_one_gateway_at_once(http: httpx.AsyncClient) -> None:
    """Each has a client id of its own."""
    answers = await asyncio.gather(*(http.post("/gateways/alice/clients?wait=60") for _ in range(20)))
    assert len({each.json()["client_id"] for each in answers}) == 20
