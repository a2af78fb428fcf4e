"""The manager on a real cluster while its gateways are killed, starved and evicted, and their node is lost: all told, all made good."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from real_parts.kubernetes.parts import NODES, control_groups
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.simulator.login_book import LOGINS
from support.cluster_place import DEADLINE, ClusterHome, ClusterPlace, cluster_place_fixture  # noqa: F401  # a fixture
from support.home import eventually, seen
from support.kubernetes_cluster import cluster_fixture, may_build, own_cluster_fixture  # noqa: F401  # fixtures

pytestmark = [pytest.mark.real_part("kubernetes"), may_build]

VICTIM = "alice"
APART = NODES[1]
KILLED = 137
STARVE = """
import os, time
for process in filter(str.isdecimal, os.listdir("/proc")):
    if int(process) not in (1, os.getpid()):
        try:
            with open(f"/proc/{process}/oom_score_adj", "w") as score:
                score.write("1000")
        except OSError:
            pass
while True:
    if os.fork() == 0:
        eaten = b"x" * (16 << 20)
        time.sleep(600)
"""
"""Eats the pod's memory by many small processes until the kernel kills somebody, and offers it the gateway first."""


class ManagerUnderTest:
    """A manager with one gateway, and all that it says."""

    def __init__(self, home: ClusterHome, **settings: Any) -> None:
        self.home = home
        self.manager: GatewayManager = home.manager(heartbeat_timeout=6.0, connect_time=10.0, **settings)
        self.said: list[str] = []

    async def listen(self) -> None:
        """Until the manager ends."""
        async for event in self.manager.events():
            self.said.append(event.sentence)

    async def ready(self) -> None:
        """Wait until it is."""
        await eventually(
            lambda: self.manager.is_healthy(VICTIM), lambda: (seen(self.manager, VICTIM), self.said), within=DEADLINE
        )

    async def says(self, words: str) -> None:
        """Wait until a sentence has these words in it."""
        await eventually(lambda: any(words in each for each in self.said), lambda: (words, self.said), within=DEADLINE)

    async def has(self, code: ReasonCode) -> None:
        """Wait until this is why it is not ready."""
        await eventually(
            lambda: seen(self.manager, VICTIM).reason_code == code.value,
            lambda: (seen(self.manager, VICTIM), self.said),
            within=DEADLINE,
        )

    async def pod(self) -> dict[str, str]:
        """The id, name and node of its only pod."""
        (pod,) = await self.home.pods()
        return {**pod["metadata"], "node": pod["spec"].get("nodeName", "")}

    async def until_replaced(self, uid: str) -> None:
        """Wait until it is ready in another pod; there are never two."""
        async with asyncio.timeout(DEADLINE):
            while True:
                pods = await self.home.pods()
                assert len(pods) <= 1
                if pods and pods[0]["metadata"]["uid"] != uid and self.manager.is_healthy(VICTIM):
                    return
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def watched(home: ClusterHome, **settings: Any) -> AsyncIterator[ManagerUnderTest]:
    """Its gateway is ready; in the end nothing of it may be left."""
    it = ManagerUnderTest(home, **settings)
    listening = asyncio.create_task(it.listen())
    await it.manager.start()
    try:
        await it.ready()
        yield it
    finally:
        await it.manager.stop()
        await asyncio.wait({listening})
        await home.end()
    assert await home.pods() == []


@pytest.fixture(name="home")
async def home_fixture(cluster_place: ClusterPlace) -> ClusterHome:
    """A manager's home with one follower."""
    return ClusterHome(cluster_place)


async def kill(place: ClusterPlace, pod: dict[str, str]) -> None:
    """SIGKILL, on its node."""
    await asyncio.to_thread(place.kill_container, pod["uid"])


async def evict(place: ClusterPlace, pod: dict[str, str]) -> None:
    """As `kubectl drain` does."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["name"]}}
    await place.ask("POST", f"{place.pods(pod['name'])}/eviction", eviction)


async def starve(place: ClusterPlace, pod: dict[str, str]) -> None:
    """Something in it takes all memory that it may have."""
    command = ("exec", "-n", place.namespace, pod["name"], "--", "python3", "-c", STARVE)
    await place.kubectl(*command, check=False)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        pytest.param(kill, "ended with code 137", id="killed"),
        pytest.param(evict, "The cluster ended it: Eviction API: evicting", id="evicted"),
        pytest.param(starve, "It was OOM-killed at 1Gi", id="starved"),
    ],
)
async def test_a_gateway_that_somebody_ends_is_replaced_and_says_why(
    home: ClusterHome, act: Callable[[ClusterPlace, dict[str, str]], Awaitable[None]], words: str
) -> None:
    """In the kubelet's and the cluster's own words; the follower has one pod at a time."""
    await home.add_on("ibcontroller", VICTIM)
    async with watched(home) as it:
        pod = await it.pod()
        await act(home.place, pod)
        await it.says(words)
        await it.until_replaced(pod["uid"])


@contextlib.asynccontextmanager
async def second_node(place: ClusterPlace) -> AsyncIterator[None]:
    """A node for this test alone, on which the namespace's pods run."""
    parts = place.parts
    with FileLock(parts.directory / f"{APART.name}.lock", thread_local=False):
        await asyncio.to_thread(parts.start_node, APART)
        await asyncio.to_thread(parts.wait_for, f"kubelet-{APART.name}", lambda: parts.is_ready(APART))
        await place.run_on(APART)
        try:
            yield
        finally:
            for part in ("kubelet", "containerd"):
                await asyncio.to_thread(parts.end, f"{part}-{APART.name}")
            await place.ask("DELETE", f"/api/v1/nodes/{APART.name}")


async def lose_node(place: ClusterPlace) -> None:
    """Its kubelet and containerd are away; its containers go on."""
    for part in ("kubelet", "containerd"):
        await asyncio.to_thread(place.parts.end, f"{part}-{APART.name}", signal.SIGKILL)


def logins_on(place: ClusterPlace) -> int:
    """How many logins were typed on the second node, by the simulator's own books."""
    books = place.parts.directory.glob(f"{APART.name}/kubelet/pods/*/volumes/kubernetes.io~empty-dir/settings/{LOGINS}")
    return sum(len(book.read_text().splitlines()) for book in books)


async def test_a_lost_node_keeps_its_gateway_until_it_is_back(home: ClusterHome) -> None:
    """Nobody logs in a second time meanwhile, also not when the pod is deleted by force; then it goes on by itself."""
    async with second_node(home.place):
        await home.add_on("ibcontroller", VICTIM, nodes=[APART])
        async with watched(home) as it:
            pod = await it.pod()
            assert pod["node"] == APART.name
            await lose_node(home.place)
            await it.has(ReasonCode.NODE_LOST)
            sentence = str(seen(it.manager, VICTIM).reason)
            assert f"its node {APART.name} does not answer" in sentence
            assert "node.kubernetes.io/out-of-service" in sentence
            await home.place.ask("DELETE", home.place.pods(pod["name"]), {"gracePeriodSeconds": 0})
            await asyncio.sleep(
                6
            )  # it is tried again every five seconds; that it never succeeds can only be waited for
            assert (await it.pod())["uid"] == pod["uid"]
            assert logins_on(home.place) == 1
            await asyncio.to_thread(home.place.parts.start_node, APART)
            await it.until_replaced(pod["uid"])


async def test_a_machine_that_is_off_for_good_is_given_up_once_somebody_says_so(home: ClusterHome) -> None:
    """By the taint that Kubernetes has for that; the next gateway starts elsewhere."""
    async with second_node(home.place):
        await home.add_on("ibcontroller", VICTIM, nodes=[APART, NODES[0]])
        async with watched(home) as it:
            pod = await it.pod()
            await lose_node(home.place)
            await it.has(ReasonCode.NODE_LOST)
            await asyncio.to_thread(switch_off, home.place, pod["uid"])
            await home.place.run_on(NODES[0])
            taint = f"taint nodes {APART.name} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
            await home.place.kubectl(*taint.split())
            await it.until_replaced(pod["uid"])
            assert (await it.pod())["node"] == NODES[0].name


def switch_off(place: ClusterPlace, uid: str) -> None:
    """End every process of a pod, as its machine's end does."""
    groups = [group for tree in control_groups() for group in (tree / place.parts.group).rglob(f"pod{uid}")]
    for file in (each for group in groups for each in Path(group).rglob("cgroup.procs")):
        for process in file.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


class Drain:
    """`kubectl drain` of the second node, as the documentation says it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said = ""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def begin(cls, place: ClusterPlace) -> Drain:
        """It waits for as long as this test may take."""
        parts = place.parts
        kubectl = (str(parts.program), "kubectl", f"--kubeconfig={parts.kubeconfig}")
        return cls(
            await asyncio.create_subprocess_exec(
                *(*kubectl, "drain", APART.name, "--force", "--delete-emptydir-data", f"--timeout={DEADLINE:g}s"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        )

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said += line.decode()

    async def says(self, words: str) -> None:
        """Wait until it has."""
        await eventually(lambda: words in self.said, lambda: (words, self.said), within=DEADLINE)

    async def done(self) -> None:
        """The node is drained."""
        assert await self._process.wait() == 0, self.said
        await self._reading
        assert f"node/{APART.name} drained" in self.said


async def test_a_drain_moves_a_gateway_to_another_node(home: ClusterHome) -> None:
    """It gets the time to log off; its follower's next one starts elsewhere, once the node has said that the first has ended."""
    async with second_node(home.place):
        await home.add_on("ibcontroller", VICTIM, nodes=[APART, NODES[0]])
        async with watched(home) as it:
            pod = await it.pod()
            await home.place.run_on(NODES[0])
            drain = await Drain.begin(home.place)
            await it.until_replaced(pod["uid"])
            await drain.done()
            await it.says("The cluster ended it: Eviction API: evicting")
            assert (await it.pod())["node"] == NODES[0].name
            assert home.place.ends()[pod["uid"]] != KILLED
    assert home.place.had_two() == []


async def test_a_drained_gateway_without_another_node_waits_for_one(home: ClusterHome) -> None:
    """The drain ends, the scheduler's words say what the next one waits for, and nothing is typed before the node takes pods again."""
    async with second_node(home.place):
        await home.add_on("ibcontroller", VICTIM, nodes=[APART])
        async with watched(home) as it:
            pod = await it.pod()
            await (await Drain.begin(home.place)).done()
            await eventually(
                lambda: "were unschedulable" in str(seen(it.manager, VICTIM).reason),
                lambda: (seen(it.manager, VICTIM), it.said),
                within=DEADLINE,
            )
            assert logins_on(home.place) == 0  # what the first one typed went with its volume
            await home.place.kubectl("uncordon", APART.name)
            await it.until_replaced(pod["uid"])
            assert logins_on(home.place) == 1
    assert home.place.had_two() == []


async def test_a_drain_waits_until_the_operator_stops_the_gateway(home: ClusterHome) -> None:
    """With `kubernetes_refuse_eviction`: meanwhile it is ready, and its client stays connected. It is launched elsewhere then."""
    async with second_node(home.place):
        await home.add_on("ibcontroller", VICTIM, nodes=[APART, NODES[0]])
        async with watched(home, kubernetes_refuse_eviction=True) as it:
            pod, client = await it.pod(), await it.manager.get_client(VICTIM)
            await home.place.run_on(NODES[0])
            drain = await Drain.begin(home.place)
            await drain.says("would violate the pod's disruption budget")
            assert (await it.pod())["uid"] == pod["uid"]
            assert it.manager.is_healthy(VICTIM)
            assert await it.manager.get_client(VICTIM) is client
            await it.manager.stop_gateway(VICTIM)
            await drain.done()
            await it.manager.launch_gateway(VICTIM)
            await it.until_replaced(pod["uid"])
            assert (await it.pod())["node"] == NODES[0].name
            assert home.place.ends()[pod["uid"]] != KILLED
    assert home.place.had_two() == []
