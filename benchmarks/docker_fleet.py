"""A fleet on a real Docker Engine against the bare API: start, adoption, and how soon a killed container is known.

`bare` creates, attaches to and starts as many containers of the same configuration through the same API; `runtime` is the Docker
runtime alone; `manager` is from `start()` until every gateway's process runs, with the login's time left out: logins take as long as
real ones, and settings are as shipped but for `parallel_starts`: with the default each start waits for one of four login windows.
All three start the whole fleet at once, and find network and settings volumes there, as every start but a follower's very first
does; `first start ever` is the manager's with neither. The ratio is of the medians of all rounds, bare and ours in turn: other work on
the machine falsifies it, the manager's own CPU time hardly. `docker compose up` of the same containers is timed where it is
installed: nobody delivers a password. Rejected logins of both generations say how long a container lives on after the line that tells
of it. Needs root and docker.io.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.support import compose
from benchmarks.support.docker_rounds import Rounds, Times, tell_ends, tell_starts
from benchmarks.support.figures import Findings, run
from benchmarks.support.launches import PATIENCE, as_shipped, until_all_run
from benchmarks.support.rejections import rejected
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import deliver
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, Gateway, GatewayPhase, GatewaySpec
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.docker.containers import HealthCheck, Labelled, container_config
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine
from spreadpilot_core.ibkr.runtimes.docker.naming import OWNER, Naming
from spreadpilot_core.ibkr.runtimes.identity import write_note
from spreadpilot_core.ibkr.runtimes.images import identify
from spreadpilot_core.ibkr.settings import Settings
from support.docker_bench import Bench
from support.docker_engine import OwnEngine
from support.docker_images import simulator_image
from support.home import Home
from support.ports import free_ports, leases
from support.runtimes import committed

IMAGE = {"SIMULATOR_TIMINGS": "real"}
"""What the gateways' image has in its environment; `--timings` says otherwise."""


def gateway_image(bench: Bench) -> str:
    """The same for all three, with the login times of a real gateway: with the tests' own a gateway is logged in, connected
    to and relieved of its password within a second, and that work would be counted into the starts of the others.
    """
    return simulator_image(bench.api, "ibcontroller", IMAGE)


def specs(bench: Bench, count: int) -> list[GatewaySpec]:
    """The fleet; user and mode are those that the manager's followers have, for they name the volume."""
    image = gateway_image(bench)
    return [bench.spec(f"f{number}", image=image, user=f"user-f{number}") for number in range(count)]


async def begun_before(bench: Bench, count: int) -> None:
    """Have network and settings volumes there: of a container that is removed again they stay, as of every gateway."""
    runtime = await bench.runtime()
    for spec in specs(bench, count):
        created = await bench.create(runtime, spec)
        await runtime.remove(created.container_id, grace=0)


def expect_volumes(bench: Bench, count: int) -> None:
    """A start that made other volumes than those that were there is another measurement. Raises `RuntimeError`."""
    filters = json.dumps({"label": [f"{OWNER}={bench.prefix}"]})
    there = len(bench.api.ask("GET", "/volumes", filters=filters)["Volumes"])
    if there != count:
        raise RuntimeError(f"there are {there} volumes for {count} gateways")


async def containers(bench: Bench, engine: Engine, count: int) -> dict[str, dict[str, Any]]:
    """What the engine is asked for, by name, as the runtime would ask."""
    await begun_before(bench, count)
    first, image_name = free_ports(count), gateway_image(bench)
    image, naming = identify(image_name, bench.api.ask("GET", f"/images/{image_name}/json")), Naming(bench.prefix)
    return {
        f"{bench.prefix}-{number}": container_config(
            image,
            spec,
            Labelled(first + number, 1000 + number),
            naming=naming,
            api=engine.api,
            health=HealthCheck(),
            version="0",
        )
        for number, spec in enumerate(specs(bench, count))
    }


def expect_running(bench: Bench, count: int) -> None:
    """A start that ends at once is no measure. Raises `RuntimeError`."""
    time.sleep(2)
    running = sum(row["State"] == "running" for row in bench.api.containers(f"{OWNER}={bench.prefix}"))
    if running != count:
        raise RuntimeError(f"only {running} of {count} containers still run")


async def bare(bench: Bench, count: int) -> float:
    """Seconds for the plain calls."""
    engine = Engine(bench.engine.socket)
    await engine.open()

    async def one(name: str, config: dict[str, Any]) -> None:
        made = await engine.create_container(name, config)
        delivery_target = {
            "kind": "docker",
            "socket": engine.socket,
            "container": made,
            "api_version": engine.api_version,
        }
        await asyncio.to_thread(deliver, delivery_target, b"password")
        await engine.start_container(made)

    wanted = await containers(bench, engine, count)
    begun = time.perf_counter()
    await asyncio.gather(*(one(name, config) for name, config in wanted.items()))
    took = time.perf_counter() - begun
    await engine.close()
    await asyncio.to_thread(expect_running, bench, count)
    return took


async def through_compose(bench: Bench, count: int, program: list[str]) -> float:
    """Seconds for `docker compose up`."""
    engine = Engine(bench.engine.socket)
    await engine.open()
    wanted = await containers(bench, engine, count)
    await engine.close()
    return await asyncio.to_thread(
        compose.seconds_to_start, program, engine.socket, wanted, check=lambda: expect_running(bench, count)
    )


async def through_the_runtime(bench: Bench, count: int, kills: int) -> tuple[float, list[float]]:
    """Seconds for the runtime, and the seconds after which each killed container was known."""
    await begun_before(bench, count)
    runtime = await bench.runtime(ports=leases(count))
    fleet = specs(bench, count)

    async def secret(target: DeliveryTarget) -> None:
        await asyncio.to_thread(deliver, target.as_json(), b"password")

    async def one(number: int, spec: GatewaySpec) -> Gateway:
        await runtime.prepare(spec)
        return await runtime.launch(spec, 1000 + number, secret=secret, commit=committed)

    begun = time.perf_counter()
    gateways = await asyncio.gather(*(one(number, spec) for number, spec in enumerate(fleet)))
    took = time.perf_counter() - begun
    expect_volumes(bench, count)
    await asyncio.sleep(2)
    changes, latencies = runtime.changes(), []
    await anext(changes)
    for gateway in gateways[:kills]:
        begun = time.perf_counter()
        killing = asyncio.create_task(
            asyncio.to_thread(bench.api.ask, "POST", f"/containers/{gateway.container_id}/kill")
        )
        async for changed in changes:
            seen = await runtime.inspect(gateway.container_id) if changed == gateway.container_id else None
            if seen is not None and seen.phase is GatewayPhase.EXITED:
                latencies.append(time.perf_counter() - begun)
                break
        await killing
    return took, latencies


async def manager_home(bench: Bench, count: int) -> Home:
    """Followers and settings of a manager on the bench's engine."""
    home = Home()
    first = free_ports(count)
    settings = {
        "runtime_url": "docker:",
        "docker_host": f"unix://{bench.engine.socket}",
        "container_prefix": bench.prefix,
        "gateway_image": gateway_image(bench),
        "port_range_start": first,
        "port_range_end": first + count - 1,
        "max_startup_time": PATIENCE,
        "parallel_starts": count,
        "stop_grace": 30.0,
        "log_level": "error",
    }
    home.settings |= settings | as_shipped()
    write_note(Settings.read(**home.settings), Identities(bench.prefix))  # that of the volumes which are there before
    await home.add(*names_of(count))
    return home


def names_of(count: int) -> list[str]:
    """The followers."""
    return [f"f{number}" for number in range(count)]


async def first_start_ever(bench: Bench, count: int) -> float:
    """Seconds until every process runs, with no network and no volume there before."""
    home = await manager_home(bench, count)
    manager = home.manager()
    launched, _ = await until_all_run(manager, count)
    await manager.stop()
    await home.end()
    return launched


async def through_the_manager(bench: Bench, count: int) -> tuple[float, float, float, float]:
    """Seconds until every process runs, until every gateway is ready, and until a next manager has adopted all; the first one's CPU."""
    await begun_before(bench, count)
    home, names = await manager_home(bench, count), names_of(count)
    manager = home.manager()
    begun = time.perf_counter()
    launched, cpu = await until_all_run(manager, count)
    expect_volumes(bench, count)
    await until(lambda: all(map(manager.is_healthy, names)))
    ready = time.perf_counter() - begun
    await manager.detach()
    successor = home.manager()
    begun = time.perf_counter()
    await successor.start()
    await until(lambda: all(map(successor.is_healthy, names)))
    adopted = time.perf_counter() - begun
    await successor.stop()
    await home.end()
    return launched, ready, adopted, cpu


async def until(condition: Callable[[], bool]) -> None:
    """Poll, seldom enough to cost nothing."""
    deadline = time.perf_counter() + PATIENCE
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.02)


async def measure(findings: Findings, own: OwnEngine, given: Namespace) -> None:
    """Run every round, each thing in turn, and tell."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(given.gateways))  # each delivery is a thread's
    rounds, program, gateways = Rounds(findings, own), compose.installed(), given.gateways
    for _ in range(given.rounds):
        await rounds.take("bare create, attach and start", lambda bench: _bare(bench, gateways))
        await rounds.take("the runtime alone", lambda bench: _runtime(bench, gateways, given.kills))
        await rounds.take("the manager", lambda bench: _manager(bench, gateways))
        await rounds.take("the first start ever", lambda bench: _first_start(bench, gateways))
        if program is not None:
            await rounds.take("docker compose up", lambda bench: _compose(bench, gateways, program))
    if program is None:
        findings.miss("docker compose up", "docker compose is not installed")
    tell_starts(findings, rounds, gateways)
    for name, deaf in (("rejected logins", False), ("rejected logins, SIGTERM not heeded", True)):
        await rounds.take(name, partial(_rejections, deaf=deaf, count=given.rejections))
    tell_ends(findings, rounds)


async def _bare(bench: Bench, gateways: int) -> Times:
    return {"bare": [await bare(bench, gateways)]}


async def _runtime(bench: Bench, gateways: int, kills: int) -> Times:
    took, latencies = await through_the_runtime(bench, gateways, kills)
    return {"runtime": [took], "known": latencies}


async def _manager(bench: Bench, gateways: int) -> Times:
    launched, ready, adopted, cpu = await through_the_manager(bench, gateways)
    return {"manager": [launched], "ready": [ready], "adoption": [adopted], "cpu": [cpu]}


async def _first_start(bench: Bench, gateways: int) -> Times:
    return {"first": [await first_start_ever(bench, gateways)]}


async def _compose(bench: Bench, gateways: int, program: list[str]) -> Times:
    return {"compose": [await through_compose(bench, gateways, program)]}


async def _rejections(bench: Bench, *, deaf: bool, count: int) -> Times:
    return {"deaf" if deaf else "rejected": await rejected(bench, count, deaf=deaf)}


async def on_an_engine_of_its_own(findings: Findings, given: Namespace) -> None:
    """Start one, measure inside its network, end it."""
    logging.getLogger("spreadpilot_core.ibkr").setLevel(logging.ERROR)
    own = OwnEngine()
    try:
        own.start()
        with own.inside():
            await measure(findings, own, given)
    finally:
        own.close()


if __name__ == "__main__":
    asked = options(
        __doc__, gateways=(50, 1), kills=(50, 1), rounds=(3, 1), rejections=(10, 0), timings=("real", "fast")
    )
    IMAGE["SIMULATOR_TIMINGS"] = asked.timings
    sys.exit(run(lambda findings: on_an_engine_of_its_own(findings, asked)))
