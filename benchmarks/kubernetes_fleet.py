"""The start of a fleet on a real Kubernetes cluster, 20 gateways at once, against bare pods through the same API.

The cluster is the tests' own: one node, containers of the simulator's image. `bare` creates as many pods of the same manifest, all at
once, and watches until their containers run: no password, no Service, nothing looked at before. `runtime` is the Kubernetes runtime
alone, until every pod has its password; `manager` is from `start()` until every gateway has it, with `parallel_starts = 20` and the
login's time left out: settings are as shipped, and logins take as long as real ones. Both find policy and Services there, and the
manager what a manager before it has noted of the image, as every start but the very first does; it has the image looked at all the
same, as each one does once. `first start ever` is the runtime's, and the manager's, without any of them. The ratio is of the medians of
all rounds, bare and ours in turn. The manager's own CPU time is told beside it. Needs root, containerd and what `make cluster` builds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks.support.figures import Findings, at_most, number, run
from benchmarks.support.launches import PATIENCE, as_shipped, until_all_run
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import deliver
from spreadpilot_core.ibkr.kubernetes.access_rules import NETWORKING
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from spreadpilot_core.ibkr.kubernetes.image_notes import NOTES
from spreadpilot_core.ibkr.kubernetes.manifests import gateway_pod
from spreadpilot_core.ibkr.kubernetes.naming import SELECTOR
from spreadpilot_core.ibkr.kubernetes.phases import is_running
from spreadpilot_core.ibkr.kubernetes.pods import name_of
from spreadpilot_core.ibkr.kubernetes.runtime import KubernetesRuntime
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, GatewaySpec
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.identity import write_note
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.whole_files import write_whole
from support.cluster_place import ClusterHome, ClusterPlace
from support.kubernetes_cluster import own_cluster
from support.kubernetes_images import simulator_image
from support.runtimes import committed, make_spec

_FEW_AT_ONCE = 20
Seconds = Mapping[str, float]


class Fleet:
    """The followers and their gateways in one namespace; every start leaves it empty again."""

    def __init__(self, place: ClusterPlace, image: str, gateways: int) -> None:
        self.place = place
        self._image = image
        self.count = gateways
        self.names = [f"f{number}" for number in range(gateways)]
        self._noted: bytes | None = None
        """What a manager before noted of the image."""

    async def home(self) -> ClusterHome:
        """Followers and settings of a manager whose identity is that of all that is there, with the notes of the one before."""
        home = ClusterHome(self.place, log_level="error", max_startup_time=PATIENCE, parallel_starts=_FEW_AT_ONCE)
        home.settings |= {**as_shipped(), "gateway_image": self._image}
        write_note(Settings.read(**home.settings), Identities(self.place.owner))
        if self._noted is not None:
            write_whole(home.directory / NOTES, self._noted)
        await home.add(*self.names)
        return home

    async def forget(self) -> None:
        """As if nothing had ever been started there."""
        self._noted, namespace = None, f"namespaces/{self.place.namespace}"
        for kind in (f"/api/v1/{namespace}/services", f"/apis/{NETWORKING}/{namespace}/networkpolicies"):
            await self.place.ask("DELETE", kind)

    async def end(self, home: ClusterHome) -> None:
        """Only its notes are kept."""
        self._noted = (home.directory / NOTES).read_bytes()
        await home.end()

    def specs(self) -> list[GatewaySpec]:
        """As a manager would ask for them."""
        shared = make_spec().options.model_copy(update={"image": self._image})
        return [make_spec(name, options=shared, user=f"{self.place.owner[-6:]}-{name}") for name in self.names]

    async def runtime(self, home: ClusterHome) -> KubernetesRuntime:
        """An open one that has looked at the image."""
        runtime = KubernetesRuntime.from_settings(Settings.read(**home.settings), manager_id="benchmark")
        runtime.identities = Identities(self.place.owner)
        await runtime.open()
        await runtime.prepare(self.specs()[0])
        return runtime

    async def bare(self) -> Seconds:
        """The plain calls."""
        home = await self.home()
        runtime = await self.runtime(home)
        api, naming, choices = runtime._api, runtime._naming, runtime._choices  # noqa: SLF001  # as the runtime would ask for them
        image = await runtime._probes.at_hand(self.specs()[0], naming)  # noqa: SLF001
        manifests = [
            gateway_pod(image, spec, 1000 + each, naming=naming, choices=choices, version="0")
            for each, spec in enumerate(self.specs())
        ]
        begun = time.perf_counter()
        watching = asyncio.create_task(self._all_run(api))
        await asyncio.gather(*(api.create("make a pod", api.place("pods"), each) for each in manifests))
        await watching
        took = time.perf_counter() - begun
        await self._leave(runtime, home)
        return {"bare": took}

    async def _all_run(self, api: Api) -> None:
        """One watch of all; it begins with those that are there."""
        running = set[str]()
        async with (
            asyncio.timeout(PATIENCE),
            api.stream("watch pods", api.place("pods"), {"watch": "1", "labelSelector": SELECTOR}) as lines,
        ):
            while len(running) < self.count:
                event = json.loads(await lines.readline())
                if is_running(event["object"]):
                    running.add(name_of(event["object"]))

    async def through_the_runtime(self, name: str) -> Seconds:
        """The runtime alone."""
        home = await self.home()
        runtime = await self.runtime(home)

        async def one(number: int, spec: GatewaySpec) -> None:
            await runtime.prepare(spec)
            await runtime.launch(spec, 1000 + number, secret=_secret, commit=committed)

        begun = time.perf_counter()
        await asyncio.gather(*(one(number, spec) for number, spec in enumerate(self.specs())))
        took = time.perf_counter() - begun
        await self._leave(runtime, home)
        return {name: took}

    async def _leave(self, runtime: KubernetesRuntime, home: ClusterHome) -> None:
        """Remove whatever runs, confirmed by its node, and wait until none is there."""
        gateways = await runtime.list()
        if len(gateways) != self.count:
            raise RuntimeError(f"there are {len(gateways)} of {self.count} pods")
        await asyncio.gather(*(runtime.remove(each.container_id, grace=0) for each in gateways))
        await runtime.close()
        await self.end(home)

    async def through_the_manager(self, name: str = "manager") -> Seconds:
        """A whole manager."""
        home = await self.home()
        manager = home.manager()
        begun = time.perf_counter()
        first = asyncio.create_task(self._first_pod())
        took, cpu = await until_all_run(manager, self.count)
        before = await first - begun
        await manager.stop()
        await self.end(home)
        return {name: took} if name != "manager" else {name: took, "launches": took - before, "cpu": cpu}

    async def _first_pod(self) -> float:
        """When a gateway's pod was made."""
        api = Api(Access(str(self.place.cluster.kubeconfig), namespace=self.place.namespace))
        await api.open()
        try:
            query = {"watch": "1", "labelSelector": SELECTOR}
            async with api.stream("watch pods", api.place("pods"), query) as lines:
                await lines.readline()
                return time.perf_counter()
        finally:
            await api.close()


async def _secret(target: DeliveryTarget) -> None:
    await asyncio.to_thread(deliver, target.as_json(), b"password")


async def measure(findings: Findings, place: ClusterPlace, given: Namespace) -> None:
    """Every round, each thing in turn, and tell."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(given.gateways))
    image = await asyncio.to_thread(simulator_image, place.parts, "ibcontroller", {"SIMULATOR_TIMINGS": given.timings})
    fleet, times = Fleet(place, image, given.gateways), defaultdict[str, list[float]](list)

    async def take(name: str, timed: Callable[[], Awaitable[Seconds]]) -> None:
        with findings.part(name):
            for what, seconds in (await timed()).items():
                times[what].append(seconds)
                print(what, f"{seconds:.2f}", file=sys.stderr, flush=True)

    await place.make()
    try:
        await take("the first start ever", lambda: fleet.through_the_runtime("first"))
        await fleet.forget()
        await take("the first start ever of a manager", lambda: fleet.through_the_manager("first manager"))
        for _ in range(given.rounds):
            await take("bare pods", fleet.bare)
            await take("the runtime alone", lambda: fleet.through_the_runtime("runtime"))
            await take("the manager", fleet.through_the_manager)
    finally:
        await place.close()
    tell(findings, times, given.gateways)


def tell(findings: Findings, times: Mapping[str, list[float]], gateways: int) -> None:
    """The medians of the rounds, against bare pods."""
    least = statistics.median(times["bare"])
    questions = {
        "runtime": f"How long do {gateways} gateways on Kubernetes take to start in the runtime alone, against bare pods, all at once?",
        "manager": "… through the manager, until each has its password?",
        "launches": "… from its first pod on, without its own start?",
        "first": "… in the runtime at the first start ever, without policy and Services?",
        "first manager": "… through the manager at the first start ever, with the look at the image before?",
    }
    for name, question in questions.items():
        took = statistics.median(times[name])
        ratio, each = took / least, [f"{seconds:.1f}" for seconds in times[name]]
        findings.figure(
            question,
            f"{ratio:.2f} times ({took:.1f} s, {least:.1f} s bare; the rounds: {', '.join(each)} s)",
            aim=at_most(ratio, 1.25, "times"),
            ratio=(ratio, "times"),
            seconds=(took, "s"),
            bare=(least, "s"),
        )
    each_ms = 1000 * statistics.median(times["cpu"]) / gateways
    findings.figure(
        "What does such a launch cost the manager in processor time?",
        f"{number(each_ms)} ms",
        processor=(each_ms, "ms"),
    )


def on_the_cluster(findings: Findings, given: Namespace) -> None:
    """In its network."""
    logging.getLogger("spreadpilot_core.ibkr").setLevel(logging.ERROR)
    with own_cluster() as cluster, cluster.inside():
        asyncio.run(measure(findings, ClusterPlace(cluster), given))


if __name__ == "__main__":
    asked = options(__doc__, gateways=(20, 1), rounds=(5, 1), timings=("real", "fast"))
    sys.exit(run(lambda findings: on_the_cluster(findings, asked)))
