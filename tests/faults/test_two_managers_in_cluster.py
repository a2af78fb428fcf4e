"""Two managers of one real cluster: a lease of the cluster says who acts, and no gateway pays for the change."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pymongo
import pytest

from support.chart_fleet import LEASE, RELEASE, ChartFleet, chart_fleet
from support.home import Home
from support.kubernetes_cluster import Cluster, may_build, own_cluster_fixture  # noqa: F401  # a fixture
from support.kubernetes_images import simulator_image
from support.manager_process import WITHIN, Process, knows_its_place, newest
from support.mongo import MongoServer
from support.waiting import until

pytestmark = [pytest.mark.real_part("kubernetes"), may_build]

STEADY = ("anna", "ben")
"""Whose gateways must live through everything."""
MOST_VICTIMS = 5
"""In ten changes each is lost twice; a third loss the manager would take for bad luck."""


@pytest.fixture
async def fleet(own_cluster: Cluster, tmp_path: Path) -> AsyncIterator[ChartFleet]:
    assert own_cluster.parts is not None
    with own_cluster.inside():
        async with chart_fleet(own_cluster.parts) as made:
            await made.make_roles(tmp_path)
            yield made


@pytest.fixture
async def server(fleet: ChartFleet, tmp_path: Path) -> AsyncIterator[MongoServer]:  # noqa: ARG001  # it enters the network
    """In the cluster's network, as the managers are."""
    server = await asyncio.to_thread(MongoServer(tmp_path / "mongo").__enter__)
    yield server
    await asyncio.to_thread(server.__exit__, None, None, None)


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home(ports=2)
    yield place
    await place.end()


async def pair(fleet: ChartFleet, home: Home, server: MongoServer, *more: str) -> tuple[Process, Process]:
    """Two managers, each with an account of its own, and the records of these followers."""
    await home.add(*STEADY, *more)
    image = await asyncio.to_thread(simulator_image, fleet.parts, "ibcontroller")
    with pymongo.MongoClient(server.uri) as client:
        client["spreadpilot"]["followers"].insert_many(
            [{"_id": each, "vault_secret_ref": f"ibkr/{each}", "enabled": True} for each in (*STEADY, *more)]
        )
    made = []
    for name in ("one", "two"):
        (home.directory / name).mkdir()
        stored = home.directory / "credentials.json"
        (home.directory / name / stored.name).write_bytes(stored.read_bytes())
        settings = {
            "runtime_url": f"kubernetes:{fleet.namespace}",
            "kubeconfig": str(await fleet.account(name, home.directory)),
            "container_prefix": RELEASE,
            "kubernetes_storage_class": "none",
            "kubernetes_cpu_request": "10m",  # other runs on this machine share the node
            "kubernetes_network_policy": False,  # the chart makes it, and its role makes none
            "gateway_image": image,
            "login_budget": 8,
            "store_url": "mongodb:",
            "mongo_uri": server.uri,
        }
        made.append(Process(name, home, **settings))
    return made[0], made[1]


async def change_leaders(fleet: ChartFleet, home: Home, server: MongoServer, changes: int) -> None:
    victims = [f"victim{number}" for number in range(min(changes, MOST_VICTIMS))]
    one, two = await pair(fleet, home, server, *victims)
    elsewhere = Process(
        "elsewhere", home, runtime_url=f"simulated:{home.directory}", store_url="mongodb:", mongo_uri=server.uri
    )
    try:
        await one.start()
        await one.shows(dict.fromkeys((*STEADY, *victims), "ready"), within=4 * WITHIN)
        before = await fleet.uids()
        await two.start()
        await two.says("stands by")
        for number in range(changes):
            victim = victims[number % len(victims)]
            await the_leader(one, two).shows({victim: "ready"}, within=4 * WITHIN)  # no login of it is under way
            await fleet.kill(victim)
            await change_leader(one, two, signal.SIGKILL if number % 2 else signal.SIGSTOP)
        await the_leader(one, two).shows(dict.fromkeys((*STEADY, *victims), "ready"), within=4 * WITHIN)
        await elsewhere.start()
        await elsewhere.says("on another engine, is the leader and acts")
        assert elsewhere.leases == {}
        after = await fleet.uids()
        lease = json.loads(await fleet.kubectl("get", "lease", LEASE, "-o", "json"))
    finally:
        await elsewhere.end()
        await one.end()
        await two.end()
    assert lease["spec"]["leaseTransitions"] == max(newest(one), newest(two)) >= changes + 1
    assert {name: after[name] for name in STEADY} == {name: before[name] for name in STEADY}
    assert {name for name in victims if after[name] != before[name]} == set(victims)
    events = fleet.audited()
    made = created(events)
    assert {name: made[name] for name in STEADY} == dict.fromkeys(STEADY, 1)
    assert all(made[name] > 1 for name in victims)  # a launch that lost its leader is begun again by the next one
    assert out_of_lease(events) == []


def the_leader(one: Process, two: Process) -> Process:
    """Whoever began the newest lease."""
    return one if newest(one) > newest(two) else two


async def change_leader(one: Process, two: Process, how: signal.Signals) -> None:
    """Kill or freeze the one that acts, and have it back once the other has taken over."""
    holder, other = (one, two) if newest(one) > newest(two) else (two, one)
    last = newest(holder)
    holder.send(how)
    await until(lambda: newest(other) > last, within=WITHIN)
    if how is signal.SIGKILL:
        await holder.end()
        await holder.start()
    holder.send(signal.SIGCONT)
    await until(lambda: knows_its_place(holder, other), within=WITHIN)


def created(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many pods each follower got, by the API server's own account."""
    counts: dict[str, int] = {}
    for event in events:
        made = event.get("responseObject") or {}
        follower = ((made.get("metadata") or {}).get("annotations") or {}).get("spreadpilot.gateway-manager/follower")
        if event["verb"] == "create" and is_done(event, "pods") and follower is not None:
            counts[follower] = counts.get(follower, 0) + 1
    return counts


def is_done(event: Mapping[str, Any], resource: str) -> bool:
    about = event["objectRef"]
    return about["resource"] == resource and "subresource" not in about and event["responseStatus"]["code"] < 300


def out_of_lease(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was created, changed or removed for a manager while another one held the lease, by the API server's account."""
    holder, wrong, seen = None, [], set()
    for event in events:
        who = event["user"]["username"].rpartition(":")[2]
        if who not in ("one", "two"):
            continue
        if is_done(event, "leases"):
            held_by = event["responseObject"]["spec"]["holderIdentity"]
            holder = (re.search(r"/(one|two)$", held_by) or [None, None])[1]
        elif is_done(event, "pods"):
            seen.add(event["verb"])
            if who != holder:
                wrong.append(event)
    assert seen >= {"create", "patch", "delete"}
    return wrong


@pytest.mark.timeout(600)
async def test_changes_of_leader_restart_no_gateway(fleet: ChartFleet, home: Home, server: MongoServer) -> None:
    """Frozen, killed and frozen, each with a gateway to start: the API server did nothing for who did not hold the lease.

    Both managers have no more rights than the chart's role. One on another engine, with the same records, stands by.
    """
    await change_leaders(fleet, home, server, 3)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_ten_changes_of_leader_restart_no_gateway(fleet: ChartFleet, home: Home, server: MongoServer) -> None:
    """The same, ten times in a row."""
    await change_leaders(fleet, home, server, 10)
