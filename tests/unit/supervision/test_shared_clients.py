"""What other programs are told of a gateway, in made-up time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import (
    ClientOutOfReachError,
    GatewayDownError,
    GatewayNotReadyError,
    UnknownFollowerError,
    WrongTradingModeError,
)
from spreadpilot_core.ibkr.model.client_leases import ClientPlace
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.supervision.shared_clients import SharedClients
from support.made_up_fleet import ANNA, MadeUpManager, world_in
from support.made_up_time import in_made_up_time

HERE, ELSEWHERE = ClientPlace(is_here=True), ClientPlace(is_here=False, address="192.0.2.7")


def clients(manager: MadeUpManager) -> SharedClients:
    return SharedClients(manager.fleet, manager.services)


@in_made_up_time
async def test_a_program_is_told_where_its_gateway_is(tmp_path: Path) -> None:
    """Endpoint, account and mode are those of the snapshot; the client id is none of the manager's."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            leased = await clients(manager).lease("anna", HERE, name="bot", wait=120)
            shown = manager.seen()
            assert (f"{leased.host}:{leased.port}", leased.ready) == (shown.endpoint, True)
            assert (leased.account, leased.accounts) == (shown.accounts[0], shown.accounts)
            assert (leased.trading_mode, leased.client_id >= 10_000) == (TradingMode.PAPER, True)
            assert [each.name for each in await clients(manager).list()] == ["bot"]


@in_made_up_time
async def test_the_serial_changes_with_the_gateway_and_with_nothing_else(tmp_path: Path) -> None:
    """A new manager and a lost client keep it; a killed gateway does not, and meanwhile the lease says why it waits."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            first = await clients(manager).lease("anna", HERE, wait=120)
            manager.inject("drop_clients")
            await asyncio.sleep(30)
            await manager.state(State.READY)
        async with world.running() as manager:
            await manager.state(State.READY)
            adopted = await clients(manager).renew("anna", first.lease, HERE)
            await manager.kill()
            lost = await clients(manager).renew("anna", first.lease, HERE)
            replaced = await clients(manager).renew("anna", first.lease, HERE, wait=120)
    assert adopted.serial == first.serial
    assert (lost.ready, lost.host, lost.serial, bool(lost.reason)) == (False, None, None, True)
    assert (replaced.ready, replaced.client_id) == (True, first.client_id)
    assert replaced.serial not in (None, first.serial)


@in_made_up_time
async def test_nothing_is_leased_of_a_gateway_that_is_not_ready(tmp_path: Path) -> None:
    """The refusals are those of `get_client`: unknown, in the other mode, down at once, not in time."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.add("off", enabled=False)
        async with world.running() as manager:
            shared = clients(manager)
            with pytest.raises(UnknownFollowerError, match="nobody"):
                await shared.lease("nobody", HERE, wait=5)
            with pytest.raises(GatewayNotReadyError, match="The gateway of anna is"):
                await shared.lease("anna", HERE)
            with pytest.raises(WrongTradingModeError, match="live is required"):
                await shared.lease("anna", HERE, wait=120, require=TradingMode.LIVE)
            with pytest.raises(GatewayDownError, match="off is disabled"):
                await shared.lease("off", HERE, wait=10_000)
            assert await shared.list() == ()


@pytest.mark.parametrize("pods", [False, True], ids=["containers", "pods"])
@in_made_up_time
async def test_who_is_elsewhere_is_told_the_cure(tmp_path: Path, pods: bool) -> None:
    """Loopback is nobody's but this host's; a pod has an address for all of its cluster."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            if pods:
                assert (await clients(manager).lease("anna", ELSEWHERE)).host
                return
            with pytest.raises(ClientOutOfReachError, match=r"192\.0\.2\.7\. Run the program on that host"):
                await clients(manager).lease("anna", ELSEWHERE)
            assert manager.supervisor(ANNA).state is State.READY
