"""After a fleet was launched through Vault on a real cluster, no password is left outside its pods."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from real_parts.kubernetes.parts import NODES, PartError, Parts
from spreadpilot_core.ibkr.kubernetes.manifests import NO_VOLUME
from spreadpilot_core.ibkr.kubernetes.naming import SELECTOR
from support.cluster_place import ClusterPlace
from support.docker_images import GENERATIONS
from support.kubernetes_cluster import Cluster, audit_logs, may_build, own_cluster_fixture  # noqa: F401  # a fixture
from support.kubernetes_images import simulator_image
from support.memory import search, search_all
from support.planted import NEEDLES, core_of, found_in, found_in_files, password
from support.searched_fleet import FLEET, PATIENCE, SearchedFleet, searched_fleet
from support.vault import BaoServer
from support.waiting import wait_until

pytestmark = [pytest.mark.real_part("kubernetes"), pytest.mark.real_part("vault"), may_build]


@pytest.fixture(name="place")
def place_fixture(own_cluster: Cluster) -> Iterator[ClusterPlace]:
    """A namespace of its own; the test runs in the cluster's network."""
    with own_cluster.inside():
        place = ClusterPlace(own_cluster)
        asyncio.run(place.make())
        yield place
        asyncio.run(place.close())


@pytest.fixture(name="fleet")
def fleet_fixture(place: ClusterPlace, tmp_path: Path) -> Iterator[SearchedFleet]:
    """On images of both generations."""
    settings = {
        "GATEWAY_MANAGER_RUNTIME_URL": f"kubernetes:{place.namespace}",
        "KUBECONFIG": str(place.cluster.kubeconfig),
        "GATEWAY_MANAGER_KUBERNETES_STORAGE_CLASS": NO_VOLUME,
        "GATEWAY_MANAGER_KUBERNETES_CPU_REQUEST": "10m",
        "GATEWAY_MANAGER_CONTAINER_PREFIX": place.owner,
    }
    with BaoServer(tmp_path / "bao") as bao, ExitStack() as held:
        images = [simulator_image(place.parts, each) for each in GENERATIONS]
        yield held.enter_context(searched_fleet(bao, tmp_path, images, settings))


def cluster_files(parts: Parts) -> Iterator[Path]:
    """Every file of etcd, the audit log, each part's log, and a node's kubelet and containerd, but what is inside a container."""
    node = parts.directory / NODES[0].name
    yield from audit_logs(parts)
    for root in (parts.directory / "etcd", parts.directory / "log", node):
        for directory, below, names in os.walk(root):
            below[:] = [name for name in below if name not in ("rootfs", "io.containerd.snapshotter.v1.overlayfs")]
            yield from (Path(directory) / name for name in names)


def told(fleet: SearchedFleet, place: ClusterPlace) -> str:
    """Everything that API and cluster tell of the fleet."""
    everything = ("pods,events,services,secrets,configmaps,networkpolicies", "-o", "json")
    of_cluster = place.parts.kubectl("get", "-n", place.namespace, *everything)
    pods = [each["container"] for each in fleet.snapshots()]
    assert len(pods) == FLEET
    logs = [place.parts.kubectl("logs", "-n", place.namespace, each) for each in pods]
    return json.dumps(fleet.snapshots(), ensure_ascii=False) + of_cluster + "".join(logs)


def a_courier_holds_one(fleet: SearchedFleet, place: ClusterPlace) -> bool:
    """Stop the couriers once a pod waits for one, and look into them: while one has a password, the manager above it has none."""
    assert fleet.process.poll() is None
    if f"pod/{place.owner}-" not in place.parts.kubectl(
        "get", "pods", "-n", place.namespace, "-o", "name", "-l", SELECTOR
    ):
        return False
    for courier in fleet.couriers():
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(courier, signal.SIGSTOP)
            try:
                if search(courier, NEEDLES):
                    assert search(fleet.process.pid, NEEDLES) == set()
                    return True
            finally:
                os.kill(courier, signal.SIGCONT)
    return False


def test_nothing_is_left_outside_the_pods(fleet: SearchedFleet, place: ClusterPlace) -> None:
    """Manager, log, control socket, pods, events, files of etcd, API server, kubelet and containerd, core dump: none of them.

    While the pods start a courier holds what they wait for, and nobody else does. A password that is put into the cluster on
    purpose is found by the same search.
    """
    parts = place.parts

    def password_files(pod: str) -> str:
        with suppress(PartError):
            return parts.kubectl("exec", "-n", place.namespace, pod, "--", "ls", "/run/gateway-manager")
        return "not known"

    wait_until(lambda: a_courier_holds_one(fleet, place), within=PATIENCE)
    wait_until(lambda: fleet.is_launched(password_files), within=PATIENCE)
    assert search_all(fleet.process.pid, NEEDLES) == set()
    said = told(fleet, place).encode()
    assert [name for name, needle in NEEDLES.items() if needle in said] == []
    files = list(cluster_files(parts))
    assert {"audit.log", "kube-apiserver.log", "meta.db", "db"} <= {path.name for path in files}
    assert any("kubernetes.io~empty-dir" in str(path) for path in files)
    assert found_in_files([fleet.said, *fleet.state.rglob("*"), *files]) == {}

    parts.kubectl("create", "configmap", "copy", "-n", place.namespace, f"--from-literal=copy={password(0)}")
    try:
        found = found_in_files(cluster_files(parts))
        assert any("/etcd/" in path for path in found)
        assert any(path.endswith("audit.log") for path in found)
    finally:
        parts.kubectl("delete", "configmap", "copy", "-n", place.namespace)

    core = core_of(fleet.process.pid, fleet.cwd)
    assert core is not None
    assert found_in(core) == set()
    core.unlink()
