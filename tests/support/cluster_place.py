"""The contract suite's place on a real Kubernetes cluster: a namespace of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any
from urllib.error import HTTPError

import pytest

from real_parts.kubernetes.parts import APART, NODES, Node, Parts
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from spreadpilot_core.ibkr.kubernetes.manifests import NO_VOLUME, PodChoices
from spreadpilot_core.ibkr.kubernetes.naming import FOLLOWER, SELECTOR, Naming, annotations_of
from spreadpilot_core.ibkr.kubernetes.phases import container_state, is_deleted, is_final
from spreadpilot_core.ibkr.kubernetes.runtime import KubernetesRuntime
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Controller, Gateway, GatewaySpec
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.simulator.login_book import LOGINS
from support.docker_images import Generation
from support.home import Home
from support.kubernetes_cluster import Cluster, audited
from support.kubernetes_images import simulator_image
from support.runtimes import OPTIONS, Place, make_spec

DEADLINE = 120.0
"""Seconds for a login on however busy a machine."""
CHOICES = PodChoices(storage_class=NO_VOLUME, cpu="10m")


_IMAGES: dict[str, tuple[str, float]] = {}


class ClusterPlace(Place):
    """A namespace of its own in the tests' cluster."""

    sender = "kubernetes"
    publishes = False
    pauses = False
    kills_at_once = False

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(f"gm-test-{secrets.token_hex(3)}")
        assert cluster.parts is not None, "images are put on the nodes of the tests' own cluster"
        self.cluster = cluster
        self.parts: Parts = cluster.parts
        self.namespace = self.owner
        self.user = f"user-{secrets.token_hex(4)}"
        self._runtimes: list[KubernetesRuntime] = []

    async def make(self) -> None:
        """Make the namespace; pods can be made in it at once, and run on the first node."""
        named = {"metadata": {"name": self.namespace}}
        await self.ask("POST", "/api/v1/namespaces", named)
        await self.run_on(NODES[0])
        await self.ask(
            "POST", f"/api/v1/namespaces/{self.namespace}/serviceaccounts", {"metadata": {"name": "default"}}
        )

    async def run_on(self, node: Node) -> None:
        """From now on new pods of the namespace run on this node alone."""
        tolerations = json.dumps([{"key": APART["key"], "operator": "Exists"}]) if node is not NODES[0] else "[]"
        said = {
            "scheduler.alpha.kubernetes.io/node-selector": f"kubernetes.io/hostname={node.name}",
            "scheduler.alpha.kubernetes.io/defaultTolerations": tolerations,
        }
        path = f"/api/v1/namespaces/{self.namespace}"
        await self.ask("PATCH", path, {"metadata": {"annotations": said}}, kind="application/merge-patch+json")

    async def ask(self, method: str, path: str, body: object = None, **choices: str) -> Any:
        """The API server's answer to its administrator; None where it refuses."""
        with contextlib.suppress(HTTPError):
            return await asyncio.to_thread(self.parts.ask, method, path, body, **choices)
        return None

    def pods(self, name: str = "") -> str:
        """The path of the namespace's pods, or of one."""
        return f"/api/v1/namespaces/{self.namespace}/pods{f'/{name}' if name else ''}"

    async def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """What kubectl prints."""
        return await asyncio.to_thread(self.parts.kubectl, *arguments, stdin=stdin, check=check)

    async def runtime(
        self,
        owner: str | None = None,
        *,
        identity: str | None = None,
        choices: PodChoices = CHOICES,
        start_time: float = 60.0,
    ) -> KubernetesRuntime:
        owner = owner or self.owner
        access = Access(str(self.cluster.kubeconfig), namespace=self.namespace)
        runtime = KubernetesRuntime(
            Api(access), prefix=owner, identities=Identities(identity or owner), choices=choices, start_time=start_time
        )
        runtime._probes._known = _IMAGES  # that an image tells of itself what it should, one look in a process proves
        self._runtimes.append(runtime)
        await runtime.open()
        return runtime

    def spec(
        self, follower_id: str = "alice", *, controller: Controller = "ibcontroller", **choices: Any
    ) -> GatewaySpec:
        image = simulator_image(self.parts, controller)
        options = OPTIONS.model_copy(update={"image": image})
        return make_spec(follower_id, **{"options": options, "user": self.user, **choices})

    async def spec_playing(self, controller: Controller, *laps: Mapping[str, Any]) -> GatewaySpec:
        script = {"SIMULATOR_SCRIPT": json.dumps(laps)}
        image = await asyncio.to_thread(simulator_image, self.parts, controller, script)
        return make_spec(options=OPTIONS.model_copy(update={"image": image}), user=self.user)

    def name_of(self, follower_id: str) -> str:
        return Naming(self.owner).pod(FollowerId(follower_id))

    async def typed(self, gateway: Gateway) -> int:
        """By the book in its settings, read on the node: an ended pod runs no command."""
        volumes = f"node-*/kubelet/pods/{gateway.container_id}/volumes/kubernetes.io~empty-dir/settings"
        books = self.parts.directory.glob(f"{volumes}/{LOGINS}")
        return sum(len(book.read_text().splitlines()) for book in books)

    async def pause(self, gateway: Gateway) -> None:
        raise NotImplementedError

    async def resume(self, gateway: Gateway) -> None:
        raise NotImplementedError

    async def restart(self, gateway: Gateway) -> None:
        raise NotImplementedError

    async def kill(self, gateway: Gateway) -> None:
        """Its container's first process, by the node; returns when the API server knows."""
        await asyncio.to_thread(self.kill_container, gateway.container_id)
        await self._until_ended(gateway)

    def kill_container(self, container_id: str) -> None:
        """SIGKILL to the first process of a pod's container, once it runs; ended already is fine."""
        chosen = f'labels."io.kubernetes.pod.uid"=={container_id},labels."io.kubernetes.container.name"==gateway'
        (container,) = (self.parts.ctr(NODES[0], "containers", "ls", "-q", chosen) or "").split()
        self.parts.ctr(NODES[0], "tasks", "kill", "--signal", "SIGKILL", container, check=False)

    async def _until_ended(self, gateway: Gateway) -> None:
        deadline = time.monotonic() + 60
        while (pod := await self.ask("GET", self.pods(gateway.name))) and "terminated" not in container_state(pod):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)

    async def hang(self, gateway: Gateway) -> None:
        command = ("exec", "-n", self.namespace, gateway.name, "--", "gateway-simulator", "inject", "freeze")
        await self.kubectl(*command)

    def had_two(self) -> list[str]:
        """The followers that got a pod before their last one's node had said that it ended, by the API server's own account."""
        living: dict[str, set[str]] = {}
        wrong = []
        for _, is_new, pod in sorted(self._told(), key=lambda each: each[0]):
            lives, uid = living.setdefault(annotations_of(pod)[FOLLOWER], set()), pod["metadata"]["uid"]
            never_began = is_deleted(pod) and not pod["spec"].get("nodeName")
            if is_new:
                wrong += [annotations_of(pod)[FOLLOWER]] if lives else []
                lives.add(uid)
            elif is_final(pod) or "terminated" in container_state(pod) or never_began:
                lives.discard(uid)
        assert living, "the audit log tells of no gateway"
        return wrong

    def ends(self) -> dict[str, int]:
        """Exit codes of the gateways' pods that have ended, by their ids."""
        states = {pod["metadata"]["uid"]: container_state(pod).get("terminated") for _, _, pod in self._told()}
        return {uid: state["exitCode"] for uid, state in states.items() if state}

    def _told(self) -> Iterator[tuple[str, bool, dict[str, Any]]]:
        """Each gateway's pod whenever the API server changed it, and when: new at the latest moment, ended at the earliest."""
        for event in audited(self.parts, self.namespace):
            pod = event.get("responseObject") or {}
            if pod.get("kind") == "Pod" and FOLLOWER in annotations_of(pod):
                is_new = event["verb"] == "create" and "subresource" not in event["objectRef"]
                yield event["stageTimestamp" if is_new else "requestReceivedTimestamp"], is_new, pod

    async def close(self) -> None:
        """End what was made, without asking anybody's guard."""
        for runtime in self._runtimes:
            await runtime.close()
        free = {"metadata": {"finalizers": None}}
        found = await self.ask("GET", self.pods()) or {}
        for pod in found.get("items", ()):
            path = self.pods(pod["metadata"]["name"])
            await self.ask("DELETE", path, {"gracePeriodSeconds": 0})
            await self.ask("PATCH", path, free, kind="application/merge-patch+json")
        await self.ask("DELETE", f"/api/v1/namespaces/{self.namespace}")


@pytest.fixture(name="cluster_place")
async def cluster_place_fixture(own_cluster: Cluster) -> AsyncIterator[ClusterPlace]:
    """A place in the tests' cluster; the test runs in its network."""
    with own_cluster.inside():
        place = ClusterPlace(own_cluster)
        await place.make()
        place.opened = await place.runtime()
        yield place
        await place.close()


class ClusterHome(Home):
    """A manager's home whose gateways run in the place's namespace."""

    def __init__(self, place: ClusterPlace, **settings: Any) -> None:
        super().__init__()
        self.users = f"{place.owner[-6:]}-"
        self.place = place
        self.settings |= {
            "runtime_url": f"kubernetes:{place.namespace}",
            "kubeconfig": str(place.cluster.kubeconfig),
            "kubernetes_storage_class": NO_VOLUME,
            "kubernetes_cpu_request": "10m",
            "container_prefix": place.owner,
            "max_startup_time": DEADLINE,
            "stop_grace": 20.0,
        } | settings

    async def add_on(self, generation: Generation, *follower_ids: str, nodes: Sequence[Node] = NODES[:1]) -> None:
        """Followers whose gateways are of one generation, as a user writes them; the image is on these nodes."""
        for node in nodes:
            image = await asyncio.to_thread(simulator_image, self.place.parts, generation, node=node)
        await self.add_with(image, *follower_ids)

    async def add_with(self, image: str, *follower_ids: str) -> None:
        """Followers whose gateways are of this image."""
        for follower_id in follower_ids:
            await self.add(follower_id)
            with self.followers_file.open("a") as file:
                file.write(f'\n[follower.gateway]\nimage = "{image}"\n')

    async def pods(self) -> list[dict[str, Any]]:
        """The gateways' pods, whatever their phase."""
        found = await self.place.ask("GET", f"{self.place.pods()}?labelSelector={SELECTOR}")
        items: list[dict[str, Any]] = found["items"]
        return items
