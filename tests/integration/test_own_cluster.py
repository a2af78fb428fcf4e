"""The tests' own Kubernetes cluster: what later tests take for granted of it."""

from __future__ import annotations

import json

import pytest

from real_parts.kubernetes.parts import NODES
from support.kubernetes_cluster import Cluster, may_build, own_cluster_fixture  # noqa: F401  # a fixture
from support.kubernetes_images import simulator_image
from support.waiting import wait_until

pytestmark = [pytest.mark.real_part("kubernetes"), may_build]


def test_its_node_runs_a_simulated_gateway_as_the_images_own_user(own_cluster: Cluster) -> None:
    """The image is there without a registry, with the Dockerfile's variables, and pods get addresses."""
    parts = own_cluster.parts
    assert parts is not None
    image = simulator_image(parts, "ibcontroller")
    container = {"name": "c", "image": image, "command": ["sh", "-c", "id -u; echo $IBC_APP_DIR; sleep 60"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "smoke"}, "spec": {"containers": [container]}}
    with own_cluster.inside():
        parts.kubectl("create", "-f", "-", stdin=json.dumps(pod))
        try:
            wait_until(lambda: "ibcontroller" in parts.kubectl("logs", "smoke", check=False))
            assert parts.kubectl("logs", "smoke").splitlines() == ["1000", "/home/ibgateway/ibcontroller"]
            address = parts.kubectl("get", "pod", "smoke", "-o", "jsonpath={.status.podIP}")
            assert address.startswith(NODES[0].pods.rpartition(".")[0])
        finally:
            parts.kubectl("delete", "pod", "smoke", "--grace-period=0", "--force")
