"""The API server is killed and comes back while a manager looks after gateways: nothing is given up, and it is said.

The manager has an API server of its own, beside the one that the cluster's other parts and other tests go on with.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from real_parts.kubernetes.parts import API_PORT, NODES, Parts
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.simulator.login_book import LOGINS
from support.cluster_place import DEADLINE, ClusterHome, ClusterPlace, cluster_place_fixture  # noqa: F401  # a fixture
from support.home import eventually, seen
from support.kubernetes_cluster import cluster_fixture, may_build, own_cluster_fixture  # noqa: F401  # fixtures

pytestmark = [pytest.mark.real_part("kubernetes"), may_build]

OTHER, PORT = "kube-apiserver-away", API_PORT + 1


def start(parts: Parts) -> None:
    """Start the manager's API server, and wait until it answers."""
    parts.start_apiserver(OTHER, PORT, "--endpoint-reconciler-type=none")
    ready = ("kubectl", f"--server=https://{NODES[0].address}:{PORT}", "get", "--raw", "/readyz")
    parts.wait_for(OTHER, lambda: parts.kubectl(*ready[1:], check=False) == "ok")


@contextlib.asynccontextmanager
async def other_api_server(place: ClusterPlace, directory: Path) -> AsyncIterator[Path]:
    """Its kubeconfig."""
    await asyncio.to_thread(start, place.parts)
    config = directory / "away.conf"
    text = await asyncio.to_thread(place.cluster.kubeconfig.read_text)
    await asyncio.to_thread(config.write_text, text.replace(f":{API_PORT}", f":{PORT}"))
    try:
        yield config
    finally:
        await asyncio.to_thread(place.parts.end, OTHER, signal.SIGKILL)


def logins(place: ClusterPlace, uid: str) -> int:
    """How many were typed in this pod, by its own book."""
    books = place.parts.directory.glob(f"node-*/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/settings/{LOGINS}")
    return sum(len(book.read_text().splitlines()) for book in books)


async def healthy(manager: GatewayManager, *names: str) -> None:
    """Wait until all are."""
    await eventually(
        lambda: all(manager.is_healthy(each) for each in names),
        lambda: [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()],
        within=DEADLINE,
    )


async def test_an_api_server_that_is_killed_costs_no_login_and_no_launch(
    cluster_place: ClusterPlace, tmp_path: Path
) -> None:
    """What ran goes on, what was being launched is launched once it is back, and meanwhile `status` says what is away."""
    place, home = cluster_place, ClusterHome(cluster_place)
    async with other_api_server(place, tmp_path) as kubeconfig:
        home.settings["kubeconfig"] = str(kubeconfig)
        await home.add_on("ibcontroller", "alice")
        manager = home.manager(poll_interval=0.5)
        await manager.start()
        try:
            await healthy(manager, "alice")
            (first,) = await home.pods()
            await home.add_on("ibcontroller", "bob")
            await eventually_pods(home, 2)
            await asyncio.to_thread(place.parts.end, OTHER, signal.SIGKILL)
            await home.add_on("ibcontroller", "carol")
            await eventually(
                lambda: all(
                    seen(manager, name).reason_code == ReasonCode.RUNTIME_UNAVAILABLE.value
                    and "can't be reached" in str(seen(manager, name).reason)
                    for name in ("alice", "carol")
                ),
                lambda: [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()],
                within=DEADLINE,
            )
            assert first["metadata"]["uid"] in [pod["metadata"]["uid"] for pod in await home.pods()]
            await asyncio.to_thread(start, place.parts)
            await healthy(manager, "alice", "bob", "carol")
            pods = await home.pods()
            assert len(pods) == 3
            assert first["metadata"]["uid"] in [pod["metadata"]["uid"] for pod in pods]
            assert [logins(place, pod["metadata"]["uid"]) for pod in pods] == [1, 1, 1]
        finally:
            await manager.stop()
            await home.end()
    assert await home.pods() == []


async def eventually_pods(home: ClusterHome, count: int) -> None:
    """Wait until there are so many."""
    async with asyncio.timeout(DEADLINE):
        while len(await home.pods()) < count:
            await asyncio.sleep(0.1)
