"""The manager on its embedded adapters: a real host process, real sockets, a real courier, ib_async clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sqlite3
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from ib_async import IB

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.deciding.pacing import FORGET_RETRY
from spreadpilot_core.ibkr.errors import (
    AlreadyRunningError,
    AuditError,
    GatewayManagerError,
    LaunchError,
    LoginRefusedError,
    NotStartedError,
    PortsExhaustedError,
    SettingsError,
    UnknownFollowerError,
)
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.events import ClientStale, Event
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.supervision.services import spec_for
from spreadpilot_core.ibkr.wiring import open_records
from support.home import PATIENCE, Home, eventually, running, seen
from support.ports import free_ports


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


async def ready(manager: GatewayManager, *follower_ids: str) -> None:
    await eventually(
        lambda: all(manager.is_healthy(each) for each in follower_ids),
        lambda: [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()],
    )


async def test_every_file_of_a_manager_is_its_users_alone(home: Home) -> None:
    """In a program whose umask lets everybody read and write what it makes."""
    before = os.umask(0)
    try:
        await home.add("alice")
        async with running(home) as manager:
            await ready(manager, "alice")
            open_to_others = {
                f"{path.relative_to(home.directory)}: {path.stat().st_mode:o}"
                for path in home.directory.rglob("*")
                if not path.is_dir() and path.stat().st_mode & 0o077
            }
    finally:
        os.umask(before)
    assert not open_to_others


async def test_the_documented_program_runs_as_written(home: Home) -> None:
    """Start, get a client, launch, stop, reconnect, stop: each call keeps the promise of the documentation."""
    await home.add("follower_123", "follower_456")
    gateway_manager = home.manager()
    await gateway_manager.start()

    ib_client = await gateway_manager.get_client("follower_123")
    assert isinstance(ib_client, IB)
    assert ib_client.isConnected()
    assert ib_client.managedAccounts()
    assert gateway_manager.is_healthy("follower_123") is True
    await gateway_manager.launch_gateway("follower_456")
    assert await gateway_manager.get_client("follower_456") is not None
    await gateway_manager.stop_gateway("follower_123")
    assert gateway_manager.is_healthy("follower_123") is False
    assert await gateway_manager.get_client("follower_123") is None
    assert await gateway_manager.reconnect("follower_456") is True
    await gateway_manager.stop()

    runtime = home.runtime()
    await runtime.open()
    assert list(await runtime.list()) == []
    await runtime.close()


async def test_callers_at_the_same_time_share_one_client(home: Home) -> None:
    """Fifty calls while the gateway is still logging in get the very same object."""
    await home.add("anna")
    async with running(home) as manager:
        clients = await asyncio.gather(*(manager.get_client("anna") for _ in range(50)))

        assert clients[0] is not None
        assert all(client is clients[0] for client in clients)


async def test_get_client_with_a_timeout_of_zero_never_waits(home: Home) -> None:
    """0 gives what is there now: None before, the client afterwards."""
    await home.add("anna")
    # None is ready before the first question, however long that waits for a processor.
    slow = {"timings": {"program_start": 3.0}}
    await asyncio.to_thread((home.directory / "scripts.json").write_text, json.dumps(slow))
    async with running(home) as manager:
        assert await manager.get_client("anna", timeout=0) is None
        await ready(manager, "anna")
        assert await manager.get_client("anna", timeout=0) is not None


async def test_unknown_disabled_and_stopped_followers_have_their_answers(home: Home) -> None:
    """Unknown is an error naming it; disabled and stopped give None at once, and launching the disabled says why not."""
    await home.add("off", enabled=False)
    await home.add("on")
    async with running(home) as manager:
        with pytest.raises(UnknownFollowerError, match="nobody"):
            await manager.get_client("nobody")
        assert await manager.get_client("off") is None
        with pytest.raises(LaunchError, match="not enabled"):
            await manager.launch_gateway("off")
        assert manager.get_gateway_status("off") is GatewayStatus.STOPPED


async def test_calls_before_start_and_after_stop_name_the_cure(home: Home) -> None:
    """Every call says that the manager is not running, and what to do."""
    manager = home.manager()
    with pytest.raises(NotStartedError, match="Await start"):
        await manager.get_client("anna")
    await manager.start()
    await manager.start()
    await manager.stop()
    await manager.stop()
    with pytest.raises(NotStartedError, match="was stopped"):
        manager.list_gateways()


async def test_one_manager_per_state_directory(home: Home) -> None:
    """A second manager refuses, naming the first."""
    async with running(home):
        with pytest.raises(AlreadyRunningError, match="process"):
            await home.manager().start()


def test_a_wrong_setting_names_itself_and_what_is_allowed() -> None:
    """The start stops with one sentence before anything is touched."""
    with pytest.raises(SettingsError, match="login_budget is 0"):
        GatewayManager(login_budget=0)
    with pytest.raises(SettingsError, match="no such setting"):
        GatewayManager(gateway_imagee="x")


async def test_a_stopped_gateway_stays_stopped_over_a_restart_of_the_manager(home: Home) -> None:
    """Only `launch` starts it again."""
    await home.add("anna", "ben")
    async with running(home) as manager:
        await ready(manager, "anna", "ben")
        await manager.stop_gateway("anna")
    async with running(home) as manager:
        await ready(manager, "ben")
        assert seen(manager, "anna").state is State.STOPPED
        await manager.launch_gateway("anna")
        await ready(manager, "anna")


async def test_a_launch_returns_once_the_stop_before_it_is_forgotten_durably(home: Home) -> None:
    """While the record of the operator's word can't be written, `launch_gateway` waits, also where it changes no gateway."""
    await home.add("anna")
    async with running(home) as manager:
        await ready(manager, "anna")
        records_file = home.directory / "records.sqlite3"
        with contextlib.closing(sqlite3.connect(records_file, timeout=PATIENCE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            stopping = asyncio.create_task(manager.stop_gateway("anna"))
            launching = asyncio.create_task(manager.launch_gateway("anna"))
            returned, _ = await asyncio.wait([launching], timeout=1)
            other.execute("ROLLBACK")
        assert not returned
        await launching
        records = open_records(manager.settings)  # as the next manager would find it, were this one killed now
        await records.open()
        assert (await records.load()).usable[FollowerId("anna")].stopped_by_operator is False
        await records.close()
        with pytest.raises(GatewayManagerError, match="launched again"):
            await stopping
        await ready(manager, "anna")


async def test_a_wrong_password_is_typed_once_and_a_new_one_is_tried_by_itself(home: Home) -> None:
    """FAILED with the reason and the cure; storing another password is enough."""
    await home.add("anna")
    runtime = home.runtime()
    await runtime.open()
    await runtime.script(FollowerId("anna"), [{"wrong_password": True, "forever": False}])
    async with running(home) as manager:
        await eventually(lambda: seen(manager, "anna").state is State.NEEDS_HUMAN, lambda: seen(manager, "anna"))
        snapshot = seen(manager, "anna")
        assert snapshot.reason is not None
        assert "did not accept" in snapshot.reason
        assert (snapshot.reason_code, snapshot.severity) == (ReasonCode.PASSWORD_REJECTED, Severity.ERROR)
        await eventually(  # once what is left of it is gone
            lambda: "--retry-login" in (seen(manager, "anna").next_action or ""), lambda: seen(manager, "anna")
        )
        with pytest.raises(LoginRefusedError, match="did not accept"):
            await manager.launch_gateway("anna")
        await asyncio.sleep(1.5)
        assert await starts(home) == 1

        await home.set_password("anna", "another-password")

        await ready(manager, "anna")
        assert await starts(home) == 2
    await runtime.close()
    trail = AuditTrail(home.directory)
    lines = await asyncio.to_thread(lambda: list(trail.entries()))
    assert all((line["follower"], line["ref"]) == ("anna", "ibkr/anna") for line in lines)
    first, second = (line["version"] for line in lines if line["act"] == "deliver")
    told = {line["act"]: line for line in lines}
    assert [line["act"] for line in lines].count("reject") == 1
    assert (told["reject"]["version"], told["reject"]["source"]) == (first, "ibkr")
    assert "did not accept" in told["reject"]["outcome"]
    assert told["reject"]["detail"].startswith("in container ")
    assert (told["rotate"]["version"], told["rotate"]["detail"]) == (second, "instead of version 1")
    assert "did not accept" in told["launch"]["detail"]
    assert (await asyncio.to_thread(trail.verify)).is_whole


async def starts(home: Home) -> int:
    text = await asyncio.to_thread((home.directory / "operations.jsonl").read_text)
    return sum(
        json.loads(line)["operation"] == "start" and json.loads(line)["phase"] == "begin" for line in text.splitlines()
    )


async def test_a_password_file_that_could_not_be_removed_is_removed_later(home: Home) -> None:
    """While the runtime refuses, the gateway gets and stays ready; the manager asks again until it is done, and no more."""
    await home.add("anna")
    async with running(home) as manager:
        assert manager._wired is not None
        runtime, asked, clock = manager._wired.services.runtime, [], asyncio.get_running_loop().time
        forget, refuses = runtime.forget_secret, True

        async def refuse_at_first(container_id: ContainerId) -> None:
            asked.append(clock())
            if refuses:
                raise LaunchError("The container is paused.")
            await forget(container_id)

        runtime.forget_secret = refuse_at_first  # type: ignore[method-assign]  # a runtime that fails at a moment of our choice
        await ready(manager, "anna")
        refuses, refused = False, len(asked)
        assert refused > 0
        await eventually(
            lambda: (
                manager._fleet is not None
                and manager._fleet.supervisors[FollowerId("anna")].facts.gateway_view.secret_forgotten
            )
        )
        assert len(asked) == refused + 1
        assert all(after - before > 0.9 * FORGET_RETRY[0] for before, after in pairwise(asked))
        assert manager.is_healthy("anna")


async def test_a_killed_gateway_is_replaced_and_the_old_client_is_named_stale(home: Home) -> None:
    """The loss is told, the new client is another object, and the event holds the old one."""
    await home.add("anna")
    runtime = home.runtime()
    await runtime.open()
    async with running(home) as manager:
        old = await manager.get_client("anna")
        heard: list[Event] = []

        async def listen() -> None:
            async for event in manager.events():
                heard.append(event)  # noqa: PERF401  # the list is read while this still listens

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        await runtime.kill(FollowerId("anna"))
        await eventually(lambda: not manager.is_healthy("anna"))
        await ready(manager, "anna")
        new = await manager.get_client("anna")

        assert new is not None
        assert new is not old
        stale = [each for each in heard if isinstance(each, ClientStale)]
        assert [manager.find_client("anna", each.client_serial) for each in stale] == [old]
        assert manager.find_client("anna", stale[0].client_serial + 1) is new
        assert old is not None
        assert not old.isConnected()
        listening.cancel()
    await runtime.close()


async def test_a_frozen_gateway_does_not_stay_running(home: Home) -> None:
    """A process that holds its socket open and answers nothing is found by the heartbeat."""
    await home.add("anna")
    runtime = home.runtime()
    await runtime.open()
    async with running(home, heartbeat_timeout=2.0) as manager:
        await ready(manager, "anna")
        await runtime.inject(FollowerId("anna"), "freeze")
        await eventually(lambda: manager.get_gateway_status("anna") is not GatewayStatus.RUNNING)
        await runtime.inject(FollowerId("anna"), "thaw")
        await ready(manager, "anna")
    await runtime.close()


async def test_exhausted_ports_name_the_range_the_holders_and_the_setting(home: Home) -> None:
    """Two ports, one of them a foreign program's: the second follower is told all of it."""
    await home.add("anna", "ben")
    first = home.settings["port_range_start"]
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.bind(("127.0.0.1", first))
        foreign.listen()
        async with running(home, port_range_end=first + 1) as manager:
            await eventually(
                lambda: {seen(manager, each).state for each in ("anna", "ben")} == {State.READY, State.BACKING_OFF},
                manager.list_gateways,
            )
            failed = next(each for each in manager.list_gateways() if each.state is State.BACKING_OFF)
            assert f"{first}-{first + 1}" in (failed.reason or "")
            assert failed.reason_code is ReasonCode.RANGE_EXHAUSTED
            assert "port_range_end" in (failed.reason or "")
            assert "1 in use by other programs" in (failed.reason or "")
            with pytest.raises(PortsExhaustedError):
                await manager.launch_gateway(failed.follower_id)


async def test_detached_gateways_are_adopted_unchanged(home: Home) -> None:
    """The next manager finds the same containers, ports and client ids, and logs nobody in."""
    await home.add("anna", "ben")
    first = home.manager()
    await first.start()
    await ready(first, "anna", "ben")
    before = {each.follower_id: (each.container, each.endpoint, each.client_id) for each in first.list_gateways()}
    await first.detach()
    async with running(home) as second:
        await ready(second, "anna", "ben")
        after = {each.follower_id: (each.container, each.endpoint, each.client_id) for each in second.list_gateways()}

        assert after == before
        assert await starts(home) == 2


async def test_a_lost_link_to_ibkr_is_degraded_and_keeps_the_client(home: Home) -> None:
    """1100 keeps the socket and the client; 1102 makes it ready again."""
    await home.add("anna")
    runtime = home.runtime()
    await runtime.open()
    async with running(home) as manager:
        client = await manager.get_client("anna")
        await runtime.inject(FollowerId("anna"), "link_lost")
        await eventually(lambda: seen(manager, "anna").state is State.DEGRADED, lambda: seen(manager, "anna"))
        assert await manager.get_client("anna") is client
        assert manager.is_healthy("anna") is False
        await runtime.inject(FollowerId("anna"), "link_restored")
        await ready(manager, "anna")
        assert await manager.get_client("anna") is client
    await runtime.close()


async def test_restart_takes_another_container_and_the_new_client_works(home: Home) -> None:
    """A restart costs one login and nothing else."""
    await home.add("anna")
    async with running(home) as manager:
        await ready(manager, "anna")
        old = await manager.get_client("anna")
        await manager.restart_gateway("anna")
        await ready(manager, "anna")

        assert await manager.get_client("anna") is not old
        assert await starts(home) == 2


async def test_stopping_during_launches_leaves_nothing(home: Home) -> None:
    """stop() at any moment of the start leaves no container."""
    await home.add("anna", "ben", "carl")
    for delay in (0, 0.05, 0.15, 0.3, 0.6):
        manager = home.manager()
        await manager.start()
        await asyncio.sleep(delay)
        await manager.stop()

        runtime = home.runtime()
        await runtime.open()
        assert list(await runtime.list()) == [], delay
        await runtime.close()


async def test_two_followers_with_one_ibkr_user_are_never_logged_in_together(home: Home) -> None:
    """The first keeps its gateway, the other is FAILED with both named."""
    await home.add("anna", "ben", user="shared")
    async with running(home) as manager:
        await eventually(
            lambda: {seen(manager, each).state for each in ("anna", "ben")} == {State.READY, State.NEEDS_HUMAN},
            lambda: [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()],
        )
        failed = next(each for each in manager.list_gateways() if each.state is State.NEEDS_HUMAN)

        assert "anna" in (failed.reason or "")
        assert "ben" in (failed.reason or "")
        assert await starts(home) == 1


async def test_a_gateway_whose_record_is_lost_is_left_alone_until_an_operator_says_so(home: Home) -> None:
    """Nothing is connected, stopped, or logged in beside it, by follower or by IBKR user; then it is adopted as it is."""
    await home.add("anna", user="shared")
    first = home.manager()
    await first.start()
    await ready(first, "anna")
    await first.detach()
    await asyncio.to_thread(lose_records, home)
    await home.add("ben", user="shared")
    async with running(home) as second:
        assert second.identity == first_identity(home)
        for each in ("anna", "ben"):
            await eventually(
                lambda each=each: "--accept-lost-records" in (seen(second, each).reason or ""),
                lambda each=each: seen(second, each),
            )
        assert await second.get_client("anna", timeout=0) is None
        with pytest.raises(LaunchError, match="records are lost"):
            await second.launch_gateway("anna", retry_login=True)
    async with running(home, accept_lost_records=True) as third:
        await ready(third, "anna")
        await eventually(lambda: seen(third, "ben").state is State.NEEDS_HUMAN, lambda: seen(third, "ben"))
        assert "anna" in (seen(third, "ben").reason or "")
        await third.detach()
    async with running(home) as fourth:  # its record names it again
        await ready(fourth, "anna")
        assert await starts(home) == 1


def first_identity(home: Home) -> str:
    identity: str = json.loads((home.directory / "identity.json").read_text())["local:"][0]
    return identity


@pytest.mark.parametrize("loss", ["gone", "emptied", "while it runs"])
async def test_nobody_logs_in_when_the_records_are_lost_until_an_operator_says_so(home: Home, loss: str) -> None:
    """The audit trail tells of logins that the store doesn't know: no first start. The word is written down, and said once."""
    await home.add("anna")
    async with running(home) as manager:
        await ready(manager, "anna")
        if loss == "while it runs":  # what this one still has to write waits beside it, and is no record either
            (home.directory / "records.sqlite3").unlink()
    if loss != "while it runs":
        await asyncio.to_thread(lose_records, home, emptied=loss == "emptied")
    for _ in range(2):  # an empty file that the first of them made is no record
        async with running(home) as manager:
            await eventually(lambda: "records are lost" in (seen(manager, "anna").reason or ""))
            assert "--accept-lost-records" in (seen(manager, "anna").reason or "")
            assert seen(manager, "anna").reason_code is ReasonCode.STORE_UNAVAILABLE
            with pytest.raises(LaunchError, match="records are lost"):
                await manager.launch_gateway("anna", retry_login=True)
            with pytest.raises(GatewayManagerError, match="records are lost"):
                await manager.stop_gateway("anna")
            with pytest.raises(LaunchError, match="records are lost"):
                await manager.launch_gateway("anna", live=False)
            await asyncio.sleep(3)  # in which the store is tried again
            assert await starts(home) == 1
    async with running(home, accept_lost_records=True) as manager:
        await ready(manager, "anna")
    async with running(home) as manager:
        await ready(manager, "anna")
    entries = await asyncio.to_thread(list, AuditTrail(home.directory).entries())
    assert [entry["act"] for entry in entries].count("accept-lost-records") == 1


async def test_a_second_loss_of_the_records_is_noticed_as_the_first_was(home: Home) -> None:
    """What was adopted after the first, and what operators said since, needed no password, and is lost with it all the same."""
    await home.add("anna")
    manager = home.manager()
    await manager.start()
    await ready(manager, "anna")
    await manager.detach()
    await asyncio.to_thread(lose_records, home)
    manager = home.manager(accept_lost_records=True)
    await manager.start()
    await ready(manager, "anna")
    await manager.stop_gateway("anna")
    await manager.detach()
    await asyncio.to_thread(lose_records, home)
    async with running(home) as manager:
        await eventually(lambda: "records are lost" in (seen(manager, "anna").reason or ""))
        assert await starts(home) == 1


async def test_a_copy_of_a_state_directory_stands_by_and_every_follower_says_so(home: Home) -> None:
    """Nobody is logged in or out by it; a stop that can't be obeyed is refused with the same sentence."""
    await home.add("anna")
    async with running(home) as manager:
        await ready(manager, "anna")
        copy = home.directory / "copy"
        left_out = shutil.ignore_patterns("*.sock", "simulated-host*", "manager.*", "*.lock", "copy")
        await asyncio.to_thread(shutil.copytree, home.directory, copy, ignore=left_out)
        other = home.manager(state_dir=copy, runtime_url=f"simulated:{home.directory}", on_exit="detach")
        await other.start()
        try:
            await eventually(lambda: "takes the identity" in (seen(other, "anna").reason or ""))
            assert seen(other, "anna").reason_code is ReasonCode.NOT_LEADER
            with pytest.raises(GatewayManagerError, match=r"anna was not stopped: It stands by: .* lives on this host"):
                await other.stop_gateway("anna")
        finally:
            await other.detach()
        assert seen(manager, "anna").state is State.READY
        assert await starts(home) == 1


def lose_records(home: Home, *, emptied: bool = False) -> None:
    for path in home.directory.glob("records.sqlite3*"):
        path.unlink()
    if emptied:
        (home.directory / "records.sqlite3").touch()


async def test_a_follower_disabled_in_the_file_is_stopped_and_comes_back_when_enabled(home: Home) -> None:
    """The file is watched: an edit is enough."""
    await home.add("anna")
    async with running(home) as manager:
        await ready(manager, "anna")
        text = await asyncio.to_thread(home.followers_file.read_text)
        await asyncio.to_thread(home.followers_file.write_text, text.replace("enabled = true", "enabled = false"))
        await eventually(
            lambda: seen(manager, "anna").state is State.DISABLED and seen(manager, "anna").container is None
        )
        await asyncio.to_thread(home.followers_file.write_text, text)
        await ready(manager, "anna")


async def test_a_record_that_cannot_be_used_is_named_and_disturbs_nobody(home: Home) -> None:
    """FAILED and invalid, with its fault; the others start."""
    await home.add("anna")
    text = await asyncio.to_thread(home.followers_file.read_text)
    broken = '\n[[follower]]\nid = "broken"\nvault_secret_ref = "ibkr/x"\ntrading_mode = "demo"\n'
    await asyncio.to_thread(home.followers_file.write_text, text + broken)
    async with running(home) as manager:
        await ready(manager, "anna")

        assert seen(manager, "broken").state is State.INVALID
        assert "demo" in (seen(manager, "broken").reason or "")
        assert await manager.get_client("broken") is None


async def test_with_a_full_disk_a_gateway_is_stopped_and_none_is_launched(home: Home) -> None:
    """An operator's launch is refused before it begins, and a stop is carried out; its line follows when there is room."""
    await home.add("anna")
    trail = AuditTrail(home.directory)
    kept = home.directory / "audit-kept"
    async with running(home) as manager:
        await ready(manager, "anna")
        await asyncio.to_thread(trail.path.rename, kept)
        await asyncio.to_thread(trail.path.symlink_to, "/dev/full")
        await manager.stop_gateway("anna")
        with pytest.raises(AuditError, match="can't be written"):
            await manager.launch_gateway("anna", retry_login=True)
        assert seen(manager, "anna").state is State.STOPPED
        written = await asyncio.to_thread(kept.read_bytes)
        assert b'"stop"' not in written
        await asyncio.to_thread(kept.replace, trail.path)
    lines = await asyncio.to_thread(lambda: list(trail.entries()))
    assert [line["act"] for line in lines if line["act"] != "unkept"][-1] == "stop"
    assert (await asyncio.to_thread(trail.verify)).is_whole


async def test_a_record_that_cannot_be_used_keeps_the_time_of_its_fault(home: Home) -> None:
    """Since when is told as for any other state, however often the records are read; another fault begins anew."""
    home.followers_file.write_text('[[follower]]\nid = "anna"\n')
    async with running(home) as manager:
        first = seen(manager, "anna")
        await manager.reload_followers()
        assert seen(manager, "anna") == first
        home.followers_file.write_text('[[follower]]\nid = "anna"\nvault_secret_ref = 7\n')
        await manager.reload_followers()
        second = seen(manager, "anna")
        assert second.reason != first.reason
        assert second.since > first.since


async def test_a_cut_audit_trail_is_found_by_the_hash_in_the_record_store(home: Home) -> None:
    """The manager keeps the newest line's hash where whoever cuts the trail does not reach it."""
    await home.add("anna")
    async with running(home) as manager:
        await ready(manager, "anna")
    trail = AuditTrail(home.directory)
    records = open_records(manager.settings)
    await records.open()
    kept = await records.audit_head(trail.name)
    await records.close()
    assert kept is not None
    assert (await asyncio.to_thread(trail.verify, kept.hash)).is_whole

    lines = await asyncio.to_thread(trail.path.read_bytes)
    cut = b"".join(lines.splitlines(keepends=True)[: kept.serial - 1])
    await asyncio.to_thread(trail.path.write_bytes, cut)

    assert not (await asyncio.to_thread(trail.verify, kept.hash)).is_whole


async def test_a_roster_that_says_the_same_wakes_nobody(home: Home) -> None:
    """Read again unchanged, the followers are not gone through; changed, they are."""
    await home.add("anna")
    async with running(home) as manager:
        await ready(manager, "anna")
        assert manager._fleet is not None
        supervisor = manager._fleet.supervisors[FollowerId("anna")]
        before = supervisor.facts.spec
        for _ in range(3):
            await manager.reload_followers()
        assert supervisor.facts.spec is before
        await home.add("ben")
        await manager.reload_followers()
        assert FollowerId("ben") in manager._fleet.supervisors
        await ready(manager, "anna", "ben")


async def test_a_container_that_no_record_names_is_left_alone(home: Home) -> None:
    """It bears our labels and was made while the manager runs: it is reported, and outlives the manager's stop."""
    await home.add("anna")
    runtime = home.runtime()
    async with running(home, full_comparison_interval=0.5) as manager:
        await ready(manager, "anna")
        assert manager._wired is not None
        await runtime.open()
        nobody = Follower(id=FollowerId("nobody"), vault_secret_ref="ibkr/nobody", enabled=True)
        await runtime._create(spec_for(nobody, manager._wired.services.options), 1000, free_ports(1))
        await eventually(lambda: "no record names it" in " ".join(manager.left_alone()), manager.left_alone)
        assert manager.is_healthy("anna")
    assert [each.follower_id for each in await runtime.list()] == ["nobody"]
    await runtime.close()


async def test_a_part_that_can_not_be_closed_keeps_no_other_from_it(home: Home) -> None:
    """Whatever fails at the end is told; the socket is gone, the directory is free, and whoever waits for the end is told."""
    manager = home.manager()
    await manager.start()
    assert manager._wired is not None

    async def fail() -> None:
        raise OSError("no room to write the last lines")

    manager._wired.services.auditor.close = fail  # type: ignore[method-assign]  # a disk that fails at the end
    with pytest.raises(OSError, match="no room"):
        await manager.detach()
    async with asyncio.timeout(PATIENCE):
        await manager.until_ended()
    assert not (home.directory / "control.sock").exists()
    async with home.manager():
        pass
