"""What only the simulated runtime does: scripts and faults, its trail of operations, and what a start needs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import ib_async
import pytest

from spreadpilot_core.ibkr.errors import LaunchError, NameTakenError
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Controller, Gateway, GatewayPhase
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.settings import Settings
from support.ports import free_ports
from support.runtimes import (  # noqa: F401  # a fixture
    PASSWORD,
    SimulatedPlace,
    following,
    found,
    make_spec,
    simulated_place_fixture,
    until,
    watching,
)

ALICE = FollowerId("alice")
REJECTED = {"ibcontroller": "login rejected", "ibc": "Unrecognized Username or Password"}
LOGGED_IN = {"ibcontroller": "login completed", "ibc": "Login has completed"}


@pytest.fixture(name="place")
async def place_fixture(simulated_place: SimulatedPlace) -> SimulatedPlace:
    """A directory with a host of its own."""
    return simulated_place


@pytest.fixture(name="runtime")
def runtime_fixture(place: SimulatedPlace) -> SimulatedRuntime:
    """An open runtime in it."""
    assert isinstance(place.opened, SimulatedRuntime)
    return place.opened


async def says(runtime: SimulatedRuntime, gateway: Gateway, *words: str) -> str:
    """Wait until the log holds one of these words; gives the first of them that it holds."""
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: any(word in line for word in words for line in lines), lambda: lines)
        return next(word for word in words if any(word in line for line in lines))


@pytest.fixture(name="client")
async def client_fixture() -> AsyncIterator[ib_async.IB]:
    """An API client as users have it."""
    client = ib_async.IB()
    yield client
    client.disconnect()


# ---------------------------------------------------------------------------------------------- the secret


async def test_nothing_starts_without_its_secret(place: SimulatedPlace, runtime: SimulatedRuntime) -> None:
    """A created container waits; the refusal says for what, and delivering it is enough."""
    created = await runtime._create(place.spec(), 1000, free_ports(1))
    with pytest.raises(LaunchError, match="waits for its secret"):
        await runtime._start(created.container_id)
    assert (await found(runtime, created.container_id)).phase is GatewayPhase.AWAITING_SECRET
    await place.deliver(created, b"secret")
    assert (await runtime._start(created.container_id)).phase is GatewayPhase.RUNNING


async def test_an_ended_container_is_not_started_again(place: SimulatedPlace, runtime: SimulatedRuntime) -> None:
    """Its secret was used up by its one start."""
    gateway = await place.launch(runtime)
    await runtime.kill(ALICE)
    with pytest.raises(LaunchError, match="has ended"):
        await runtime._start(gateway.container_id)


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
@pytest.mark.parametrize("password", [PASSWORD, "pä$$ wörd\\n#!=:\\", "東京{x}%", "😀'\"`$(id)"])
async def test_a_password_arrives_as_it_was_given(
    place: SimulatedPlace, runtime: SimulatedRuntime, controller: Controller, password: str
) -> None:
    """Written by the courier for one controller and read by that controller's rules, it logs in; any other doesn't."""
    right = hashlib.sha256(password.encode()).hexdigest()
    await runtime.script(ALICE, password_sha256=right)
    await runtime.script(FollowerId("bob"), password_sha256=right)
    outcomes = (LOGGED_IN[controller], REJECTED[controller])
    gateway = await place.launch(runtime, place.spec(controller=controller), password=password)
    assert await says(runtime, gateway, *outcomes) == outcomes[0]
    gateway = await place.launch(runtime, place.spec("bob", controller=controller), password=password + "x")
    assert await says(runtime, gateway, *outcomes) == outcomes[1]


async def test_no_password_is_left_in_the_directory(place: SimulatedPlace, runtime: SimulatedRuntime) -> None:
    """Neither in the trail nor in any other file of the host, and no list or inspection shows it or the user."""
    gateway = await place.launch(runtime, make_spec(user="somebody-special"))
    await says(runtime, gateway, LOGGED_IN["ibcontroller"])
    assert "somebody-special" not in repr(await runtime.list())
    files = await asyncio.to_thread(lambda: [each for each in place.directory.iterdir() if each.is_file()])
    assert {file.name for file in files} == {
        "logins.jsonl",
        "operations.jsonl",
        "simulated-host.json",
        "simulated-host.lock",
    }
    for file in files:
        content = await asyncio.to_thread(file.read_text)
        assert PASSWORD not in content
        assert json.dumps(PASSWORD)[1:-1] not in content


# ---------------------------------------------------------------------------------------------- scripts and faults


async def test_the_first_start_of_a_follower_can_be_scripted_to_fail(place: SimulatedPlace) -> None:
    """Said in `scripts.json` before there is a host: rejected at the first start, logged in at the second."""
    book = {
        "controller": "ibc",
        "followers": {"alice": {"laps": [{"wrong_password": True}], "accounts": ["DU1000001"]}},
    }
    await asyncio.to_thread((place.directory / "scripts.json").write_text, json.dumps(book))
    runtime = await place.runtime()
    outcomes = (LOGGED_IN["ibc"], REJECTED["ibc"])
    for outcome in (outcomes[1], outcomes[0]):
        spec = make_spec(options=place.spec().options.model_copy(update={"image_contract": None}))
        assert await runtime.prepare(spec) == "ibc"
        gateway = await place.launch(runtime, spec)
        assert gateway.controller == "ibc"
        assert await says(runtime, gateway, *outcomes) == outcome
        await runtime.remove(gateway.container_id, grace=0)
    (other,) = [await place.launch(runtime, place.spec("bob", controller="ibc"))]
    assert await says(runtime, other, *outcomes) == outcomes[0]


async def test_a_fault_of_the_login_may_be_said_before_there_is_a_container(
    place: SimulatedPlace, runtime: SimulatedRuntime
) -> None:
    """It happens at the next start, once."""
    await runtime.inject(ALICE, "wrong_password")
    outcomes = (LOGGED_IN["ibcontroller"], REJECTED["ibcontroller"])
    for outcome in (outcomes[1], outcomes[0]):
        gateway = await place.launch(runtime)
        assert await says(runtime, gateway, *outcomes) == outcome
        await runtime.remove(gateway.container_id, grace=0)


async def test_a_fault_happens_in_the_running_gateway(
    place: SimulatedPlace, runtime: SimulatedRuntime, client: ib_async.IB
) -> None:
    """A crash ends it with its exit code and is told; a wrong name is told with the known ones."""
    async with watching(runtime) as events:
        gateway = await place.launch(runtime, place.spec(controller="ibc"))
        await says(runtime, gateway, "Configuration tasks completed")
        with pytest.raises(LaunchError, match=r"known are .*crash"):
            await runtime.inject(ALICE, "crahs")
        with pytest.raises(LaunchError, match="exit_code"):
            await runtime.inject(ALICE, "crash", code=1)
        await client.connectAsync(gateway.endpoint.host, gateway.endpoint.port, clientId=5, timeout=20)
        await runtime.inject(ALICE, "drop_clients")
        await until(lambda: not client.isConnected(), "for the end of the client")
        known = len(events)
        await runtime.inject(ALICE, "crash", exit_code=134)
        await until(lambda: events[known:] == [gateway.container_id], lambda: events)
    assert (await found(runtime, gateway.container_id)).exit_code == 134


async def test_accounts_mode_and_read_only_reach_the_api(
    place: SimulatedPlace, runtime: SimulatedRuntime, client: ib_async.IB
) -> None:
    """What was chosen for the follower is what an API client sees."""
    await runtime.script(ALICE, accounts=["U1000001", "U1000002"], server_version=170)
    gateway = await place.launch(runtime, place.spec(trading_mode=TradingMode.LIVE))
    await says(runtime, gateway, "-> READY")
    await client.connectAsync(gateway.endpoint.host, gateway.endpoint.port, clientId=5, timeout=20)
    assert client.managedAccounts() == ["U1000001", "U1000002"]
    assert client.client.serverVersion() == 170


async def test_positions_outlive_a_gateway(
    place: SimulatedPlace, runtime: SimulatedRuntime, client: ib_async.IB
) -> None:
    """What was bought through one container is there in the next one, as it is at IBKR."""
    gateway = await place.launch(runtime)
    await says(runtime, gateway, "-> READY")
    await client.connectAsync(gateway.endpoint.host, gateway.endpoint.port, clientId=5, timeout=20)
    trade = client.placeOrder(
        ib_async.Stock("AAPL", "SMART", "USD"), ib_async.MarketOrder("BUY", 10, account=client.managedAccounts()[0])
    )
    await until(trade.isDone, lambda: trade)
    client.disconnect()
    await runtime.remove(gateway.container_id, grace=0)
    gateway = await place.launch(runtime)
    await says(runtime, gateway, "-> READY")
    await client.connectAsync(gateway.endpoint.host, gateway.endpoint.port, clientId=6, timeout=20)
    assert [(each.contract.symbol, each.position) for each in client.positions()] == [("AAPL", 10)]


async def test_a_scripts_file_with_a_slip_stops_the_launch(place: SimulatedPlace, runtime: SimulatedRuntime) -> None:
    """The error names the file, the follower and the word; the next look at the mended file is enough."""
    scripts = place.directory / "scripts.json"
    await asyncio.to_thread(scripts.write_text, '{"followers": {"alice": {"lapse": []}}}')
    with pytest.raises(LaunchError, match=r"scripts\.json.*alice.*lapse"):
        await place.launch(runtime)
    await asyncio.to_thread(scripts.unlink)
    await place.launch(runtime)


async def test_a_hanging_gateway_is_killed_when_its_grace_is_over(
    place: SimulatedPlace, runtime: SimulatedRuntime
) -> None:
    """It can't hear SIGTERM; one that is merely paused is let go on, so that it can."""
    for freeze, exit_code in ((runtime.inject(ALICE, "freeze"), 137), (runtime.pause(ALICE), 0)):
        gateway = await place.launch(runtime)
        await says(runtime, gateway, "-> READY")
        await freeze
        words = await runtime.remove(gateway.container_id, grace=0.5 if exit_code else 60)
        assert words.exit_code == exit_code


# ---------------------------------------------------------------------------------------------- operations, cut-off calls


async def test_the_trail_tells_who_did_what_and_when(place: SimulatedPlace, runtime: SimulatedRuntime) -> None:
    """Begin and end of each operation with manager, owner, follower, container and result, in the order of its clock."""
    other = await place.runtime(manager_id="second")
    created = await runtime._create(place.spec(), 1000, free_ports(1))
    with pytest.raises(NameTakenError):
        await place.launch(other)
    with pytest.raises(LaunchError):
        await runtime._start(created.container_id)
    await place.deliver(created, b"secret")
    await runtime._start(created.container_id)
    await other.remove(created.container_id, grace=0)
    trail = await asyncio.to_thread(place.operations)
    ends = [line for line in trail if line["phase"] == "end"]
    assert [(line["operation"], line["manager"], line["result"]) for line in ends] == [
        ("create", "test", "done"),
        ("create", "second", "name_taken"),
        ("start", "test", "no_secret"),
        ("attach", None, "done"),
        ("start", "test", "done"),
        ("remove", "second", "done"),
    ]
    assert {line["follower"] for line in trail} == {"alice"}
    assert {line["owner"] for line in trail} == {place.owner}
    assert {line["container"] for line in ends if line["result"] != "name_taken"} == {created.container_id}
    times = [line["monotonic"] for line in trail]
    assert times == sorted(times)
    numbers = [line["number"] for line in trail]
    assert numbers == [number for each in range(1, 7) for number in (each, each)]


@pytest.mark.parametrize("operation", ["create", "start", "remove"])
async def test_a_call_that_was_cut_off_after_it_was_obeyed_is_seen_by_listing(
    place: SimulatedPlace, runtime: SimulatedRuntime, operation: str
) -> None:
    """The host did it and only the answer was lost: the list tells, and nothing is done twice."""
    await runtime.ask_host("answer_late", operation=operation, seconds=600)
    if operation == "create":
        call = asyncio.create_task(runtime._create(place.spec(), 1000, free_ports(1)))
    elif operation == "start":
        call = asyncio.create_task(place.launch(runtime))
    else:
        call = asyncio.create_task(runtime.remove(await place.cut_off(runtime), grace=0))
    await until(lambda: any(line["phase"] == "end" for line in place.operations(operation)), "for the host")
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    phases = [gateway.phase for gateway in await runtime.list()]
    left = {"create": [GatewayPhase.AWAITING_SECRET], "start": [GatewayPhase.RUNNING], "remove": []}
    assert phases == left[operation]


async def test_streams_that_were_cut_are_taken_up_again(place: SimulatedPlace, runtime: SimulatedRuntime) -> None:
    """The stream of changes says None and goes on; a log goes on where it was, without a repeated or a missing line."""
    operator = await place.runtime()
    await runtime.script(ALICE, timings="real")
    async with watching(runtime) as events:
        gateway = await place.launch(runtime)
        async with following(runtime, gateway) as (lines, task):
            for cut in (1, 2, 3):
                await until(lambda: len(lines) > 5, lambda: lines)
                await operator.ask_host("drop_streams")
                await until(lambda cut=cut: events.count(None) > cut, lambda: events)
            known = len(events)
            await runtime.kill(ALICE)
            await until(lambda: gateway.container_id in events[known:], lambda: events)
            await asyncio.wait_for(task, 60)
        async with following(runtime, gateway) as (whole, task):
            await asyncio.wait_for(task, 60)
    assert lines == whole


def test_the_settings_choose_directory_and_owner(tmp_path: Path) -> None:
    """`simulated:` is the state directory, `simulated:DIRECTORY` another; the owner is the container prefix."""
    here = Settings.read(state_dir=tmp_path, runtime_url="simulated:", container_prefix="mine")
    there = Settings.read(state_dir=tmp_path, runtime_url=f"simulated:{tmp_path}/shared")
    first = SimulatedRuntime.from_settings(here, manager_id="m")
    second = SimulatedRuntime.from_settings(there, manager_id="m")
    assert (first.directory, first.owner) == (tmp_path, "mine")
    assert (second.directory, second.owner) == (tmp_path / "shared", "ibgateway-follower")
