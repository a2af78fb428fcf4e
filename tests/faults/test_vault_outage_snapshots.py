"""Vault away at the start, in a launch, while gateways run, for ever: what each follower's snapshot says, and recovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from spreadpilot_core.ibkr.credentials.sources.backoff import Pace
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.store.local.followers_file import add_follower
from support.home import Home, eventually, seen
from support.tcp_proxy import TcpProxy
from support.vault import BaoServer

pytestmark = pytest.mark.real_part("vault")

FOLLOWERS = ("alice", "bob", "carol")


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    with BaoServer(tmp_path_factory.mktemp("bao")) as bao:
        for name in FOLLOWERS:
            bao.put(f"ibkr/{name}", IB_USER=f"user-{name}", IB_PASS="pass-word")
        yield bao


@pytest.fixture
def proxy(bao: BaoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    monkeypatch.setenv("VAULT_TOKEN", bao.root.token)
    with TcpProxy(bao.port) as proxy:
        yield proxy


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    home = Home()
    for name in FOLLOWERS:
        await asyncio.to_thread(add_follower, home.followers_file, name, vault_secret_ref=f"ibkr/{name}")
    yield home
    await home.end()


def manager_of(home: Home, proxy: TcpProxy) -> GatewayManager:
    return home.manager(vault_enabled=True, vault_addr=proxy.address)


def running(manager: GatewayManager) -> bool:
    return all(seen(manager, name).status is GatewayStatus.RUNNING for name in FOLLOWERS)


def told(manager: GatewayManager, name: str) -> str:
    one = seen(manager, name)
    return f"{one.status.value} {one.state.value}: {one.reason} {one.next_action} {one.notices}"


async def test_away_from_the_start_and_back(home: Home, proxy: TcpProxy) -> None:
    """Nothing is stored and Vault is away: each follower says so and when it tries again; nobody needs to help it back."""
    proxy.mode = "reset"
    async with manager_of(home, proxy) as manager:
        await eventually(lambda: all("is unavailable" in told(manager, name) for name in FOLLOWERS))
        for name in FOLLOWERS:
            one = seen(manager, name)
            assert one.status is not GatewayStatus.RUNNING
            assert one.next_action
            assert one.credentials is None
        proxy.mode = "pass"
        await eventually(lambda: running(manager), lambda: [told(manager, name) for name in FOLLOWERS], within=90)
        for name in FOLLOWERS:
            credentials = seen(manager, name).credentials
            assert credentials is not None
            assert credentials.source == "vault"


async def test_away_in_the_middle_of_a_launch(home: Home, proxy: TcpProxy) -> None:
    """A read that hangs is told as waiting for its secret, one that is cut as an outage; both recover by themselves."""
    proxy.mode = "half_open"
    async with manager_of(home, proxy) as manager:
        await eventually(lambda: bool(proxy.requests))
        for name in FOLLOWERS:
            await eventually(lambda name=name: "secret" in (seen(manager, name).reason or ""), told(manager, name))
            one = seen(manager, name)
            assert (one.status, one.state) == (GatewayStatus.STARTING, State.QUEUED)
        proxy.mode = "reset"
        proxy.cut()
        await eventually(lambda: all("is unavailable" in told(manager, name) for name in FOLLOWERS))
        proxy.mode = "pass"
        await eventually(lambda: running(manager), lambda: [told(manager, name) for name in FOLLOWERS], within=90)


async def test_away_while_gateways_run(home: Home, proxy: TcpProxy) -> None:
    """Running gateways need no Vault; one that must start meanwhile uses what is stored and says so, until Vault is back."""
    async with manager_of(home, proxy) as manager:
        await eventually(lambda: running(manager), within=60)
        proxy.mode = "reset"
        proxy.cut()
        await asyncio.sleep(3)  # three looks at versions, and heartbeats, pass
        assert running(manager)
        await manager.restart_gateway("alice")
        await eventually(lambda: running(manager), lambda: told(manager, "alice"), within=60)
        alice = seen(manager, "alice")
        assert alice.credentials is not None
        assert alice.credentials.source == "stored"
        assert any("is unavailable" in notice and "Using stored credentials of" in notice for notice in alice.notices)
        assert seen(manager, "bob").notices == ()
        proxy.mode = "pass"
        await asyncio.sleep(Pace().shared_for + 0.5)  # so long one finding holds for everybody
        await manager.restart_gateway("alice")
        await eventually(lambda: running(manager), lambda: told(manager, "alice"), within=60)
        alice = seen(manager, "alice")
        assert alice.credentials is not None
        assert alice.credentials.source == "vault"
        assert alice.notices == ()


async def test_a_no_is_a_matter_for_a_human(home: Home, proxy: TcpProxy, bao: BaoServer) -> None:
    """A deleted secret stops a start with a sentence that says so, never on what was remembered; written anew, it starts."""
    async with manager_of(home, proxy) as manager:
        await eventually(lambda: running(manager), within=60)
        await manager.stop_gateway("bob")
        bao.root.secrets.kv.v2.delete_latest_version_of_secret("ibkr/bob")
        try:
            with pytest.raises(Exception, match="is deleted in Vault"):
                await manager.launch_gateway("bob")
            assert "is deleted in Vault" in told(manager, "bob")
        finally:
            bao.root.secrets.kv.v2.undelete_secret_versions("ibkr/bob", [1])
        await manager.launch_gateway("bob")
        await eventually(lambda: running(manager), lambda: told(manager, "bob"), within=60)


async def test_a_rotated_password_waits_for_the_next_restart(home: Home, proxy: TcpProxy, bao: BaoServer) -> None:
    """A healthy gateway keeps running over a new version and says that one waits; its restart takes it."""
    async with manager_of(home, proxy) as manager:
        await eventually(lambda: running(manager), within=60)
        before = seen(manager, "carol").credentials
        bao.put("ibkr/carol", IB_USER="user-carol", IB_PASS="another-word")
        await eventually(lambda: any("next restart" in notice for notice in seen(manager, "carol").notices))
        assert running(manager)
        await manager.restart_gateway("carol")
        await eventually(lambda: running(manager), lambda: told(manager, "carol"), within=60)
        after = seen(manager, "carol").credentials
        assert before is not None
        assert after is not None
        assert after.version != before.version
        await eventually(lambda: seen(manager, "carol").notices == (), lambda: told(manager, "carol"))
