"""What every `GatewayRuntime` does, on whatever engine: names, labels, states, refusals, removal, events, logs."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from spreadpilot_core.ibkr.errors import (
    LaunchError,
    NameTakenError,
    PortTakenError,
    RuntimeUnavailableError,
    TermLostError,
)
from spreadpilot_core.ibkr.protocols import (
    ContainerId,
    Dialect,
    Gateway,
    GatewayRuntime,
    Leases,
    RuntimeEvent,
    RuntimeEventKind,
    RuntimeState,
    TradingMode,
    unguarded,
)
from support.docker_engine import engine_fixture, own_engine_fixture  # noqa: F401  # fixtures
from support.docker_place import docker_place_fixture  # noqa: F401  # a fixture
from support.ports import free_ports
from support.runtimes import (  # noqa: F401  # fixtures
    Place,
    following,
    found,
    kinds,
    simulated_place_fixture,
    until,
    watching,
)

ADAPTERS = [
    pytest.param("simulated_place", id="simulated"),
    pytest.param("docker_place", id="docker", marks=pytest.mark.real_part("docker")),
]
"""Fixtures that give a `Place`; an engine that must be got first carries its `real_part` mark."""
ODD_IDS = [
    "follower_123",
    "Über 東京/№7",
    "../../etc/passwd",
    "a b'c\"d$e;f\\g`h{i}",
    "UPPER",
    "upper",
    "-x",
    ".",
    "x" * 128,
    "é" * 128,
    "😀 trader",
]
LOGGED_IN = {"ibcontroller": "login completed", "ibc": "Login has completed"}
STARTED = {"ibcontroller": "Starting ibcontroller/IB gateway", "ibc": "Starting IBC/IB gateway"}
NOBODY = ContainerId("0" * 64)


@pytest.fixture(name="place", params=ADAPTERS)
def place_fixture(request: pytest.FixtureRequest) -> Place:
    """Each adapter's place in turn."""
    place: Place = request.getfixturevalue(request.param)
    return place


@pytest.fixture(name="runtime")
def runtime_fixture(place: Place) -> GatewayRuntime:
    """An open runtime of the place's owner."""
    return place.opened


# ---------------------------------------------------------------------------------------------- names and labels


async def test_a_created_container_is_found_with_all_that_it_was_created_with(
    place: Place, runtime: GatewayRuntime
) -> None:
    """What a later manager must know comes back from the engine alone."""
    spec = place.spec("follower_123", digest="abc123", trading_mode=TradingMode.LIVE)
    created = await runtime.create(spec, Leases(host_port := free_ports(1), 4711))
    gateway = await found(runtime, created.container_id)
    assert created.name == f"{place.owner}-follower_123"
    assert gateway.name == created.name
    assert gateway.follower_id == "follower_123"
    assert gateway.leases == Leases(host_port, 4711)
    assert gateway.trading_mode is TradingMode.LIVE
    assert gateway.spec_digest == "abc123"
    assert gateway.dialect == "ibcontroller"
    assert gateway.image == spec.options.image
    assert gateway.state is RuntimeState.CREATED
    assert (gateway.started_at, gateway.exit_code) == (None, None)
    assert await runtime.inspect(created.container_id) == gateway


async def test_odd_follower_ids_come_back_as_they_are_under_different_names(
    place: Place, runtime: GatewayRuntime
) -> None:
    """Any printable id of up to 128 characters has a container of its own."""
    for follower_id in ODD_IDS:
        await runtime.create(place.spec(follower_id), Leases(4001, 1))
    gateways = await runtime.find()
    assert {gateway.follower_id for gateway in gateways} == set(ODD_IDS)
    assert len({gateway.name for gateway in gateways}) == len(ODD_IDS)
    assert all(gateway.name.startswith(f"{place.owner}-") for gateway in gateways)


@pytest.mark.parametrize("dialect", ["ibc", "ibcontroller"])
async def test_prepare_tells_the_controller_of_the_image(
    place: Place, runtime: GatewayRuntime, dialect: Dialect
) -> None:
    """The secret is written for this controller, and the log is read by its table."""
    spec = place.spec(dialect=dialect)
    assert await runtime.prepare(spec) == dialect
    gateway = await place.launch(runtime, spec)
    assert gateway.dialect == dialect
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: any(LOGGED_IN[dialect] in line for line in lines), lambda: lines)


async def test_what_a_manager_left_is_found_by_the_next(place: Place, runtime: GatewayRuntime) -> None:
    """The engine is the database of what runs: another client of the same owner sees the same containers."""
    running = await place.launch(runtime, place.spec("alice"))
    created = await runtime.create(place.spec("bob"), Leases(free_ports(1), 1001))
    await runtime.close()
    successor = await place.runtime()
    states = {gateway.container_id: gateway.state for gateway in await successor.find()}
    assert states == {
        running.container_id: RuntimeState.RUNNING,
        created.container_id: RuntimeState.CREATED,
    }
    assert (await found(successor, running.container_id)).started_at == running.started_at


@pytest.mark.parametrize("dialect", ["ibc", "ibcontroller"])
async def test_a_gateway_tells_whose_login_it_was_made_for(
    place: Place, runtime: GatewayRuntime, dialect: Dialect
) -> None:
    """One login per IBKR user holds also for gateways that were made before this manager's records."""
    spec = replace(place.spec(dialect=dialect), user="Some.user-1")
    created = await runtime.create(spec, Leases(free_ports(1), 1000))
    (listed,) = await runtime.find()
    assert listed.user == (await found(runtime, created.container_id)).user == "Some.user-1"


async def test_owners_on_one_engine_do_not_see_each_other(place: Place, runtime: GatewayRuntime) -> None:
    """Neither in lists nor by id, and the other's containers can't be touched even when their ids are known."""
    other = await place.runtime(f"{place.owner}-other")
    mine, theirs = await place.launch(runtime), await place.launch(other)
    assert [gateway.container_id for gateway in await runtime.find()] == [mine.container_id]
    assert [gateway.container_id for gateway in await other.find()] == [theirs.container_id]
    assert await runtime.inspect(theirs.container_id) is None
    with contextlib.suppress(LaunchError):
        await runtime.remove(theirs.container_id, grace=0)
    with contextlib.suppress(LaunchError):
        await runtime.forget_secret(theirs.container_id)
    still_there = await other.inspect(theirs.container_id)
    assert still_there is not None
    assert still_there.state is RuntimeState.RUNNING
    assert still_there.started_at == theirs.started_at


# ---------------------------------------------------------------------------------------------- create and start


async def test_a_follower_has_one_container(place: Place, runtime: GatewayRuntime) -> None:
    """A second one is refused whatever state the first is in, and of many at once one is made."""
    attempts = [runtime.create(place.spec(), Leases(free_ports(1), 1000 + each)) for each in range(6)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, NameTakenError) for result in results) == 5
    (gateway,) = await runtime.find()
    assert gateway.container_id in [getattr(result, "container_id", None) for result in results]
    with pytest.raises(NameTakenError):
        await runtime.create(place.spec(), Leases(free_ports(1), 1007))
    await runtime.remove(gateway.container_id, grace=0)
    await runtime.create(place.spec(), gateway.leases)


async def test_a_started_gateway_runs_on_its_port_and_logs_in(place: Place, runtime: GatewayRuntime) -> None:
    """Attach, start, and its log tells of the login; the published port accepts."""
    before = datetime.now(UTC) - timedelta(seconds=2)
    gateway = await place.launch(runtime)
    assert gateway.state is RuntimeState.RUNNING
    assert gateway.started_at is not None
    assert before < gateway.started_at < datetime.now(UTC) + timedelta(seconds=2)
    seen = await found(runtime, gateway.container_id)
    assert (seen.state, seen.started_at) == (RuntimeState.RUNNING, gateway.started_at)
    _, writer = await asyncio.open_connection(gateway.host, gateway.leases.host_port)
    writer.close()
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: any(LOGGED_IN["ibcontroller"] in line for line in lines), lambda: lines)


async def test_starting_what_runs_changes_nothing(place: Place, runtime: GatewayRuntime) -> None:
    """A start that was cut off may be repeated: the same life goes on."""
    gateway = await place.launch(runtime)
    again = await runtime.start(gateway.container_id)
    assert (again.container_id, again.started_at) == (gateway.container_id, gateway.started_at)


async def test_a_busy_port_is_told_at_start(place: Place, runtime: GatewayRuntime) -> None:
    """The error names the port; nothing ran, and the container can be removed and made anew with another port."""
    port = free_ports(1)
    created = await place.create(runtime, place.spec(), Leases(port, 1000))
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port):
        with pytest.raises(PortTakenError) as refused:
            await runtime.start(created.container_id)
    assert refused.value.port == port
    assert (await found(runtime, created.container_id)).state is RuntimeState.CREATED
    await runtime.remove(created.container_id, grace=5)
    gateway = await place.launch(runtime)
    assert gateway.state is RuntimeState.RUNNING


async def test_a_port_of_another_gateway_is_busy_too(place: Place, runtime: GatewayRuntime) -> None:
    """Two containers may be created with one port; only one of them starts."""
    first = await place.launch(runtime, place.spec("alice"))
    second = await place.create(runtime, place.spec("bob"), first.leases)
    with pytest.raises(PortTakenError):
        await runtime.start(second.container_id)
    assert (await found(runtime, first.container_id)).state is RuntimeState.RUNNING


async def test_what_is_gone_can_not_be_started_and_is_not_found(place: Place, runtime: GatewayRuntime) -> None:
    """`inspect` says None; `start` raises and makes nothing."""
    created = await place.create(runtime, place.spec())
    await runtime.remove(created.container_id, grace=0)
    for gone in (created.container_id, NOBODY):
        assert await runtime.inspect(gone) is None
        with pytest.raises(LaunchError):
            await runtime.start(gone)
    assert list(await runtime.find()) == []


async def test_a_cancelled_create_leaves_nothing_that_listing_does_not_show(
    place: Place, runtime: GatewayRuntime
) -> None:
    """Whenever it is cut off, there is one container afterwards or none, and the next create says the same as the list."""
    for delay in (0, 0.0005, 0.002, 0.01):
        call = asyncio.ensure_future(runtime.create(place.spec(), Leases(free_ports(1), 1000)))
        await asyncio.sleep(delay)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        try:
            await runtime.create(place.spec(), Leases(free_ports(1), 1001))
        except NameTakenError:
            await until_found(runtime)
        (gateway,) = await runtime.find()
        await runtime.remove(gateway.container_id, grace=0)


async def test_a_cancelled_start_can_be_repeated(place: Place, runtime: GatewayRuntime) -> None:
    """Whenever it is cut off, the container is there, and starting it again gives one running gateway."""
    for delay in (0, 0.0005, 0.002, 0.01):
        created = await place.create(runtime, place.spec())
        call = asyncio.ensure_future(runtime.start(created.container_id))
        await asyncio.sleep(delay)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        gateway = await runtime.start(created.container_id)
        assert gateway.state is RuntimeState.RUNNING
        await runtime.remove(gateway.container_id, grace=0)


async def until_found(runtime: GatewayRuntime) -> Gateway:
    """The one container; an engine may go on with what was cut off."""
    async with asyncio.timeout(60):
        while not (gateways := await runtime.find()):
            await asyncio.sleep(0.05)
    (gateway,) = gateways
    return gateway


# ---------------------------------------------------------------------------------------------- states and removal


async def test_a_killed_gateway_stays_with_its_exit_code(place: Place, runtime: GatewayRuntime) -> None:
    """Nothing starts it again by itself."""
    gateway = await place.launch(runtime)
    await place.kill(gateway)
    dead = await found(runtime, gateway.container_id)
    assert (dead.state, dead.exit_code) == (RuntimeState.EXITED, 137)
    assert dead.started_at == gateway.started_at


async def test_a_paused_gateway_is_told_from_a_running_one(place: Place, runtime: GatewayRuntime) -> None:
    """Frozen from outside it says so, and the same life goes on afterwards."""
    gateway = await place.launch(runtime)
    await place.pause(gateway)
    assert (await found(runtime, gateway.container_id)).state is RuntimeState.PAUSED
    await place.resume(gateway)
    resumed = await found(runtime, gateway.container_id)
    assert (resumed.state, resumed.started_at) == (RuntimeState.RUNNING, gateway.started_at)


@pytest.mark.parametrize("state", ["created", "with its secret", "running", "paused", "exited"])
async def test_a_container_is_removed_in_every_state(place: Place, runtime: GatewayRuntime, state: str) -> None:
    """Gone when the call returns, and its port and its name are free."""
    spec, leases = place.spec(), Leases(free_ports(1), 1000)
    if state == "created":
        container_id = (await runtime.create(spec, leases)).container_id
    elif state == "with its secret":
        container_id = (await place.create(runtime, spec, leases)).container_id
    else:
        gateway = await place.launch(runtime, spec, leases)
        container_id = gateway.container_id
        if state == "paused":
            await place.pause(gateway)
        elif state == "exited":
            await place.kill(gateway)
    words = await runtime.remove(container_id, grace=1)
    assert (words.exit_code is not None) == (state in ("running", "paused", "exited"))
    assert await runtime.inspect(container_id) is None
    assert list(await runtime.find()) == []
    again = await place.launch(runtime, spec, leases)
    assert again.state is RuntimeState.RUNNING


async def test_a_gateway_is_asked_to_close_before_it_is_killed(place: Place, runtime: GatewayRuntime) -> None:
    """With a grace it ends tidily (0 under ibcontroller) and its last lines are kept; without, it is killed."""
    for grace, exit_code in ((30, 0), (0, 137)):
        gateway = await place.launch(runtime)
        async with following(runtime, gateway) as (lines, _):
            await until(lambda lines=lines: any("-> READY" in line for line in lines), lambda lines=lines: lines)
            words = await runtime.remove(gateway.container_id, grace=grace)
        assert words.exit_code == exit_code
        assert len(words.lines) > 10
        assert all(line in lines for line in words.lines[:10])


async def test_removing_again_is_fine(place: Place, runtime: GatewayRuntime) -> None:
    """Gone already, never there, or asked for many times at once: each call returns when it is gone."""
    gateway = await place.launch(runtime)
    await asyncio.gather(*(runtime.remove(gateway.container_id, grace=20) for _ in range(5)))
    assert list(await runtime.find()) == []
    words = await runtime.remove(gateway.container_id, grace=20)
    assert (words.exit_code, list(words.lines)) == (None, [])
    await runtime.remove(NOBODY, grace=0)


async def test_nothing_is_changed_once_the_guard_objects(place: Place, runtime: GatewayRuntime) -> None:
    """It is asked at the last moment, for all that makes, starts or ends a container; what it raises comes through."""
    running = await place.launch(runtime)
    created = await place.create(runtime, place.spec("bob"))
    before = {each.container_id: each.state for each in await runtime.find()}

    def refuse() -> None:
        raise TermLostError

    runtime.guard = refuse
    for act in (
        runtime.create(place.spec("carl"), Leases(free_ports(1), 77)),
        runtime.start(created.container_id),
        runtime.remove(created.container_id, grace=0),
        runtime.remove(running.container_id, grace=0),
        runtime.remove(running.container_id, grace=20),
    ):
        with pytest.raises(TermLostError):
            await act
    assert {each.container_id: each.state for each in await runtime.find()} == before
    runtime.guard = unguarded
    await runtime.remove(running.container_id, grace=0)


async def test_a_hasty_removal_overtakes_a_patient_one(place: Place, runtime: GatewayRuntime) -> None:
    """An operator who has waited long enough gets it killed; both calls return."""
    gateway = await place.launch(runtime)
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: any("-> READY" in line for line in lines), lambda: lines)
    await place.hang(gateway)  # it can't obey, so the patient one would wait for all its grace
    patient = asyncio.ensure_future(runtime.remove(gateway.container_id, grace=300))
    await asyncio.sleep(0.2)
    assert not patient.done()
    await runtime.remove(gateway.container_id, grace=0)
    await asyncio.wait_for(patient, 60)
    assert await runtime.inspect(gateway.container_id) is None


async def test_a_cancelled_removal_may_be_repeated(place: Place, runtime: GatewayRuntime) -> None:
    """Cut off in the middle it may go on by itself or not; asking again ends with the container gone."""
    gateway = await place.launch(runtime)
    call = asyncio.ensure_future(runtime.remove(gateway.container_id, grace=20))
    await asyncio.sleep(0.005)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await runtime.remove(gateway.container_id, grace=20)
    assert await runtime.inspect(gateway.container_id) is None


async def test_forgetting_a_secret_never_hurts(place: Place, runtime: GatewayRuntime) -> None:
    """Before the start, while it runs, twice, when it has ended, and when it is gone."""
    created = await runtime.create(place.spec("bob"), Leases(free_ports(1), 1000))
    await runtime.forget_secret(created.container_id)
    gateway = await place.launch(runtime)
    await runtime.forget_secret(gateway.container_id)
    await runtime.forget_secret(gateway.container_id)
    assert (await found(runtime, gateway.container_id)).state is RuntimeState.RUNNING
    await place.kill(gateway)
    await runtime.forget_secret(gateway.container_id)
    await runtime.remove(gateway.container_id, grace=0)
    await runtime.forget_secret(gateway.container_id)


# ---------------------------------------------------------------------------------------------- events


async def test_events_tell_a_containers_life_after_the_first_gap(place: Place, runtime: GatewayRuntime) -> None:
    """`GAP` first, then each change with follower, container and, for a death, the exit code."""
    async with watching(runtime) as events:
        gateway = await place.launch(runtime)
        await place.pause(gateway)
        await place.resume(gateway)
        await place.kill(gateway)
        await runtime.remove(gateway.container_id, grace=0)
        expected = ["started", "paused", "resumed", "died", "removed"]
        await until(lambda: without_health(events, gateway) == expected, lambda: events)
    assert events[0].kind is RuntimeEventKind.GAP
    assert sum(event.kind is RuntimeEventKind.GAP for event in events) == 1
    assert {event.follower_id for event in events[1:]} == {"alice"}
    assert [event.exit_code for event in events if event.kind is RuntimeEventKind.DIED] == [137]


async def test_events_are_for_the_owner_and_from_now_on(place: Place, runtime: GatewayRuntime) -> None:
    """Neither what happened before the subscription nor what happens to others' containers."""
    other = await place.runtime(f"{place.owner}-other")
    earlier = await place.launch(runtime, place.spec("alice"))
    async with watching(runtime) as events, watching(other) as others_events:
        theirs = await place.launch(other, place.spec("bob"))
        await until(lambda: "started" in kinds(others_events, theirs.container_id), lambda: others_events)
        mine = await place.launch(runtime, place.spec("carol"))
        await until(lambda: "started" in kinds(events, mine.container_id), lambda: events)
    assert {event.container_id for event in events[1:]} == {mine.container_id}
    assert earlier.container_id not in {event.container_id for event in events}


async def test_every_subscriber_hears_everything(place: Place, runtime: GatewayRuntime) -> None:
    """Two subscriptions, of one runtime or of two managers with the same owner, take nothing from each other."""
    successor = await place.runtime()
    async with watching(runtime) as first, watching(runtime) as second, watching(successor) as third:
        gateway = await place.launch(runtime)
        for events in (first, second, third):
            await until(lambda events=events: "started" in kinds(events, gateway.container_id), "for the start")


async def test_a_subscription_ends_when_the_runtime_is_closed(runtime: GatewayRuntime) -> None:
    """It ends as an iterator does, without an exception, also while it waits."""
    heard = []
    closing = []
    async for event in runtime.events():
        heard.append(event.kind)
        closing.append(asyncio.create_task(close_soon(runtime)))
    assert heard == [RuntimeEventKind.GAP]
    await asyncio.gather(*closing)


async def close_soon(runtime: GatewayRuntime) -> None:
    """Close while the subscription waits."""
    await asyncio.sleep(0.05)
    await runtime.close()


def without_health(events: list[RuntimeEvent], gateway: Gateway) -> list[str]:
    """A container's changes of state; an engine may tell of its health in between."""
    return [kind for kind in kinds(events, gateway.container_id) if kind != "health"]


# ---------------------------------------------------------------------------------------------- logs


@pytest.mark.parametrize("dialect", ["ibc", "ibcontroller"])
async def test_a_log_begins_at_the_start_whenever_it_is_asked_for(
    place: Place, runtime: GatewayRuntime, dialect: Dialect
) -> None:
    """Followed from the first moment or only later, by one or by several, it is the same lines in the same order."""
    gateway = await place.launch(runtime, place.spec(dialect=dialect))
    async with following(runtime, gateway) as (early, _):
        await until(lambda: any(LOGGED_IN[dialect] in line for line in early), lambda: early)
        async with following(runtime, gateway) as (late, _):
            await until(lambda: any(LOGGED_IN[dialect] in line for line in late), lambda: late)
    assert any(STARTED[dialect] in line for line in early[:5])
    assert late[: len(early)] == early[: len(late)]
    assert not any(line.endswith(("\n", "\r")) for line in early)


async def test_a_log_ends_with_its_container(place: Place, runtime: GatewayRuntime) -> None:
    """After the last line, whether it was killed or removed; asked for later it gives the same lines and ends again."""
    gateway = await place.launch(runtime)
    async with following(runtime, gateway) as (lines, task):
        await until(lambda: len(lines) > 10, lambda: lines)
        await place.kill(gateway)
        await asyncio.wait_for(task, 60)
    async with following(runtime, gateway) as (again, task):
        await asyncio.wait_for(task, 60)
    assert again == lines
    await runtime.remove(gateway.container_id, grace=0)
    async with following(runtime, gateway) as (nothing, task):
        await asyncio.wait_for(task, 60)
    assert nothing == []


async def test_a_tidy_end_is_in_the_log_to_its_last_line(place: Place, runtime: GatewayRuntime) -> None:
    """A follower has read everything when the stream ends, the last words included."""
    gateway = await place.launch(runtime)
    async with following(runtime, gateway) as (lines, task):
        await until(lambda: any("-> READY" in line for line in lines), lambda: lines)
        words = await runtime.remove(gateway.container_id, grace=60)
        await asyncio.wait_for(task, 60)
    assert list(words.lines) == lines[-len(words.lines) :]


# ---------------------------------------------------------------------------------------------- opening and closing


async def test_a_closed_runtime_touches_nothing_and_may_be_opened_again(place: Place, runtime: GatewayRuntime) -> None:
    """Closing leaves the gateways alone; calls on a closed runtime say that it can't be reached."""
    gateway = await place.launch(runtime)
    await runtime.close()
    await runtime.close()
    with pytest.raises(RuntimeUnavailableError):
        await runtime.find()
    await runtime.open()
    await runtime.open()
    assert (await found(runtime, gateway.container_id)).started_at == gateway.started_at


async def test_many_gateways_at_once(place: Place, runtime: GatewayRuntime) -> None:
    """Launches and removals of different followers don't disturb each other, and each has its own port and life."""
    ports = free_ports(6)
    gateways = await asyncio.gather(
        *(place.launch(runtime, place.spec(f"f{each}"), Leases(ports + each, 1000 + each)) for each in range(6))
    )
    assert len({gateway.container_id for gateway in gateways}) == 6
    listed = sorted(await runtime.find(), key=lambda gateway: gateway.leases.host_port)
    assert [gateway.leases.host_port for gateway in listed] == [ports + each for each in range(6)]
    assert all(one.leases.client_id + 1 == next_one.leases.client_id for one, next_one in pairwise(listed))
    await asyncio.gather(*(runtime.remove(gateway.container_id, grace=30) for gateway in gateways))
    assert list(await runtime.find()) == []
