"""What every `GatewayRuntime` does, on whatever engine: names, labels, launches, phases, refusals, removal, changes, logs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spreadpilot_core.ibkr.controller_log.exit_codes import LOGIN_LOOP
from spreadpilot_core.ibkr.credentials.courier.encoding import encode
from spreadpilot_core.ibkr.errors import (
    DeliveryError,
    LaunchError,
    LeadershipLostError,
    NameHeldError,
    NameTakenError,
    PinnedPortError,
    PortTakenError,
    RuntimeUnavailableError,
    UserTakenError,
)
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.gateways import Controller, DeliveryTarget, Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.records import ContainerId, Identities
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.seams import GatewayRuntime, unguarded
from support.cluster_place import cluster_place_fixture  # noqa: F401  # a fixture
from support.docker_engine import engine_fixture, own_engine_fixture  # noqa: F401  # fixtures
from support.docker_place import docker_place_fixture  # noqa: F401  # a fixture
from support.in_memory_place import in_memory_place_fixture, pod_place_fixture  # noqa: F401  # fixtures
from support.kubernetes_cluster import cluster_fixture, may_build, own_cluster_fixture  # noqa: F401  # fixtures
from support.runtimes import (  # noqa: F401  # fixtures
    PASSWORD,
    PATIENCE,
    Place,
    committed,
    following,
    found,
    simulated_place_fixture,
    until,
    watching,
)

ON_THIS_HOST = [
    pytest.param("simulated_place", id="simulated"),
    pytest.param("in_memory_place", id="in_memory"),
    pytest.param("docker_place", id="docker", marks=pytest.mark.real_part("docker")),
]
"""Fixtures that give a `Place` of containers; an engine that must be got first carries its `real_part` mark."""
PAUSING = [*ON_THIS_HOST, pytest.param("pod_place", id="in_memory_pods")]
"""Where somebody may freeze a container so that the engine says so."""
ADAPTERS = [
    *PAUSING,
    pytest.param("cluster_place", id="kubernetes", marks=[pytest.mark.real_part("kubernetes"), may_build]),
]
"""All of them. A pod has an address of its own, so it has no port of this host, and nobody starts it a second time."""
pausing_only = pytest.mark.parametrize("place", PAUSING, indirect=True)
containers_only = pytest.mark.parametrize("place", ON_THIS_HOST, indirect=True)
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


async def test_a_container_that_awaits_its_secret_is_found_with_all_that_it_was_made_with(
    place: Place, runtime: GatewayRuntime
) -> None:
    """What a later manager must know comes back from the engine alone, also of a launch that was cut off."""
    spec = place.spec("follower_123", digest="abc123", trading_mode=TradingMode.LIVE)
    container_id = await place.cut_off(runtime, spec, client_id=4711)
    gateway = await found(runtime, container_id)
    assert gateway.name == place.name_of("follower_123")
    assert gateway.follower_id == "follower_123"
    assert gateway.client_id == 4711
    assert gateway.trading_mode is TradingMode.LIVE
    assert gateway.spec_digest == "abc123"
    assert gateway.controller == "ibcontroller"
    assert gateway.image == spec.options.image
    assert gateway.phase is GatewayPhase.AWAITING_SECRET
    assert (gateway.started_at, gateway.exit_code) == (None, None)
    assert await runtime.inspect(container_id) == gateway


async def test_odd_follower_ids_come_back_as_they_are_under_different_names(
    place: Place, runtime: GatewayRuntime
) -> None:
    """Any printable id of up to 128 characters has a container of its own."""
    for follower_id in ODD_IDS:
        await place.cut_off(runtime, place.spec(follower_id), with_secret=False)
    gateways = await runtime.list()
    assert {gateway.follower_id for gateway in gateways} == set(ODD_IDS)
    assert len({gateway.name for gateway in gateways}) == len(ODD_IDS)
    assert all(gateway.name.startswith(f"{place.owner}-") for gateway in gateways)


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
async def test_prepare_tells_the_controller_of_the_image(
    place: Place, runtime: GatewayRuntime, controller: Controller
) -> None:
    """The secret is written for this controller, and the log is read by its table; a simulator states that it has no reset hours."""
    spec = place.spec(controller=controller)
    assert await runtime.prepare(spec) == controller
    assert runtime.reset_hours(spec.follower_id) == ""
    gateway = await place.launch(runtime, spec)
    assert (gateway.controller, gateway.reset_hours) == (controller, "")
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: any(LOGGED_IN[controller] in line for line in lines), lambda: lines)


async def test_what_a_manager_left_is_found_by_the_next(place: Place, runtime: GatewayRuntime) -> None:
    """The engine is the database of what runs: another client of the same owner sees the same containers."""
    running = await place.launch(runtime, place.spec("alice"))
    waiting = await place.cut_off(runtime, place.spec("bob"), with_secret=False)
    await runtime.close()
    successor = await place.runtime()
    phases = {gateway.container_id: gateway.phase for gateway in await successor.list()}
    assert phases == {running.container_id: GatewayPhase.RUNNING, waiting: GatewayPhase.AWAITING_SECRET}
    assert (await found(successor, running.container_id)).started_at == running.started_at


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
async def test_a_gateway_tells_whose_login_it_was_made_for(
    place: Place, runtime: GatewayRuntime, controller: Controller
) -> None:
    """One login per IBKR user holds also for gateways that were made before this manager's records."""
    spec = replace(place.spec(controller=controller), user="Some.user-1")
    container_id = await place.cut_off(runtime, spec)
    (listed,) = await runtime.list()
    assert listed.user == (await found(runtime, container_id)).user == "Some.user-1"


async def test_managers_on_one_engine_do_not_touch_each_other(place: Place, runtime: GatewayRuntime) -> None:
    """Neither's gateways are in the other's list or found by id, and they can't be touched even when their ids are known."""
    other = await place.runtime(f"{place.owner}-other")
    mine, theirs = await place.launch(runtime), await place.launch(other, place.spec(user="user2"))
    assert [gateway.container_id for gateway in await runtime.list()] == [mine.container_id]
    assert [gateway.container_id for gateway in await other.list()] == [theirs.container_id]
    assert await runtime.inspect(theirs.container_id) is None
    with contextlib.suppress(LaunchError):
        await runtime.remove(theirs.container_id, grace=0)
    with contextlib.suppress(LaunchError):
        await runtime.forget_secret(theirs.container_id)
    still_there = await other.inspect(theirs.container_id)
    assert still_there is not None
    assert still_there.phase is GatewayPhase.RUNNING
    assert still_there.started_at == theirs.started_at


async def test_identity_alone_tells_whose_gateways_they_are(place: Place, runtime: GatewayRuntime) -> None:
    """A second manager with the same prefix sees them as foreign; one with another prefix and this identity as its own."""
    mine = await place.launch(runtime, place.spec(launch_id="launch-1"))
    second = await place.runtime(identity="another")
    assert list(await second.list()) == []
    (foreign,) = [each for each in second.foreign if each.container_id == mine.container_id]
    assert (foreign.identity, foreign.name) == (place.owner, mine.name)
    assert mine.endpoint is not None
    assert foreign.host_port == (mine.endpoint.port if place.publishes else None)
    assert not foreign.is_ended
    with contextlib.suppress(LaunchError):
        await second.remove(mine.container_id, grace=0)
    with pytest.raises(NameHeldError, match=rf"identity {place.owner}.*--adopt-from {place.owner}") as refused:
        await place.launch(second, place.spec(user="user2"))
    assert "emove" not in str(refused.value), "it may be a living account's"
    renamed = await place.runtime(f"{place.owner}-new", identity=place.owner)
    (found_again,) = await renamed.list()
    assert (found_again.container_id, found_again.identity) == (mine.container_id, place.owner)
    assert (found_again.launch_id, found_again.faults, found_again.is_renamed) == ("launch-1", (), False)
    assert (await found(runtime, mine.container_id)).phase is GatewayPhase.RUNNING
    await second.close()
    assert (await found(runtime, mine.container_id)).phase is GatewayPhase.RUNNING
    second.identities = Identities("another", (place.owner,))
    await second.open()
    assert [each.container_id for each in await second.list()] == [mine.container_id]


async def test_one_ibkr_user_has_one_gateway_on_an_engine(place: Place, runtime: GatewayRuntime) -> None:
    """Whoever manages it and however the name is written; free again once the gateway has ended. The digest alone is told."""
    mine = await place.launch(runtime)
    other = await place.runtime(f"{place.owner}-other")
    shouted = place.spec("bob", user=(mine.user or "").upper())
    await other.list()
    (foreign,) = [each for each in other.foreign if each.container_id == mine.container_id]
    assert foreign.user_digest == user_digest(shouted.user)
    with pytest.raises(UserTakenError, match=mine.name):
        await place.launch(other, shouted)
    assert list(await other.list()) == [], "nothing of the refused one is left"
    await place.kill(mine)
    await place.launch(other, shouted)


@containers_only
async def test_a_gateway_that_was_started_again_says_so(place: Place, runtime: GatewayRuntime) -> None:
    """It runs, in another life, without its secret; and it can be removed as any other."""
    gateway = await place.launch(runtime)
    assert not gateway.is_restarted
    async with watching(runtime) as events:
        await place.restart(gateway)
        await until(lambda: gateway.container_id in events, lambda: events)
    again = await found(runtime, gateway.container_id)
    assert (again.phase, again.is_restarted) == (GatewayPhase.RUNNING, True)
    assert again.started_at != gateway.started_at
    await runtime.remove(gateway.container_id, grace=1)
    assert list(await runtime.list()) == []


# ---------------------------------------------------------------------------------------------- launching


async def test_a_follower_has_one_container(place: Place, runtime: GatewayRuntime) -> None:
    """A second one is refused whatever phase the first is in, and of many at once one is made."""
    attempts = [place.launch(runtime, place.spec(), client_id=1000 + each) for each in range(6)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, NameTakenError) for result in results) == 5
    (gateway,) = await runtime.list()
    assert gateway.container_id in [getattr(result, "container_id", None) for result in results]
    with pytest.raises(NameTakenError):
        await place.launch(runtime)
    await runtime.remove(gateway.container_id, grace=0)
    waiting = await place.cut_off(runtime, with_secret=False)
    with pytest.raises(NameTakenError):
        await place.launch(runtime)
    await runtime.remove(waiting, grace=0)
    await place.launch(runtime)


async def test_a_launched_gateway_runs_at_its_endpoint_and_logs_in(place: Place, runtime: GatewayRuntime) -> None:
    """Its log tells of the login, and what it is reached at is its API."""
    before = datetime.now(UTC) - timedelta(seconds=2)
    gateway = await place.launch(runtime)
    assert gateway.phase is GatewayPhase.RUNNING
    assert gateway.endpoint is not None
    assert gateway.started_at is not None
    assert before < gateway.started_at < datetime.now(UTC) + timedelta(seconds=2)
    seen = await found(runtime, gateway.container_id)
    lives = [(each.phase, each.started_at, each.endpoint) for each in (seen, gateway)]
    assert lives[0] == lives[1]
    await place.must_accept(await runtime.reach(gateway))
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: any(LOGGED_IN["ibcontroller"] in line for line in lines), lambda: lines)


async def test_nothing_is_typed_before_the_login_is_committed(place: Place, runtime: GatewayRuntime) -> None:
    """`commit` gets the container's id, once, while nothing can have been typed; the password is asked for once."""
    committing: list[Gateway] = []
    asked: list[DeliveryTarget] = []
    spec = place.spec()
    controller = await runtime.prepare(spec)

    async def commit(container_id: ContainerId) -> None:
        committing.append(await found(runtime, container_id))
        await asyncio.sleep(0.3)  # whatever could be typed too early would be by then

    async def secret(target: DeliveryTarget) -> None:
        asked.append(target)
        await place.deliver(target, encode(PASSWORD, controller))

    launching = asyncio.create_task(runtime.launch(spec, 1000, secret=secret, commit=commit))
    await until(lambda: bool(committing), "for the word")
    assert await place.typed(committing[0]) == 0
    gateway = await launching
    assert [each.phase for each in committing] == [GatewayPhase.AWAITING_SECRET]
    assert [each.container_id for each in committing] == [gateway.container_id]
    assert [(each.container_id, each.kind) for each in asked] == [(gateway.container_id, place.sender)]
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: any(LOGGED_IN["ibcontroller"] in line for line in lines), lambda: lines)
    assert await place.typed(gateway) == 1


async def test_a_refused_login_leaves_nothing(place: Place, runtime: GatewayRuntime) -> None:
    """Whatever refuses it comes through as it is, nothing was typed, and name and endpoint are free."""

    async def refuse(_: ContainerId) -> None:
        raise LaunchError("Something else is wanted now.")

    with pytest.raises(LaunchError, match="Something else is wanted"):
        await place.launch(runtime, commit=refuse)
    assert list(await runtime.list()) == []
    gateway = await place.launch(runtime)
    assert gateway.phase is GatewayPhase.RUNNING


async def test_a_password_that_is_not_delivered_leaves_no_login(place: Place, runtime: GatewayRuntime) -> None:
    """The courier's error comes through; whatever is there types nothing."""

    async def fail(_: DeliveryTarget) -> None:
        raise DeliveryError("It could not be given its password.")

    spec = place.spec()
    await runtime.prepare(spec)
    with pytest.raises(DeliveryError):
        await runtime.launch(spec, 1000, secret=fail, commit=committed)
    for left in await runtime.list():
        assert await place.typed(left) == 0
        await runtime.remove(left.container_id, grace=0)
    await place.launch(runtime)


@containers_only
async def test_a_follower_keeps_its_port_and_no_other_gets_it(place: Place, runtime: GatewayRuntime) -> None:
    """As long as it is free; a pinned one is that one or none, also for a manager that was told of it alone."""
    first = await place.launch(runtime)
    await runtime.remove(first.container_id, grace=0)
    assert (await place.launch(runtime, place.spec("bob", user="user2"))).endpoint != first.endpoint
    again = await place.launch(runtime)
    assert again.endpoint == first.endpoint
    await runtime.remove(again.container_id, grace=0)
    successor = await place.runtime()
    await successor.list()
    assert again.endpoint is not None
    pinned = again.endpoint.port
    assert (await place.launch(successor, place.spec("carl", user="user3"), port=pinned)).endpoint == again.endpoint
    with pytest.raises(PinnedPortError):
        await place.launch(successor, port=pinned)


@containers_only
async def test_a_busy_port_is_told_at_start(place: Place, runtime: GatewayRuntime) -> None:
    """The error names the port; nothing ran, the container can be removed, and another port is taken."""
    held: list[int] = []

    async def take_its_port(container_id: ContainerId) -> None:
        endpoint = (await found(runtime, container_id)).endpoint
        assert endpoint is not None
        held.append(endpoint.port)
        await taken.enter_async_context(place.taking(endpoint.port))

    async with contextlib.AsyncExitStack() as taken:
        with pytest.raises(PortTakenError) as refused:
            await place.launch(runtime, commit=take_its_port)
        assert [refused.value.port] == held
        (left,) = await runtime.list()
        assert left.phase is GatewayPhase.AWAITING_SECRET
        await runtime.remove(left.container_id, grace=5)
        gateway = await place.launch(runtime)
    assert gateway.endpoint is not None
    assert gateway.endpoint.port not in held


@containers_only
async def test_a_port_of_another_managers_gateway_is_left_alone(place: Place, runtime: GatewayRuntime) -> None:
    """Once it was listed, also while it does not run."""
    theirs = await place.launch(runtime)
    await place.kill(theirs)
    other = await place.runtime(f"{place.owner}-other")
    await other.list()
    assert theirs.endpoint is not None
    with pytest.raises(PinnedPortError):
        await place.launch(other, place.spec("bob", user="user2"), port=theirs.endpoint.port)


async def test_what_is_gone_is_not_found(place: Place, runtime: GatewayRuntime) -> None:
    """`inspect` says None, also of what never was."""
    container_id = await place.cut_off(runtime)
    await runtime.remove(container_id, grace=0)
    for gone in (container_id, NOBODY):
        assert await runtime.inspect(gone) is None
    assert list(await runtime.list()) == []


async def test_a_cancelled_launch_leaves_nothing_that_listing_does_not_show(
    place: Place, runtime: GatewayRuntime
) -> None:
    """Whenever it is cut off, there is one container afterwards or none; without a commit none that logs in."""
    for delay in (0, 0.0005, 0.002, 0.01, 0.05):
        commits: list[ContainerId] = []

        async def commit(container_id: ContainerId, commits: list[ContainerId] = commits) -> None:
            commits.append(container_id)

        call = asyncio.ensure_future(place.launch(runtime, commit=commit))
        await asyncio.sleep(delay)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        try:
            await place.launch(runtime, client_id=1001)
        except NameTakenError:
            await until_found(runtime)
        (gateway,) = await runtime.list()
        if gateway.client_id == 1000 and not commits:
            assert gateway.phase.precedes_login
        await runtime.remove(gateway.container_id, grace=0)


async def until_found(runtime: GatewayRuntime) -> Gateway:
    """The one container; an engine may go on with what was cut off."""
    async with asyncio.timeout(60):
        while not (gateways := await runtime.list()):
            await asyncio.sleep(0.05)
    (gateway,) = gateways
    return gateway


# ---------------------------------------------------------------------------------------------- states and removal


async def test_a_killed_gateway_stays_with_its_exit_code(place: Place, runtime: GatewayRuntime) -> None:
    """Nothing starts it again by itself."""
    gateway = await place.launch(runtime)
    await place.kill(gateway)
    dead = await found(runtime, gateway.container_id)
    assert (dead.phase, dead.exit_code) == (GatewayPhase.EXITED, 137)
    assert dead.started_at == gateway.started_at


@pausing_only
async def test_a_paused_gateway_is_told_from_a_running_one(place: Place, runtime: GatewayRuntime) -> None:
    """Frozen from outside it says so, and the same life goes on afterwards."""
    gateway = await place.launch(runtime)
    await place.pause(gateway)
    assert (await found(runtime, gateway.container_id)).phase is GatewayPhase.PAUSED
    await place.resume(gateway)
    resumed = await found(runtime, gateway.container_id)
    assert (resumed.phase, resumed.started_at) == (GatewayPhase.RUNNING, gateway.started_at)


@pytest.mark.parametrize("phase", ["awaiting its password", "with its password", "running", "exited"])
async def test_a_container_is_removed_in_every_phase(place: Place, runtime: GatewayRuntime, phase: str) -> None:
    """Gone when the call returns, and its port and its name are free."""
    if phase.endswith("password"):
        container_id = await place.cut_off(runtime, with_secret=phase.startswith("with"))
    else:
        gateway = await place.launch(runtime)
        container_id = gateway.container_id
        if phase == "exited":
            await place.kill(gateway)
    words = await runtime.remove(container_id, grace=1)
    if place.publishes:  # else it runs while it waits
        assert (words.exit_code is not None) == (phase in ("running", "exited"))
    assert await runtime.inspect(container_id) is None
    assert list(await runtime.list()) == []
    again = await place.launch(runtime)
    assert again.phase is GatewayPhase.RUNNING


@pausing_only
async def test_a_paused_container_is_removed(place: Place, runtime: GatewayRuntime) -> None:
    """Frozen it can't end by itself, and is gone all the same."""
    gateway = await place.launch(runtime)
    await place.pause(gateway)
    words = await runtime.remove(gateway.container_id, grace=1)
    assert not place.publishes or words.exit_code is not None
    assert await runtime.inspect(gateway.container_id) is None
    assert (await place.launch(runtime)).phase is GatewayPhase.RUNNING


async def test_a_gateway_is_asked_to_close_before_it_is_killed(place: Place, runtime: GatewayRuntime) -> None:
    """With a grace it ends tidily (0 under ibcontroller) and its last lines are kept; without, it is killed."""
    for grace, exit_code in ((30, 0), (0, 137)):
        gateway = await place.launch(runtime)
        async with following(runtime, gateway) as (lines, _):
            await until(lambda lines=lines: any("-> READY" in line for line in lines), lambda lines=lines: lines)
            words = await runtime.remove(gateway.container_id, grace=grace)
        assert words.exit_code == exit_code or (not grace and not place.kills_at_once)
        assert len(words.lines) > 10
        assert all(line in lines for line in words.lines[:10])


async def test_removing_again_is_fine(place: Place, runtime: GatewayRuntime) -> None:
    """Gone already, never there, or asked for many times at once: each call returns when it is gone."""
    gateway = await place.launch(runtime)
    await asyncio.gather(*(runtime.remove(gateway.container_id, grace=20) for _ in range(5)))
    assert list(await runtime.list()) == []
    words = await runtime.remove(gateway.container_id, grace=20)
    assert (words.exit_code, list(words.lines)) == (None, [])
    await runtime.remove(NOBODY, grace=0)


async def test_nothing_is_changed_once_the_guard_objects(place: Place, runtime: GatewayRuntime) -> None:
    """It is asked at the last moment, for all that makes, starts or ends a container; what it raises comes through."""
    running = await place.launch(runtime)
    waiting = await place.cut_off(runtime, place.spec("bob", user="user2"))
    before = {each.container_id: each.phase for each in await runtime.list()}

    def refuse() -> None:
        raise LeadershipLostError

    runtime.guard = refuse
    for act in (
        place.launch(runtime, place.spec("carl", user="user3")),
        runtime.remove(waiting, grace=0),
        runtime.remove(running.container_id, grace=0),
        runtime.remove(running.container_id, grace=20),
    ):
        with pytest.raises(LeadershipLostError):
            await act
    assert {each.container_id: each.phase for each in await runtime.list()} == before
    runtime.guard = unguarded
    await runtime.remove(running.container_id, grace=0)


async def test_no_login_begins_once_the_guard_objects(place: Place, runtime: GatewayRuntime) -> None:
    """A leader that lost its lease between the commit and the last step has nothing typed any more."""

    def refuse() -> None:
        raise LeadershipLostError

    async def lose(_: ContainerId) -> None:
        runtime.guard = refuse

    with pytest.raises(LeadershipLostError):
        await place.launch(runtime, commit=lose)
    (left,) = await runtime.list()
    assert await place.typed(left) == 0
    runtime.guard = unguarded
    await runtime.remove(left.container_id, grace=0)


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
    await runtime.forget_secret(await place.cut_off(runtime, place.spec("bob", user="user2"), with_secret=False))
    gateway = await place.launch(runtime)
    await runtime.forget_secret(gateway.container_id)
    await runtime.forget_secret(gateway.container_id)
    assert (await found(runtime, gateway.container_id)).phase is GatewayPhase.RUNNING
    await place.kill(gateway)
    await runtime.forget_secret(gateway.container_id)
    await runtime.remove(gateway.container_id, grace=0)
    await runtime.forget_secret(gateway.container_id)


async def test_what_a_container_uses_is_known_while_it_runs_where_the_runtime_has_figures(
    place: Place, runtime: GatewayRuntime, request: pytest.FixtureRequest
) -> None:
    """An engine has them; of what is gone there are none, and asking is no error."""
    gateway = await place.launch(runtime)
    used = await runtime.usage(gateway.container_id)
    if "[docker" in request.node.name:
        assert used is not None
        assert used.memory > 0
        assert used.cpu > 0
    await runtime.remove(gateway.container_id, grace=0)
    assert await runtime.usage(gateway.container_id) is None


# ---------------------------------------------------------------------------------------------- changes


async def test_changes_tell_a_containers_life_after_the_first_none(place: Place, runtime: GatewayRuntime) -> None:
    """None first, then its id at each change."""
    async with watching(runtime) as changes:
        gateway = await place.launch(runtime)
        await until(lambda: gateway.container_id in changes, lambda: changes)
        pausing = [lambda: place.pause(gateway), lambda: place.resume(gateway)]
        for act in (
            *(pausing if place.pauses else ()),
            lambda: place.kill(gateway),
            lambda: runtime.remove(gateway.container_id, grace=0),
        ):
            before = len(changes)
            await act()
            await until(lambda before=before: len(changes) > before, lambda: changes)
    assert changes[0] is None
    assert set(changes[1:]) == {gateway.container_id}


async def test_changes_tell_nothing_of_a_launch_before_its_commit(place: Place, runtime: GatewayRuntime) -> None:
    """Nobody knows the container yet, so each would have all of them listed: a fleet's start would cost the square of its size."""
    before: list[ContainerId | None] = []
    async with watching(runtime) as changes:

        async def commit(container_id: ContainerId) -> None:
            del container_id
            await asyncio.sleep(1)  # for an engine to tell
            before.extend(changes)

        gateway = await place.launch(runtime, commit=commit)
        await until(lambda: gateway.container_id in changes, lambda: changes)
    assert before == [None]


async def test_changes_are_for_the_owner_and_from_now_on(place: Place, runtime: GatewayRuntime) -> None:
    """Neither what happened before the subscription nor what happens to others' containers."""
    other = await place.runtime(f"{place.owner}-other")
    earlier = await place.launch(runtime, place.spec("alice"))
    async with watching(runtime) as changes, watching(other) as others_changes:
        theirs = await place.launch(other, place.spec("bob", user="user2"))
        await until(lambda: theirs.container_id in others_changes, lambda: others_changes)
        mine = await place.launch(runtime, place.spec("carol", user="user3"))
        await until(lambda: mine.container_id in changes, lambda: changes)
    assert set(changes[1:]) == {mine.container_id}
    assert earlier.container_id not in changes


async def test_every_subscriber_hears_everything(place: Place, runtime: GatewayRuntime) -> None:
    """Two subscriptions, of one runtime or of two managers with the same owner, take nothing from each other."""
    successor = await place.runtime()
    async with watching(runtime) as first, watching(runtime) as second, watching(successor) as third:
        gateway = await place.launch(runtime)
        for changes in (first, second, third):
            await until(lambda changes=changes: gateway.container_id in changes, "for the start")


async def test_a_subscription_ends_when_the_runtime_is_closed(runtime: GatewayRuntime) -> None:
    """It ends as an iterator does, without an exception, also while it waits."""
    heard = []
    closing = []
    async for changed in runtime.changes():
        heard.append(changed)
        closing.append(asyncio.create_task(close_soon(runtime)))
    assert heard == [None]
    await asyncio.gather(*closing)


async def close_soon(runtime: GatewayRuntime) -> None:
    """Close while the subscription waits."""
    await asyncio.sleep(0.05)
    await runtime.close()


# ---------------------------------------------------------------------------------------------- logs


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
async def test_a_log_begins_at_the_start_whenever_it_is_asked_for(
    place: Place, runtime: GatewayRuntime, controller: Controller
) -> None:
    """Followed from the first moment or only later, by one or by several, it is the same lines in the same order."""
    gateway = await place.launch(runtime, place.spec(controller=controller))
    async with following(runtime, gateway) as (early, _):
        await until(lambda: any(LOGGED_IN[controller] in line for line in early), lambda: early)
        async with following(runtime, gateway) as (late, _):
            await until(lambda: any(LOGGED_IN[controller] in line for line in late), lambda: late)
    assert any(STARTED[controller] in line for line in early[:5])
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
        await runtime.list()
    await runtime.open()
    await runtime.open()
    assert (await found(runtime, gateway.container_id)).started_at == gateway.started_at


async def test_many_gateways_at_once(place: Place, runtime: GatewayRuntime) -> None:
    """Launches and removals of different followers don't disturb each other, and each has its own endpoint and life."""
    gateways = await asyncio.gather(
        *(place.launch(runtime, place.spec(f"f{each}"), client_id=1000 + each) for each in range(6))
    )
    assert len({gateway.container_id for gateway in gateways}) == 6
    listed = {gateway.follower_id: gateway for gateway in await runtime.list()}
    assert {name: gateway.client_id for name, gateway in listed.items()} == {
        f"f{each}": 1000 + each for each in range(6)
    }
    assert len({gateway.endpoint for gateway in listed.values()}) == 6
    assert {gateway.endpoint for gateway in gateways} == {gateway.endpoint for gateway in listed.values()}
    await asyncio.gather(*(runtime.remove(gateway.container_id, grace=30) for gateway in gateways))
    assert list(await runtime.list()) == []


# ---------------------------------------------------------------------------------------------- the guard inside

FAILS: dict[str, object] = {"login_error": "Some text"}
LOOPS = FAILS | {"slow_start": 2.0, "forever": True}
"""Each lap takes seconds, in which the guard acts on a busy machine as well; a real one takes half a minute."""
WAITS = {"second_factor": {"answer": "pending"}}


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
async def test_a_login_that_loops_ends_its_container_without_any_manager(
    place: Place, runtime: GatewayRuntime, controller: Controller
) -> None:
    """Its own guard counts what the controller types, ends it at the second failure, and gives it a code of its own."""
    gateway = await place.launch(runtime, await place.spec_playing(controller, LOOPS))
    async with following(runtime, gateway) as (lines, done):
        await asyncio.wait_for(done, PATIENCE)
    ended = await found(runtime, gateway.container_id)
    assert (ended.phase, ended.exit_code) == (GatewayPhase.EXITED, LOGIN_LOOP)
    ours = [line for line in lines if line.startswith("gateway-manager: ")]  # the other channel may arrive after it
    assert ours[-1].endswith(" logins were typed, none completed: the container is ended")
    assert await place.typed(gateway) == 2


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
async def test_the_last_login_of_the_budget_ends_its_container_when_it_fails(
    place: Place, runtime: GatewayRuntime, controller: Controller
) -> None:
    """The launch says that a single one may fail: the guard does not wait for a second."""
    spec = replace(await place.spec_playing(controller, LOOPS), logins_left=1)
    gateway = await place.launch(runtime, spec)
    async with following(runtime, gateway) as (lines, done):
        await asyncio.wait_for(done, PATIENCE)
    ended = await found(runtime, gateway.container_id)
    assert (ended.phase, ended.exit_code) == (GatewayPhase.EXITED, LOGIN_LOOP)
    assert any(line.endswith(" typed, none completed: the container is ended") for line in lines)
    assert await place.typed(gateway) == 1


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
@pytest.mark.parametrize("laps", [(WAITS,), (FAILS, WAITS)], ids=["one", "one more after a failure"])
async def test_a_login_that_waits_is_left_to_whoever_comes(
    place: Place, runtime: GatewayRuntime, controller: Controller, laps: tuple[Mapping[str, Any], ...]
) -> None:
    """A phone may still approve it: the guard ends what begins anew, not what goes on."""
    gateway = await place.launch(runtime, await place.spec_playing(controller, *laps))
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: sum("econd factor authentication in" in line.lower() for line in lines) >= 1, lambda: lines)
        await asyncio.sleep(0.5)  # the guard acts within milliseconds; that it never does can only be waited for
    assert (await found(runtime, gateway.container_id)).phase is GatewayPhase.RUNNING
    assert await place.typed(gateway) == len(laps)


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
async def test_a_login_that_failed_once_and_then_completed_is_no_loop(
    place: Place, runtime: GatewayRuntime, controller: Controller
) -> None:
    """The controller cured it by itself; and whatever it types afterwards is counted anew."""
    gateway = await place.launch(runtime, await place.spec_playing(controller, FAILS, {}))
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: any(LOGGED_IN[controller] in line for line in lines), lambda: lines)
        await asyncio.sleep(0.5)  # as above
    assert (await found(runtime, gateway.container_id)).phase is GatewayPhase.RUNNING
    assert await place.typed(gateway) == 2
