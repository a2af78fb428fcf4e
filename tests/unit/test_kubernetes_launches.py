"""Launches in a made-up cluster, over a real connection: what they ask the API server, and in which order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from spreadpilot_core.ibkr.errors import LaunchError, UserTakenError
from spreadpilot_core.ibkr.kubernetes.access_rules import AccessRules
from spreadpilot_core.ibkr.kubernetes.manifests import NO_VOLUME, PodChoices
from spreadpilot_core.ibkr.kubernetes.naming import COMMITTED, IDENTITY, USER, annotations_of
from spreadpilot_core.ibkr.kubernetes.runtime import KubernetesRuntime
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.records import ContainerId, Identities
from spreadpilot_core.ibkr.model.users import user_digest
from support.runtimes import committed, make_spec, until, watching
from support.scripted_kubernetes import answered_by
from support.watched_pods import RUNNING, WatchedPods

_SAYS = "1000\n1000\n/home/ibgateway\nIBC_APP_DIR=/home/ibgateway/ibcontroller\nIBC_PROGRAM=gateway\n"
FEW = 20


class MadeUpCluster(WatchedPods):
    """Takes whatever is made; its pods run in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.things: dict[str, dict[str, Any]] = {}
        self.creates_theirs = False
        """Whether another manager creates a pod of the same user whenever we create one; ours don't run then."""
        self.ends_them_at_once = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        name = request.path.rpartition("/")[2]
        if request.path.endswith(("/version", "/pods")) and request.method == "GET" and "in" not in _users(request):
            return await super().answer(request)
        self.asked.append(f"{request.method} {request.path.rpartition('/')[2] if name == 'pods' else _kind(request)}")
        if name == "pods" and request.method == "POST":
            return await self._create(await request.json())
        if name == "pods":
            digests = _users(request).partition(" in (")[2].rstrip(")").split(",")
            found = [pod for pod in self.pods.values() if pod["metadata"]["labels"].get(USER) in digests]
            return web.json_response({"items": found})
        if "/pods/" in request.path:
            return await self._change_pod(name, request)
        return await self._thing(request)

    async def _create(self, pod: dict[str, Any]) -> web.Response:
        name = pod["metadata"]["name"]
        made = self._put("ADDED", {**pod, "metadata": {**pod["metadata"], "uid": f"u-{name}"}, "status": {}})
        if self.creates_theirs:
            metadata = {**pod["metadata"], "name": f"theirs-{name}", "uid": f"u-theirs-{name}"}
            theirs = {**annotations_of(pod), IDENTITY: "another"}
            self._put("ADDED", {**pod, "metadata": {**metadata, "annotations": theirs}, "status": {}})
        else:
            asyncio.get_running_loop().call_later(0.05, self._run, name)
        return web.json_response(made, status=201)

    def _run(self, name: str) -> None:
        if self.ends_them_at_once:
            self.change(name, phase="Failed", reason="Evicted", message="no room")
        else:
            self.change(name, podIP="10.0.0.1", phase="Running", **RUNNING)

    async def _change_pod(self, name: str, request: web.Request) -> web.Response:
        if (pod := self.pods.get(name)) is None:
            return web.json_response({"kind": "Status", "message": "there is none"}, status=404)
        if request.method == "DELETE":
            self._put("MODIFIED", {**pod, "status": {"phase": "Succeeded"}, "spec": {**pod["spec"], "nodeName": "n"}})
        elif request.method == "PATCH":
            metadata = (await request.json())["metadata"]
            if "finalizers" in metadata:
                self.remove(name)
                return web.json_response(pod)
            marks = {**annotations_of(pod), **metadata["annotations"]}
            self._put("MODIFIED", {**pod, "metadata": {**pod["metadata"], "annotations": marks}})
        return web.json_response(self.pods[name])

    async def _thing(self, request: web.Request) -> web.Response:
        """Of any other kind."""
        if request.method == "POST":
            thing = await request.json()
            self.things[f"{request.path}/{thing['metadata']['name']}"] = thing
            return web.json_response(thing, status=201)
        if "labelSelector" in request.query:
            return web.json_response({"items": []})
        found = self.things.get(request.path)
        return web.json_response(found or {}, status=200 if found else 404)


def _users(request: web.Request) -> str:
    return request.query.get("labelSelector", "").partition(f"{USER}")[2] and request.query["labelSelector"]


def _kind(request: web.Request) -> str:
    words = request.path.split("/")
    return words[-1] if request.method == "POST" else f"{words[-2]}/*"


@pytest.fixture(name="cluster")
def cluster_fixture() -> MadeUpCluster:
    """One with nothing in it."""
    return MadeUpCluster()


@pytest.fixture(name="runtime")
async def runtime_fixture(cluster: MadeUpCluster, tmp_path: Path) -> AsyncIterator[KubernetesRuntime]:
    """It knows the image."""
    async with answered_by(cluster.answer, tmp_path) as api:
        runtime = KubernetesRuntime(
            api,
            prefix="fleet",
            identities=Identities("own"),
            choices=PodChoices(storage_class=NO_VOLUME),
            access=AccessRules(has_policy=True),
        )
        runtime._probes._known = {str(make_spec().options.image): (_SAYS, 0.0)}
        assert await anext(runtime.changes()) is None  # as a manager hears of them from its beginning
        yield runtime
        await runtime.close()


async def delivered(target: DeliveryTarget) -> None:
    """It has its password."""
    del target


async def launch(runtime: KubernetesRuntime, number: int = 0) -> Gateway:
    """One of a user of its own."""
    spec = make_spec(f"f{number}", user=f"user{number}")
    await runtime.prepare(spec)
    return await runtime.launch(spec, 1000 + number, secret=delivered, commit=committed)


async def test_launches_that_begin_at_once_ask_together_what_they_can(
    cluster: MadeUpCluster, runtime: KubernetesRuntime
) -> None:
    """For each its pod and its mark, and its Service once; policy, Services and users are looked at for all; and one watch."""
    gateways = await asyncio.gather(*(launch(runtime, number) for number in range(FEW)))
    assert {each.phase for each in gateways} == {GatewayPhase.RUNNING}
    assert {each.endpoint.host for each in gateways if each.endpoint is not None} == {"10.0.0.1"}
    asked = Counter(cluster.asked)
    each_one = {"POST pods", "PATCH pods/*", "POST services"}
    assert {kind: asked.pop(kind) for kind in each_one} == dict.fromkeys(each_one, FEW)
    assert asked.pop("watch") == 1
    assert asked.total() < FEW / 2, asked


async def test_another_managers_pod_that_is_created_at_the_same_moment_is_seen(
    cluster: MadeUpCluster, runtime: KubernetesRuntime
) -> None:
    """Each had looked before the other's was there: so it is looked again, while the pod starts, and nothing is committed."""
    cluster.creates_theirs = True
    commits: list[ContainerId] = []

    async def commit(container_id: ContainerId) -> None:
        commits.append(container_id)

    spec = make_spec("alice", user="user")
    await runtime.prepare(spec)
    with pytest.raises(UserTakenError, match="theirs-fleet-alice"):
        await runtime.launch(spec, 1000, secret=delivered, commit=commit)
    assert commits == []
    assert list(cluster.pods) == ["theirs-fleet-alice"]
    assert cluster.pods["theirs-fleet-alice"]["metadata"]["labels"][USER] == user_digest("user")


async def test_a_pod_that_is_removed_while_its_password_is_delivered_is_no_gateway(
    cluster: MadeUpCluster, runtime: KubernetesRuntime
) -> None:
    """What the launch gives is what is there at its end."""

    async def removed(target: DeliveryTarget) -> None:
        await until(lambda: told.count(target.container_id) == 1, lambda: told)  # that it was marked
        cluster.remove("fleet-alice")
        await until(lambda: told.count(target.container_id) == 2, lambda: told)

    spec = make_spec("alice", user="user")
    await runtime.prepare(spec)
    async with watching(runtime) as told:
        with pytest.raises(LaunchError, match="removed by somebody else"):
            await runtime.launch(spec, 1000, secret=removed, commit=committed)


async def test_a_pod_bears_its_mark_before_it_gets_its_password(
    cluster: MadeUpCluster, runtime: KubernetesRuntime
) -> None:
    """The next manager knows by it that a login may be typed."""
    marked: list[bool] = []

    async def secret(target: DeliveryTarget) -> None:
        marked.append(COMMITTED in annotations_of(cluster.pods[target.address["pod"]]))

    spec = make_spec("alice", user="user")
    await runtime.prepare(spec)
    await runtime.launch(spec, 1000, secret=secret, commit=committed)
    assert marked == [True]


async def test_a_pod_that_ends_before_its_password_leaves_nothing(
    cluster: MadeUpCluster, runtime: KubernetesRuntime
) -> None:
    """In its node's words; its finalizer is taken, and its name is free."""
    cluster.ends_them_at_once = True
    with pytest.raises(LaunchError, match="no room"):
        await launch(runtime)
    assert cluster.pods == {}
