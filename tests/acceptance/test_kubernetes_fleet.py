"""The manager on a real Kubernetes cluster: a fleet of both image generations, from `start()` to nothing left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from real_parts.kubernetes.parts import NODES, PartError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.kubernetes.access_rules import DISRUPTIONS, NETWORKING
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from support.cluster_place import DEADLINE, ClusterHome, ClusterPlace, cluster_place_fixture  # noqa: F401  # a fixture
from support.command import Command
from support.home import PASSWORD, eventually, seen
from support.kubernetes_cluster import audit_logs, cluster_fixture, may_build, own_cluster_fixture  # noqa: F401  # fixtures
from support.kubernetes_images import simulator_image

pytestmark = [pytest.mark.real_part("kubernetes"), may_build]


@pytest.fixture(name="home")
async def home_fixture(cluster_place: ClusterPlace) -> AsyncIterator[ClusterHome]:
    """A manager's home in a namespace of its own."""
    home = ClusterHome(cluster_place)
    yield home
    await home.end()


async def answered(ask: Callable[[], Awaitable[Any]], is_so: Callable[[Any], bool]) -> None:
    """Wait until the answer is so."""
    said: Any = None
    try:
        async with asyncio.timeout(DEADLINE):
            while not is_so(said := await ask()):
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(said) from None


async def healthy(manager: GatewayManager, *follower_ids: str) -> None:
    """Wait until these are."""
    await eventually(
        lambda: all(manager.is_healthy(each) for each in follower_ids),
        lambda: [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()],
        within=DEADLINE,
    )


async def test_a_fleet_of_both_generations_logs_in_and_leaves_nothing(home: ClusterHome) -> None:
    """Connected clients through the API server, passwords nowhere but in pods' memory, and there removed; then no pod."""
    names = ["old0", "old1", "new0", "new1"]
    await home.add_on("ibc", *names[:2])
    await home.add_on("ibcontroller", *names[2:])
    manager = home.manager()
    await manager.start()
    try:
        await healthy(manager, *names)
        for name in names:
            client = await manager.get_client(name)
            assert client is not None
            assert client.isConnected()
            assert manager.get_gateway_status(name) is GatewayStatus.RUNNING
        pods = await home.pods()
        assert len(pods) == len(names)
        assert PASSWORD not in json.dumps(pods)
        await until_empty(home, str(seen(manager, "new0").container))
        parts = home.place.parts
        node = parts.directory / NODES[0].name  # its volumes in memory are mounted where this process can't see them
        for place in (
            *(parts.directory / each for each in ("etcd", "log")),
            *audit_logs(parts),
            node / "kubelet",
            node / "logs",
        ):
            files = [place] if place.is_file() else [each for each in place.rglob("*") if each.is_file()]
            assert not any(PASSWORD.encode() in each.read_bytes() for each in files)
    finally:
        await manager.stop()
    assert await home.pods() == []


async def until_empty(home: ClusterHome, pod: str) -> None:
    """Wait until the password file is removed."""
    async with asyncio.timeout(DEADLINE):
        while "password" in await home.place.kubectl(
            "exec", "-n", home.place.namespace, pod, "--", "ls", "/run/gateway-manager"
        ):
            await asyncio.sleep(0.2)


async def test_a_next_manager_adopts_without_a_login(home: ClusterHome) -> None:
    """Detached gateways go on running; the next manager finds them, connects, and restarts none."""
    await home.add_on("ibcontroller", "alice")
    first = home.manager()
    await first.start()
    await healthy(first, "alice")
    before = [pod["metadata"]["uid"] for pod in await home.pods()]
    await first.detach()
    second = home.manager()
    await second.start()
    try:
        await healthy(second, "alice")
        assert [pod["metadata"]["uid"] for pod in await home.pods()] == before
    finally:
        await second.stop()


async def test_what_keeps_a_pod_from_starting_is_told_in_the_clusters_words(home: ClusterHome) -> None:
    """No node has room, the namespace's quota is spent, a rule refuses it, the image can't be had: each with its code."""
    await home.add_on("ibcontroller", "alice")
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"limits.memory": "64Mi"}}}
    quotas = f"/api/v1/namespaces/{home.place.namespace}/resourcequotas"
    await refused(
        home, ReasonCode.POD_UNSCHEDULABLE, "Insufficient cpu", kubernetes_cpu_request="900", pod_start_time=3.0
    )
    await refused(home, ReasonCode.ADMISSION_REFUSED, "no PriorityClass", kubernetes_priority_class="nowhere")
    await home.place.ask("POST", quotas, quota)
    await refused(home, ReasonCode.QUOTA_EXCEEDED, "exceeded quota")
    await home.place.ask("DELETE", f"{quotas}/none")
    await home.add_with("docker.io/gateway-manager-tests/nowhere:1", "bob")
    await refused(home, ReasonCode.IMAGE_UNAVAILABLE, "nowhere:1", follower="bob")
    assert await home.pods() == []


async def test_what_a_launch_waits_for_is_told_while_it_waits(home: ClusterHome) -> None:
    """In the scheduler's words; the pod stays, for a node may come, and nothing of its login is spent."""
    await home.add_on("ibcontroller", "alice")
    manager = home.manager(kubernetes_cpu_request="900")
    await manager.start()
    try:
        await eventually(
            lambda: "It waits: 0/" in str(seen(manager, "alice").reason),
            lambda: seen(manager, "alice"),
            within=DEADLINE,
        )
        assert seen(manager, "alice").reason_code == ReasonCode.CONTAINER_STARTING.value
        assert "Insufficient cpu" in str(seen(manager, "alice").reason)
        assert len(await home.pods()) == 1
    finally:
        await manager.stop()
    assert await home.pods() == []


async def refused(
    home: ClusterHome, code: ReasonCode, words: str, *, follower: str = "alice", **settings: object
) -> None:
    """A manager with these settings backs off with this code, and says these words."""
    manager = home.manager(**settings)
    await manager.start()
    try:
        await eventually(
            lambda: seen(manager, follower).reason_code == code.value and words in str(seen(manager, follower).reason),
            lambda: seen(manager, follower),
            within=DEADLINE,
        )
        assert seen(manager, follower).state in (State.BACKING_OFF, State.QUEUED, State.NEEDS_HUMAN)
    finally:
        await manager.stop()


async def test_the_doctor_asks_the_cluster_before_anybody_logs_in(home: ClusterHome) -> None:
    """Cluster, rights, a pod that is tried and not made, and that nothing keeps the settings."""
    home.settings["gateway_image"] = simulator_image(home.place.parts, "ibcontroller")
    home.settings |= {"kubernetes_bots": "app=bot", "kubernetes_refuse_eviction": True}
    command = Command(home)
    done = await asyncio.to_thread(command, "doctor")
    for words in (
        "Kubernetes v1.33.1 at",
        "may do all that",
        "lets a gateway's pod in",
        "lets its service in",
        "lets the network policy in",
        "lets the disruption budget in",
        "Nothing in this cluster enforces network policies",
        "kubernetes_storage_class is none",
    ):
        assert words in " ".join((done.stdout + done.stderr).split())
    for kind in ("pods", "networkpolicies", "services", "poddisruptionbudgets"):
        left = await home.place.kubectl("get", kind, "-n", home.place.namespace, "-o", "name")
        assert [each for each in left.split() if "trial" in each or kind != "pods"] == []


_GROUPS = {
    "services": "/api/v1",
    "networkpolicies": f"/apis/{NETWORKING}",
    "poddisruptionbudgets": f"/apis/{DISRUPTIONS}",
}


async def only(place: ClusterPlace, kind: str) -> dict[str, Any]:
    """The one that there is."""
    found = await place.ask("GET", f"{_GROUPS[kind]}/namespaces/{place.namespace}/{kind}")
    (one,) = found["items"]
    return dict(one)


async def evict(place: ClusterPlace, name: str) -> str:
    """As a drain does; what the API server says."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    try:
        return await place.kubectl(
            "create", "--raw", f"{place.pods(name)}/eviction", "-f", "-", stdin=json.dumps(eviction)
        )
    except PartError as refused:
        return str(refused)


async def test_a_gateway_has_a_name_for_its_bots_and_a_policy_that_names_them(home: ClusterHome) -> None:
    """They are there before it runs, what somebody changes is put right at the next launch, and a drain waits for the stop."""
    await home.add_on("ibcontroller", "alice")
    place, manager = home.place, home.manager(kubernetes_bots="app=bot,team=x", kubernetes_refuse_eviction=True)
    await manager.start()
    try:
        await healthy(manager, "alice")
        (pod,) = await home.pods()
        name = pod["metadata"]["name"]
        assert (await only(place, "services"))["metadata"]["name"] == name
        endpoints = f"/api/v1/namespaces/{place.namespace}/endpoints/{name}"
        await answered(partial(place.ask, "GET", endpoints), lambda said: pod["status"]["podIP"] in json.dumps(said))
        policy = await only(place, "networkpolicies")
        (rule,) = policy["spec"]["ingress"]
        assert rule["from"][0]["podSelector"] == {"matchLabels": {"app": "bot", "team": "x"}}
        assert rule["ports"] == [{"protocol": "TCP", "port": "api"}]
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()

        path = f"{_GROUPS['networkpolicies']}/namespaces/{place.namespace}/networkpolicies/{policy['metadata']['name']}"
        opened = {"spec": {"podSelector": {"matchLabels": {"nobody": "at-all"}}, "ingress": [{}]}}
        await place.ask("PATCH", path, opened, kind="application/merge-patch+json")
        await manager.restart_gateway("alice")
        await healthy(manager, "alice")
        assert (await only(place, "networkpolicies"))["spec"] == policy["spec"]

        await answered(partial(evict, place, name), lambda said: "disruption budget" in said)
        assert manager.is_healthy("alice")
        await manager.stop_gateway("alice")
        assert await home.pods() == []
    finally:
        await manager.stop()
