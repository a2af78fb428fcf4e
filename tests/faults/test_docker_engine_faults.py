"""The engine itself stops, dies, comes back: what the runtime says meanwhile, and that it finds the truth after."""

from __future__ import annotations

import asyncio
import signal

import pytest

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.records import ContainerId
from support.docker_bench import (  # noqa: F401  # fixtures
    Bench,
    answers,
    engine_fixture,
    faulty_bench_fixture,
    following,
    handshake,
    own_engine_fixture,
    until,
    watching,
)
from support.docker_engine import OwnEngine
from support.docker_images import derived_image, simulator_image

pytestmark = pytest.mark.real_part("docker")


def gaps(seen: list[ContainerId | None]) -> int:
    """How often something may have been missed: at the start, at each break and at each return."""
    return seen.count(None)


def own(bench: Bench) -> OwnEngine:
    """The engine that this test may end."""
    assert bench.engine.own is not None
    return bench.engine.own


async def test_an_engine_that_is_stopped_ends_its_gateways(faulty_bench: Bench) -> None:
    """Calls say that it is away, logs end, events say a gap and come back with another, and the dead one is found."""
    runtime = await faulty_bench.runtime()
    gateway = await faulty_bench.ready(runtime, faulty_bench.spec())
    async with watching(runtime) as seen, following(runtime, gateway) as (lines, done):
        await until(lambda: any("-> READY" in line for line in lines), "the login")
        await asyncio.to_thread(own(faulty_bench).end)
        with pytest.raises(RuntimeUnavailableError, match="Docker Engine"):
            await runtime.list()
        await until(lambda: gaps(seen) == 2, "the break")
        await asyncio.to_thread(own(faulty_bench).start)
        await until(lambda: gaps(seen) == 3, "the return")
        await asyncio.wait_for(done, 30)
    found = await runtime.list()
    assert [one.phase for one in found] == [GatewayPhase.EXITED]
    words = await runtime.remove(gateway.container_id, grace=5)
    assert words.exit_code == 0
    assert any("stopped: REQUESTED" in line for line in words.lines)
    await faulty_bench.ready(runtime, faulty_bench.spec())


async def test_a_killed_engine_is_found_again(faulty_bench: Bench) -> None:
    """SIGKILL leaves the containers running; the next engine stops them; nothing is told of it but gaps."""
    runtime = await faulty_bench.runtime()
    gateway = await faulty_bench.ready(runtime, faulty_bench.spec())
    async with watching(runtime) as seen:
        await asyncio.to_thread(own(faulty_bench).end, signal.SIGKILL)
        await asyncio.to_thread(own(faulty_bench).start)
        await until(lambda: gaps(seen) == 3, "the return")
        found = await runtime.inspect(gateway.container_id)
    assert found is not None
    assert found.phase is GatewayPhase.EXITED
    await runtime.remove(gateway.container_id, grace=5)


async def test_a_gateway_outlives_an_engine_with_live_restore(faulty_bench: Bench) -> None:
    """The same life goes on: its log without a loss or a repeat, its port again, its secret still to be forgotten."""
    engine = own(faulty_bench)
    await asyncio.to_thread(engine.end)
    await asyncio.to_thread(engine.start, "--live-restore")
    runtime = await faulty_bench.runtime()
    counting = "i=0; while :; do echo line $i; echo err $i >&2; i=$((i+1)); sleep 0.02; done"
    image = derived_image(
        faulty_bench.api, simulator_image(faulty_bench.api, "ibc"), {}, command=["sh", "-c", counting]
    )
    counter = await faulty_bench.launch(runtime, faulty_bench.spec("counter", image=image))
    gateway = await faulty_bench.ready(runtime, faulty_bench.spec())
    async with watching(runtime) as seen, following(runtime, counter) as (lines, done):
        await until(lambda: len(lines) > 50, "some lines")
        await asyncio.to_thread(engine.end, signal.SIGKILL)
        before = len(lines)
        await asyncio.to_thread(engine.start, "--live-restore")
        await until(lambda: gaps(seen) == 3, "the return")
        await until(lambda: len(lines) > before + 50, "more lines")
        assert not done.done()
        for word in ("line", "err"):
            numbers = [int(line.split()[1]) for line in lines if line.startswith(word)]
            assert numbers == list(range(len(numbers))), word
    found = await runtime.inspect(gateway.container_id)
    assert found is not None
    assert (found.phase, found.started_at) == (GatewayPhase.RUNNING, gateway.started_at)
    await answers(gateway.endpoint.port)
    await runtime.forget_secret(gateway.container_id)
    for one in (counter, gateway):
        await runtime.remove(one.container_id, grace=0)
    await asyncio.to_thread(engine.end)
    await asyncio.to_thread(engine.start)


async def test_an_engine_that_is_away_for_long(faulty_bench: Bench) -> None:
    """Every call fails at once with the cure, closing is quick, and a runtime opened again works."""
    runtime = await faulty_bench.runtime()
    gateway = await faulty_bench.ready(runtime, faulty_bench.spec())
    another = faulty_bench.spec("bob")
    async with watching(runtime) as seen:
        await asyncio.to_thread(own(faulty_bench).end)
        for call in (
            runtime.open(),
            runtime.list(),
            runtime.inspect(gateway.container_id),
            runtime.prepare(another),
            faulty_bench.launch(runtime, another),
            runtime.remove(gateway.container_id, grace=5),
            runtime.forget_secret(gateway.container_id),
        ):
            with pytest.raises(RuntimeUnavailableError, match="Docker Engine"):
                await asyncio.wait_for(call, 10)
        assert gaps(seen) == 2
        assert not await handshake(gateway.endpoint.port)
        await asyncio.wait_for(runtime.close(), 10)
    await asyncio.to_thread(own(faulty_bench).start)
    await runtime.open()
    assert [one.container_id for one in await runtime.list()] == [gateway.container_id]
    await runtime.remove(gateway.container_id, grace=5)
    await faulty_bench.ready(runtime, another)


async def test_a_container_that_waited_for_its_secret_is_removed(faulty_bench: Bench) -> None:
    """An engine that went away between create and start leaves one that can't be started well: it is found as created."""
    runtime = await faulty_bench.runtime()
    spec = faulty_bench.spec()
    created = await faulty_bench.create(runtime, spec)
    await asyncio.to_thread(own(faulty_bench).end, signal.SIGKILL)
    await asyncio.to_thread(own(faulty_bench).start)
    found = await runtime.list()
    assert [(one.container_id, one.phase) for one in found] == [(created.container_id, GatewayPhase.AWAITING_SECRET)]
    assert (await runtime.remove(created.container_id, grace=5)).exit_code is None
    await faulty_bench.ready(runtime, spec)
