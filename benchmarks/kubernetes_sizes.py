"""What a gateway costs on Kubernetes among a hundred and among a thousand: time, processor time, API requests, memory.

API server, etcd, scheduler and controllers are real; nodes are kwok's, so that no machine has to hold a thousand gateways: their pods
run as soon as they have a node, take their password through the API server, print the same two lines, and end when they are asked to.
Measured is the Kubernetes runtime with all that it does for a manager, with the courier's own sender: for each gateway policy,
Service, claim, pod, its place and start, its mark and password, and its log followed; one watch of all pods, a look at each gateway
that changed, and a list of all for a change of what nobody knows, as the fleet has it; in the end its removal. Logins are no part of it. Each fleet is a fresh process in a fresh namespace, launches and
removes 20 at a time, and has an account with a manager's rights on an API server of its own, whose audit log counts every request.
The small fleet is measured before and after the large one, and its figures are the middle of both. Memory is what the process
has for itself alone (private pages), before, with all of them running, and again after the cluster has told of two more
changes of every pod, which mean nothing to the manager.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.memory import private_memory
from benchmarks.support.figures import Findings, at_most, number, run
from benchmarks.support.running import measured_apart
from benchmarks.support.simulated_cluster import counted, counting_server, printed_by_pods, stage
from benchmarks.support.sizes import options
from real_parts.kubernetes.parts import Parts
from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import deliver
from spreadpilot_core.ibkr.kubernetes.access_rules import AccessRules
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from spreadpilot_core.ibkr.kubernetes.manifests import PodChoices
from spreadpilot_core.ibkr.kubernetes.runtime import KubernetesRuntime
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, Gateway, GatewaySpec
from spreadpilot_core.ibkr.model.records import ContainerId, Identities
from spreadpilot_core.ibkr.tasks import Tasks
from support.kubernetes_cluster import own_cluster
from support.runtimes import make_spec
from support.simulated_nodes import simulated_nodes

AT_ONCE = 20
GRACE = 20.0
ROUNDS_OF_CHANGES = 2
_WARM = 3
_IMAGE = "docker.io/library/simulated-gateway:1"


@dataclass(frozen=True)
class Cost:
    """Of something that was done with every gateway of a fleet, for each of them."""

    time: float
    """Milliseconds."""
    processor: float
    """Milliseconds of this process."""
    requests: float


@dataclass(frozen=True)
class Found:
    """One fleet."""

    start: Cost
    end: Cost
    memory: float
    """Kilobytes for each gateway."""
    growth: float
    """Kilobytes more for each, after changes that mean nothing."""
    list_time: float
    """Milliseconds of one list of all."""


# ---------------------------------------------------------------------------------------------- one fleet, in a process of its own


@dataclass
class Fleet:
    """A runtime, and what a manager keeps going beside it."""

    runtime: KubernetesRuntime
    specs: Sequence[GatewaySpec]
    gateways: dict[ContainerId, Gateway] = field(default_factory=dict)
    tasks: Tasks = field(default_factory=lambda: Tasks("fleet"))
    doubt: asyncio.Event = field(default_factory=asyncio.Event)
    known: set[ContainerId] = field(default_factory=set)
    """What was about to start, as its launch has told."""

    async def watch(self) -> None:
        """A change of a gateway is looked at; one of what nobody knows has all listed, as often as that gets on."""
        async for changed in self.runtime.changes():
            if changed in self.gateways:
                self.tasks.begin("look", self._look(changed))
            elif changed not in self.known:
                self.doubt.set()

    async def _look(self, changed: ContainerId) -> None:
        await self.runtime.inspect(changed)

    async def list(self) -> None:
        """All, whenever something is in doubt."""
        while True:
            await self.doubt.wait()
            self.doubt.clear()
            await self.runtime.list()

    async def start(self) -> None:
        """All of them, some at a time."""
        await some_at_a_time(self._launch(number, spec) for number, spec in enumerate(self.specs))

    async def _launch(self, number: int, spec: GatewaySpec) -> None:
        async def commit(container_id: ContainerId) -> None:
            self.known.add(container_id)

        await self.runtime.prepare(spec)
        gateway = await self.runtime.launch(spec, 1000 + number, secret=_secret, commit=commit)
        self.gateways[gateway.container_id] = gateway
        self.tasks.begin("log", self._follow(gateway))

    async def _follow(self, gateway: Gateway) -> None:
        async for _ in self.runtime.log(gateway):
            pass

    async def end(self) -> None:
        """The same."""
        await some_at_a_time(map(self._remove, list(self.gateways)))

    async def _remove(self, container_id: ContainerId) -> None:
        await self.runtime.remove(container_id, grace=GRACE)
        self.gateways.pop(container_id, None)


async def _secret(target: DeliveryTarget) -> None:
    await asyncio.to_thread(deliver, target.as_json(), b"password")


async def some_at_a_time(work: Iterable[Awaitable[object]]) -> None:
    """As many as a manager with `parallel_starts = 20`."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(each: Awaitable[object]) -> None:
        async with limit:
            await each

    await asyncio.gather(*map(one, work))


async def one_fleet(place: Place, size: int, settle: float) -> Found:
    """What each of its gateways cost."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(AT_ONCE))

    async def cost(work: Callable[[], Awaitable[None]]) -> Cost:
        requests, begun, used = counted(Path(place.audit), place.namespace), time.monotonic(), time.process_time()
        await work()
        took, processor = time.monotonic() - begun, time.process_time() - used
        await asyncio.sleep(settle)  # until the last changes were looked at
        requests = counted(Path(place.audit), place.namespace) - requests
        return Cost(1000 * took / size, 1000 * processor / size, requests / size)

    async with fleet_at(place, size) as fleet:
        before = private_memory()
        start = await cost(fleet.start)
        running = private_memory()
        await asyncio.to_thread(place.change_all)
        await asyncio.sleep(settle)
        changed, begun = private_memory(), time.monotonic()
        if len(await fleet.runtime.list()) != size:
            raise RuntimeError("some gateways are missing")
        listed = 1000 * (time.monotonic() - begun)
        end = await cost(fleet.end)
    return Found(start, end, (running - before) / size, (changed - running) / size, listed)


@asynccontextmanager
async def fleet_at(place: Place, size: int) -> AsyncIterator[Fleet]:
    """One that has launched and removed a few others, so that everything is loaded that is loaded once."""
    access = Access(place.kubeconfig, namespace=place.namespace)
    choices = PodChoices(storage_class=place.storage_class, cpu="10m")
    runtime = KubernetesRuntime(
        Api(access),
        prefix="bench",
        identities=Identities("benchmark"),
        choices=choices,
        access=AccessRules(has_policy=True),
    )
    await runtime.open()
    fleet = Fleet(runtime, specs("warm", _WARM))
    fleet.tasks.begin("watch", fleet.watch())
    fleet.tasks.begin("list", fleet.list())
    try:
        await fleet.start()
        await fleet.end()
        fleet.specs = specs("follower", size)
        yield fleet
    finally:
        await fleet.tasks.cancel()
        await runtime.close()


def specs(name: str, count: int) -> list[GatewaySpec]:
    """Each of a user of its own."""
    made = make_spec()
    shared = made.options.model_copy(update={"image": _IMAGE})
    return [make_spec(f"{name}-{each}", options=shared, user=f"user-of-{name}-{each}") for each in range(count)]


@dataclass(frozen=True)
class Place:
    """What a fleet's process is told."""

    namespace: str
    kubeconfig: str
    storage_class: str
    audit: str
    program: str
    administrator: str

    def change_all(self) -> None:
        """Every pod, in something that is none of the manager's."""
        kubectl = [self.program, "kubectl", f"--kubeconfig={self.administrator}", f"--namespace={self.namespace}"]
        for each in range(ROUNDS_OF_CHANGES):
            command = [*kubectl, "annotate", "pods", "--all", "--overwrite", f"round={each}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# ---------------------------------------------------------------------------------------------- all of them


def measure(findings: Findings, given: Namespace) -> None:
    """Small, large, small."""
    with (
        own_cluster() as cluster,
        cluster.inside(),
        simulated_nodes(_ours(cluster.parts), given.nodes, printed_by_pods("ibcontroller")),
        counting_server(_ours(cluster.parts)) as audit,
    ):
        parts = _ours(cluster.parts)
        first, large, last = (_round(parts, audit, size, given) for size in (given.few, given.many, given.few))
    for name, question in (("start", "start"), ("end", "end")):
        _tell(findings, question, given, [getattr(each, name) for each in (first, last)], getattr(large, name))
    _tell_memory(findings, given, [first, last], large)


def _ours(parts: Parts | None) -> Parts:
    assert parts is not None
    return parts


def _round(parts: Parts, audit: Path, size: int, given: Namespace) -> Found:
    with stage(parts, audit, size + _WARM) as here:
        place = Place(
            here.namespace,
            str(here.kubeconfig),
            here.storage_class,
            str(here.audit),
            str(parts.program),
            str(parts.kubeconfig),
        )
        said = json.dumps(asdict(place))
        found = measured_apart("kubernetes_sizes", said, str(size), str(given.settle), within=given.longest)
    print(f"{size}: {found}", file=sys.stderr, flush=True)
    start, end = Cost(**found.pop("start")), Cost(**found.pop("end"))
    return Found(start, end, **found)


def _tell(findings: Findings, what: str, given: Namespace, few: Sequence[Cost], many: Cost) -> None:
    least = Cost(*(sum(getattr(each, name) for each in few) / len(few) for name in ("time", "processor", "requests")))
    wall, processor = many.time / least.time, many.processor / least.processor
    requests = many.requests / least.requests
    findings.figure(
        f"What does it cost to {what} a gateway among {given.many:,}, against among {given.few}?",
        f"{wall:.2f} times the time ({number(many.time)} ms, {number(least.time)} ms; the rounds of {given.few}:"
        f" {', '.join(number(each.time) for each in few)} ms), {processor:.2f} times the processor time"
        f" ({number(many.processor)} ms, {number(least.processor)} ms), {requests:.2f} times the API requests"
        f" ({many.requests:.1f}, {least.requests:.1f})",
        aim=at_most(max(wall, requests), 1.2, "times", what="time and requests each"),
        time=(wall, "times"),
        processor=(processor, "times"),
        requests=(requests, "times"),
        time_per_gateway=(many.time, "ms"),
        processor_per_gateway=(many.processor, "ms"),
        requests_per_gateway=(many.requests, "requests"),
    )


def _tell_memory(findings: Findings, given: Namespace, few: Sequence[Found], many: Found) -> None:
    least = max(1.0, sum(each.memory for each in few) / len(few))
    findings.figure(
        f"… and in memory, with its watch and its followed log? (among {given.many:,}, against among {given.few})",
        f"{number(many.memory)} kB, {many.memory / least:.2f} times ({number(least)} kB)",
        aim=at_most(many.memory / least, 1.2, "times"),
        memory=(many.memory, "kB"),
        ratio=(many.memory / least, "times"),
    )
    events = given.many * ROUNDS_OF_CHANGES
    findings.figure(
        f"How does that grow with {events:,} more changes of {given.many:,} pods?",
        f"by {number(many.growth)} kB a gateway; one list of all takes {number(many.list_time)} ms",
        aim=at_most(many.growth, 1, "kB"),
        growth=(many.growth, "kB"),
        list_time=(many.list_time, "ms"),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        told = Place(**json.loads(sys.argv[2]))
        print(json.dumps(asdict(asyncio.run(one_fleet(told, int(sys.argv[3]), float(sys.argv[4]))))))
        sys.exit()
    asked = options(__doc__, few=(100, 1), many=(1000, 2), nodes=(20, 1), settle=(3.0, 0.5), longest=(1800.0, 100.0))
    sys.exit(run(lambda findings: measure(findings, asked)))
