"""Followers as objects of a real cluster: the chart's definition, and one of the tests' own that lets every slip in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml

from real_parts.kubernetes.parts import Parts
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from spreadpilot_core.ibkr.kubernetes.follower_objects import GROUP, KIND, PLURAL
from spreadpilot_core.ibkr.kubernetes.followers import KubernetesFollowers
from support.helm import CHART
from support.kubernetes_cluster import Cluster
from support.waiting import wait_until

DEFINITION = CHART / "crds" / "ibgateways.yaml"
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_AT_ONCE = 8


def definition() -> dict[str, Any]:
    """The chart's."""
    made: dict[str, Any] = yaml.safe_load(DEFINITION.read_text())
    return made


class Definition:
    """A definition in the cluster; from inside alone."""

    def __init__(self, parts: Parts, group: str = GROUP) -> None:
        self.parts = parts
        self.group = group
        self.name = f"{PLURAL}.{group}"

    def make(self, *, lets_all_in: bool = False) -> None:
        """Have it be there; `lets_all_in`: as an older one might, whatever stands in a spec."""
        made = definition()
        made["metadata"]["name"], made["spec"]["group"] = self.name, self.group
        if lets_all_in:
            schema = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            schema["properties"]["spec"] = _ANYTHING
        self.parts.kubectl("apply", "-f", "-", stdin=json.dumps(made))
        self.parts.kubectl("wait", "--for=condition=Established", f"crd/{self.name}", "--timeout=60s")
        wait_until(lambda: self.parts.answers(f"/apis/{self.group}/v1/namespaces/default/{PLURAL}", b"items"))

    def delete(self) -> None:
        """With all objects."""
        self.parts.kubectl("delete", "crd", self.name, "--ignore-not-found")


class ClusterFollowersUnderTest:
    """In a namespace of its own."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        assert cluster.parts is not None
        self._cluster, self._parts, self._group = cluster, cluster.parts, group
        self.namespace = f"gm-followers-{secrets.token_hex(3)}"
        self._parts.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def store(self) -> KubernetesFollowers:
        """A new adapter object, not opened."""
        return KubernetesFollowers(
            Api(Access(str(self._cluster.kubeconfig), namespace=self.namespace)), group=self._group
        )

    async def put(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Make these the whole content, one write after the other as somebody with kubectl would."""
        await asyncio.to_thread(self._put, documents)

    def _put(self, documents: Sequence[Mapping[str, Any]]) -> None:
        path = f"/apis/{self._group}/v1/namespaces/{self.namespace}/{PLURAL}"
        self._parts.ask("DELETE", path)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda each: self._parts.ask("POST", path, self._object(each)), documents))

    def _object(self, document: Mapping[str, Any]) -> dict[str, Any]:
        spec = {name: value for name, value in document.items() if name != "id"}
        return {
            "apiVersion": f"{self._group}/v1",
            "kind": KIND,
            "metadata": {"name": document["id"]},
            "spec": spec,
        }

    def close(self) -> None:
        """Remove the namespace, and with it all objects."""
        with contextlib.suppress(HTTPError):
            self._parts.ask("DELETE", f"/api/v1/namespaces/{self.namespace}")


@pytest.fixture(scope="session", name="group_of_objects")
def group_of_objects_fixture(own_cluster: Cluster) -> Iterator[str]:
    """Of a definition of this run's own, which lets every slip in."""
    assert own_cluster.parts is not None
    with own_cluster.inside():
        made = Definition(own_cluster.parts, f"t{secrets.token_hex(4)}.gateway-manager")
        made.make(lets_all_in=True)
    yield made.group
    with own_cluster.inside():
        made.delete()
