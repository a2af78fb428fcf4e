"""Two managers on one database and one engine: one acts, the other stands by, and no gateway pays for the change."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pymongo
import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.service.client import (
    ControlClient,
    NoManagerError,
    RefusedByManagerError,
)
from spreadpilot_core.ibkr.simulator.engine.files import SCRIPTS
from support.home import Home
from support.manager_process import LEASE, WITHIN, Process, knows_its_place, newest
from support.mongo import MongoServer, may_build
from support.waiting import until

T = TypeVar("T")

FOLLOWERS = ["anna", "ben", "carl"]
VICTIMS = [f"victim{number}" for number in range(10)]
"""Whose gateways are killed, one before each change of the holder, so that somebody has something to start."""
pytestmark = [may_build]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MongoServer]:
    with MongoServer(tmp_path / "mongo") as running:
        yield running


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home(ports=40)
    yield place
    await place.end()


async def pair(
    home: Home, server: MongoServer, *more: str, other_engine: str = "engine"
) -> tuple[Process, Process, SimulatedRuntime]:
    engine = home.directory / "engine"
    engine.mkdir()
    (home.directory / other_engine).mkdir(exist_ok=True)
    await home.add(*FOLLOWERS, *more)
    stored = home.directory / "credentials.json"
    for name in ("one", "two"):
        (home.directory / name).mkdir()
        (home.directory / name / stored.name).write_bytes(stored.read_bytes())
    with pymongo.MongoClient(server.uri) as client:
        client["spreadpilot"]["followers"].insert_many(
            [{"_id": each, "vault_secret_ref": f"ibkr/{each}", "enabled": True} for each in (*FOLLOWERS, *more)]
        )
    runtime = SimulatedRuntime(engine, owner="ibgateway-follower", manager_id="test")
    await runtime.open()
    shared = {"store_url": "mongodb:", "mongo_uri": server.uri}
    one = Process("one", home, runtime_url=f"simulated:{engine}", **shared)
    return one, Process("two", home, runtime_url=f"simulated:{home.directory / other_engine}", **shared), runtime


async def found(runtime: SimulatedRuntime) -> dict[str, Gateway]:
    """What runs, for who knows the identity that both managers have from their database."""
    for note in await asyncio.to_thread(lambda: list(runtime.directory.parent.glob("*/identity.json"))):
        identities = json.loads(note.read_text())["mongodb:spreadpilot"]
        runtime.identities = Identities(identities[0])
    return {each.follower_id: each for each in await runtime.list()}


@pytest.mark.parametrize("changes", [4, pytest.param(10, marks=pytest.mark.soak)])
async def test_changes_of_the_holder_restart_nothing_and_nobody_acts_out_of_term(
    home: Home, server: MongoServer, record_property: Callable[[str, object], None], changes: int
) -> None:
    """Killed and frozen in turn, each time with a gateway to start: the trail has no act of a manager out of its lease."""
    victims = VICTIMS[:changes]
    one, two, runtime = await pair(home, server, *victims)
    took: list[float] = []
    try:
        await one.start()
        await one.says("all ready")
        before = await found(runtime)
        await two.start()
        await two.says("stands by")
        for number, victim in enumerate(victims):
            holder, other = (one, two) if newest(one) > newest(two) else (two, one)
            last = newest(holder)
            await runtime.kill(before[FollowerId(victim)].follower_id)
            await asyncio.sleep(0.05 * number)
            asked = time.time()
            holder.send(signal.SIGKILL if number % 2 else signal.SIGSTOP)
            await until(lambda other=other, last=last: newest(other) > last, within=WITHIN)
            took.append(other.leases[newest(other)] - asked)
            if number % 2:
                await holder.end()
                await holder.start()
            holder.send(signal.SIGCONT)
            await until(lambda holder=holder, other=other: knows_its_place(holder, other), within=WITHIN)
        await until(lambda: newest(one) != newest(two), within=WITHIN)
        after, acts = await found(runtime), await operations(home)
    finally:
        await one.end()
        await two.end()
        await runtime.close()
    record_property("takeover_s", [round(each, 2) for each in took])
    assert max(took) < LEASE + WITHIN
    assert {each: after[FollowerId(each)] for each in FOLLOWERS} == {
        each: before[FollowerId(each)] for each in FOLLOWERS
    }
    assert out_of_term(acts, one, two) == []


def out_of_term(acts: list[dict[str, Any]], *managers: Process) -> list[dict[str, Any]]:
    """What the engine did for one of them after the other's lease had begun.

    A request that a freeze held back between its last check and its way out may still come: the engine refuses it, since
    the other has removed the container or bears its name.
    """
    leases = sorted((number, began, each.pids) for each in managers for number, began in each.leases.items())
    ends = [began for _, began, _ in leases[1:]] + [float("inf")]
    done = {each["number"] for each in acts if each["phase"] == "end" and each["result"] == "done"}
    begun = [each for each in acts if each["phase"] == "begin" and each["number"] in done]
    asked = [each for each in begun if each["operation"] in ("create", "start", "remove")]
    assert {"create", "start"} <= {each["operation"] for each in asked}

    def allowed(act: dict[str, Any]) -> bool:
        at, pid = datetime.fromisoformat(act["at"]).timestamp(), int(act["manager"].rpartition(":")[2])
        return any(
            pid in pids and at < end for (_, began, pids), end in zip(leases, ends, strict=True) if at >= began - 1
        )

    return [each for each in asked if not allowed(each)]


async def test_a_frozen_holder_does_nothing_after_its_term(home: Home, server: MongoServer) -> None:
    """SIGSTOP and SIGCONT of the holder: the trail of the engine shows no act of it after the other took over."""
    one, two, runtime = await pair(home, server)
    try:
        await one.start()
        await one.says("all ready")
        before = await found(runtime)
        await two.start()
        await two.says("stands by")
        one.send(signal.SIGSTOP)
        await two.says("takes over")
        await runtime.kill(before["anna"].follower_id)
        taken = await last_operation(home)
        one.send(signal.SIGCONT)
        await one.says("stands by")
        async with asyncio.timeout(WITHIN):
            while (now := (await found(runtime)).get("anna")) is None or now.container_id == before[
                "anna"
            ].container_id:
                await asyncio.sleep(0.02)
        await until(lambda: [line for line in two.lines if line.endswith("ready")][-1] == "all ready", within=WITHIN)
        await asyncio.sleep(1)
        after = await operations(home, since=taken)

        managers = {each["manager"] for each in after if each["operation"] in ("create", "start", "remove")}
        assert len(managers) == 1, after
        assert (await found(runtime))["ben"] == before["ben"]
    finally:
        await one.end()
        await two.end()
        await runtime.close()


async def stand_by_with(manager: Process, code: ReasonCode) -> None:
    """Wait until its control socket says of every gateway that this is why."""

    def told() -> set[str] | None:
        try:
            with ControlClient(Path(manager.settings["state_dir"])) as client:
                return {each["reason_code"] for each in client.gateways()}
        except NoManagerError:  # it is starting
            return None

    async with asyncio.timeout(WITHIN):
        while await asyncio.to_thread(told) != {code.value}:
            await asyncio.sleep(0.1)


async def waits_for_a_word(manager: Process, words: str) -> None:
    """It says what it waits for, also to who launches something, and does nothing meanwhile."""
    await manager.says(f"start with `gateway-manager {words}`")
    await asyncio.sleep(LEASE)
    with pytest.raises(RefusedByManagerError, match=words):
        await manager.ask(lambda client: client.act("anna", "launch", {}))


async def test_another_engine_is_acted_on_only_with_an_operators_word(home: Home, server: MongoServer) -> None:
    """With another engine the second waits for ever, and says for whom; `take_over` lets it act, and the trail says who did."""
    one, two, runtime = await pair(home, server, other_engine="engine2")
    other = SimulatedRuntime(home.directory / "engine2", owner="ibgateway-follower", manager_id="test")
    await other.open()
    try:
        await one.start()
        await one.says("all ready")
        before = await found(runtime)
        await two.start()
        await two.says(
            f"It stands by: {socket.gethostname()}:{home.directory / 'one'}, on another engine, is the leader"
        )
        await stand_by_with(two, ReasonCode.NOT_LEADER)
        await one.end()
        await waits_for_a_word(two, "run --take-over")
        assert (two.leases, await found(other)) == ({}, {})
        await two.end()
        assert await taken_over(home) == []

        two.settings["take_over"] = True
        await two.start()
        await two.says("all ready")
        acting = two.pid
        assert set(await found(other)) == set(FOLLOWERS)
        assert await found(runtime) == before
        async with asyncio.timeout(WITHIN):
            while len(lines := await taken_over(home)) < 1 + len(FOLLOWERS):
                await asyncio.sleep(0.1)
    finally:
        await one.end()
        await two.end()
        await other.close()
        await runtime.close()
    line = lines[0]
    assert re.fullmatch(rf"manager, .* process {acting}", line["who"])
    assert f"takes over from {socket.gethostname()}:{home.directory / 'one'}, silent for" in line["detail"]


async def test_gateways_that_a_detach_left_on_another_engine_are_nobodys_to_log_in(
    home: Home, server: MongoServer
) -> None:
    """The standby takes the lease and acts, but for those users; a manager on their own engine adopts them at once."""
    one, two, runtime = await pair(home, server, "dora", other_engine="engine2")
    other = SimulatedRuntime(home.directory / "engine2", owner="ibgateway-follower", manager_id="test")
    await other.open()
    try:
        await enable(server, "dora", enabled=False)
        await one.start()
        await one.shows(dict.fromkeys(FOLLOWERS, "ready"))
        before = await found(runtime)
        await two.start()
        await two.says("stands by")
        assert await one.detach() == []
        await two.says("and acts")
        await enable(server, "dora", enabled=True)
        await two.shows({"dora": "ready", **dict.fromkeys(FOLLOWERS, "needs_human")})
        await refuses_what_was_left(two, before[FollowerId("anna")])
        assert set(await found(other)) == {"dora"}
        assert await found(runtime) == before

        await two.detach()
        await one.start()
        await one.shows({"anna": "ready", "carl": "ready", "dora": "needs_human"})
        assert (await found(runtime))[FollowerId("anna")] == before[FollowerId("anna")]
        assert len([each for each in await operations(home) if each["operation"] == "start"]) == 2 * len(FOLLOWERS)
    finally:
        await one.end()
        await two.end()
        await other.close()
        await runtime.close()


async def refuses_what_was_left(manager: Process, container: Gateway) -> None:
    """It says which container is in the way, and the cure; no operator's word but that one passes it."""
    left = (await manager.gateways())["anna"]
    assert left["reason_code"] == "GATEWAY_LEFT_ELSEWHERE"
    assert container.container_id[:12] in left["reason"]
    assert "gateway-manager run --take-over" in left["next_action"]
    for words in ({"retry_login": True}, {}):
        with pytest.raises(RefusedByManagerError, match="another engine"):
            await manager.ask(lambda client, words=words: client.act("anna", "launch", words))
    with pytest.raises(RefusedByManagerError, match="can't stop it"):
        await manager.ask(lambda client: client.act("ben", "stop"))


async def test_what_was_left_on_another_engine_is_taken_over_by_an_operators_word(
    home: Home, server: MongoServer
) -> None:
    """Once an operator says that it is gone, the same followers log in here, and the trail says on whose word."""
    one, two, runtime = await pair(home, server, other_engine="engine2")
    try:
        await one.start()
        await one.shows(dict.fromkeys(FOLLOWERS, "ready"))
        before = await found(runtime)
        await one.detach()
        await two.start()
        await two.shows(dict.fromkeys(FOLLOWERS, "needs_human"))
        await two.detach()
        for gateway in before.values():
            await runtime.remove(gateway.container_id, grace=0)
        two.settings["take_over"] = True
        await two.start()
        await two.shows(dict.fromkeys(FOLLOWERS, "ready"))
        lines = await taken_over(home)
    finally:
        await one.end()
        await two.end()
        await runtime.close()
    assert len(lines) == len(FOLLOWERS)
    assert all("an operator said that it is gone" in line["detail"] for line in lines)


@pytest.mark.parametrize("other_engine", ["engine", "engine2"])
async def test_a_login_under_way_at_a_detach_is_watched_by_a_standby_of_the_same_engine_alone(
    home: Home, server: MongoServer, other_engine: str
) -> None:
    """Who can watch it gets it at once; one on another engine can't, so whoever detaches stays until it has ended."""
    one, two, runtime = await pair(home, server, other_engine=other_engine)
    waits = {"laps": [{"login_hangs": True, "forever": True}], "timings": "real"}
    await asyncio.to_thread(
        (home.directory / "engine" / SCRIPTS).write_text, json.dumps({"followers": {"anna": waits}})
    )
    one.settings["detach_wait"] = 2 * LEASE
    try:
        await one.start()
        await one.shows({"anna": "logging_in", "ben": "ready", "carl": "ready"})
        before = await found(runtime)
        await two.start()
        await two.says("stands by")
        left = await one.detach()
        if other_engine == "engine":
            assert left == []
            await two.shows({"anna": "logging_in", "ben": "ready", "carl": "ready"})
        else:
            assert [sentence.partition(":")[0] for sentence in left] == ["anna"]
            await two.shows(dict.fromkeys(FOLLOWERS, "needs_human"))
        assert await found(runtime) == before
    finally:
        await one.end()
        await two.end()
        await runtime.close()


async def enable(server: MongoServer, follower_id: str, *, enabled: bool) -> None:
    """As another service changes a record."""

    def change() -> None:
        with pymongo.MongoClient(server.uri) as client:
            client["spreadpilot"]["followers"].update_one({"_id": follower_id}, {"$set": {"enabled": enabled}})

    await asyncio.to_thread(change)


async def taken_over(home: Home) -> list[dict[str, Any]]:
    """The `take-over` lines in the second manager's audit trail."""

    def read() -> list[dict[str, Any]]:
        return [each for each in AuditTrail(home.directory / "two").entries() if each["act"] == "take-over"]

    return await asyncio.to_thread(read)


async def operations(home: Home, *, since: int = 0) -> list[dict[str, Any]]:
    text = await asyncio.to_thread((home.directory / "engine" / "operations.jsonl").read_text)
    return [each for line in text.splitlines() if (each := json.loads(line))["number"] > since]


async def last_operation(home: Home) -> int:
    return max(each["number"] for each in await operations(home))
