"""Whose gateways are these: two managers, strangers and somebody else's hand on one real Docker Engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from spreadpilot_core.ibkr.errors import IdentityInUseError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.events import StateChanged
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.states import State
from support.docker_bench import (  # noqa: F401  # fixtures
    DEADLINE,
    Bench,
    DockerHome,
    bench_fixture,
    engine_fixture,
    own_engine_fixture,
)
from support.home import eventually, seen
from support.ports import free_ports

pytestmark = pytest.mark.real_part("docker")


@pytest.fixture(name="home")
async def home_fixture(bench: Bench) -> AsyncIterator[DockerHome]:
    place = DockerHome(bench)
    yield place
    await place.end()


@pytest.fixture(name="neighbour")
async def neighbour_fixture(home: DockerHome) -> AsyncIterator[DockerHome]:
    """Another manager's state on the same engine, with the same container prefix."""
    place = DockerHome(home.bench)
    yield place
    await place.end()


async def healthy(manager: GatewayManager, *follower_ids: str) -> None:
    await eventually(
        lambda: all(manager.is_healthy(each) for each in follower_ids),
        lambda: [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()],
        within=DEADLINE,
    )


async def is_held_back_while_another_user_is_stored(home: DockerHome, manager: GatewayManager) -> None:
    """The gateway that it adopts is nobody's to trade on before its user is that of the follower's login."""
    own, home.users = home.users, "somebody-elses-"
    await home.set_password("alice")
    await manager.start()
    await eventually(
        lambda: seen(manager, "alice").reason_code is ReasonCode.WRONG_USER, lambda: seen(manager, "alice")
    )
    assert await manager.get_client("alice", timeout=0) is None
    home.users = own
    await home.set_password("alice")
    await healthy(manager, "alice")


async def test_a_second_manager_with_the_same_prefix_logs_nobody_out(home: DockerHome, neighbour: DockerHome) -> None:
    """It names and leaves the first one's gateways until an operator says that the first has ended; then it adopts them."""
    await home.add_on("ibcontroller", "alice")
    first = home.manager()
    await first.start()
    await healthy(first, "alice")
    before = home.lives()
    identity = str(first.identity)

    second = neighbour.manager()
    await second.start()
    await eventually(lambda: identity in " ".join(second.left_alone()), second.left_alone)
    assert second.identity not in {None, identity}
    assert second.list_gateways() == ()
    await second.stop()
    assert (home.lives(), first.is_healthy("alice")) == (before, True)

    await neighbour.add_on("ibcontroller", "alice")
    with pytest.raises(IdentityInUseError, match=identity):
        await neighbour.manager(adopt_from=identity).start()
    await first.detach()

    heir = neighbour.manager(adopt_from=identity)
    await heir.start()
    await eventually(lambda: seen(heir, "alice").state is State.NEEDS_HUMAN, lambda: seen(heir, "alice"))
    assert "--accept-lost-records" in str(seen(heir, "alice").reason)
    await heir.detach()
    heir = neighbour.manager(accept_lost_records=True)
    await is_held_back_while_another_user_is_stored(neighbour, heir)
    assert home.lives() == before
    trail = [json.loads(line) for line in (neighbour.directory / "audit.jsonl").read_text().splitlines()]
    assert [line["act"] for line in trail].count("adopt-from") == 1
    await heir.stop()
    assert home.containers() == []


async def test_what_bears_the_labels_alone_is_never_adopted_stopped_or_removed(home: DockerHome) -> None:
    """A container made from a committed gateway's image, and a plain one with the labels and a port of its choice."""
    await home.add_on("ibcontroller", "alice")
    manager = home.manager()
    await manager.start()
    await healthy(manager, "alice")
    api = home.bench.api
    gateway = api.inspect(str(seen(manager, "alice").container))
    image = api.ask("POST", "/commit", body={}, container=gateway["Id"], repo=home.bench.prefix)["Id"]
    port = str(free_ports(1))
    marks = {**gateway["Config"]["Labels"], "spreadpilot.gateway-manager.host-port": port}
    idle = {"Entrypoint": ["sleep", "600"], "Cmd": []}
    published = {"PortBindings": {"4004/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}}
    strangers = {
        api.run({"Image": image, **idle}, name=f"{home.bench.prefix}-of-an-image"),
        api.run({"Image": gateway["Config"]["Image"], "Labels": marks, "HostConfig": published, **idle}),
    }
    try:
        await manager.detach()
        manager = home.manager()
        await manager.start()
        await healthy(manager, "alice")
        assert str(seen(manager, "alice").endpoint).split(":")[1] != port
        assert len(manager.left_alone()) == 2
        await manager.stop()
        assert {row["Id"] for row in home.containers()} == strangers
        assert all(api.inspect(each)["State"]["Running"] for each in strangers)
        manager = home.manager()
        await manager.start()  # and they keep nobody from being logged in
        await healthy(manager, "alice")
        await manager.stop()
    finally:
        for each in strangers:
            await asyncio.to_thread(api.remove, each)
        api.ask("DELETE", f"/images/{image}", force=1)


async def test_a_gateway_that_somebody_restarts_is_replaced_at_once(home: DockerHome) -> None:
    """Its password is gone with its first life: that is said, and a new container logs in. A rename changes nothing."""
    await home.add_on("ibcontroller", "alice")
    manager = home.manager(max_startup_time=600.0)  # what has to be waited for is no part of it
    happened = manager.events()
    await manager.start()
    await healthy(manager, "alice")
    old = str(seen(manager, "alice").container)
    api = home.bench.api
    api.ask("POST", f"/containers/{old}/rename", name=f"{old}-moved")
    api.ask("POST", f"/containers/{old}-moved/update", body={"RestartPolicy": {"Name": "always"}})
    await eventually(lambda: "restart policy always" in " ".join(seen(manager, "alice").notices))
    assert (manager.is_healthy("alice"), seen(manager, "alice").container) == (True, f"{old}-moved")
    await asyncio.to_thread(api.ask, "POST", f"/containers/{old}-moved/restart", t=1)
    await eventually(lambda: seen(manager, "alice").container == old, lambda: seen(manager, "alice"), within=DEADLINE)
    await healthy(manager, "alice")
    assert len(home.containers()) == 1
    await manager.stop()
    reasons = [event.sentence async for event in happened if isinstance(event, StateChanged)]
    assert any("ended" in each or "started again" in each for each in reasons), reasons
