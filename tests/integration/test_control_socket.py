from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI

from spreadpilot_core.ibkr.errors import (
    GatewayManagerError,
    LaunchError,
    LoginRefusedError,
    NotStartedError,
    StoreUnavailableError,
)
from spreadpilot_core.ibkr.http_api.address import SOCKET, listening_socket
from spreadpilot_core.ibkr.http_api.server import ControlServer
from spreadpilot_core.ibkr.model.events import LoginRejected
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import HistoryEntry
from spreadpilot_core.ibkr.service.client import (
    NoManagerError,
    RefusedByManagerError,
    SilentManagerError,
)
from support.control import Control
from support.fake_manager import SINCE, a_snapshot
from support.waiting import until


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    control = Control(tmp_path)
    async with control.served():
        yield control


async def test_every_snapshot_is_told_whole(control: Control) -> None:
    """The JSON of the socket is the snapshot's own, field by field."""
    alice, bob = await control.ask(lambda client: client.gateways())
    assert alice == control.manager.snapshots["alice"].model_dump(mode="json")
    assert (bob["status"], bob["state"]) == ("FAILED", "backing_off")
    assert alice["since"] == SINCE.isoformat().replace("+00:00", "Z")


async def test_any_legal_id_reaches_its_gateway(control: Control) -> None:
    """Slashes, blanks, dots and letters beyond ASCII in an id don't lead to another route."""
    for follower_id in ("bob/2 ü", "a/stop", "..", ".", "%2F", "what?#", "x" * 128):
        control.manager.snapshots[follower_id] = a_snapshot(follower_id)
        assert (await control.ask(lambda client, each=follower_id: client.gateway(each)))["follower_id"] == follower_id
        await control.ask(lambda client, each=follower_id: client.act(each, "restart"))
        assert ("restart_gateway", follower_id) in control.manager.calls


async def test_commands_reach_the_manager_and_answer_what_became_of_it(control: Control) -> None:
    """Each command is one call of the manager; the answer is the snapshot after it."""
    await control.ask(lambda client: client.act("alice", "launch"))
    await control.ask(lambda client: client.act("alice", "launch", {"retry_login": True}))
    stopped = await control.ask(lambda client: client.act("alice", "stop"))
    reconnected = await control.ask(lambda client: client.act("alice", "reconnect"))
    acts = [call for call in control.manager.calls if call[0] not in ("list_gateways", "get_gateway")]
    assert acts == [
        ("launch_gateway", "alice", False),
        ("launch_gateway", "alice", True),
        ("stop_gateway", "alice"),
        ("reconnect", "alice"),
    ]
    await control.ask(lambda client: client.act("alice", "launch", {"live": True}))
    assert control.manager.calls[-2] == ("launch_gateway", "alice", False, "live")
    assert stopped["state"] == "stopped"
    assert reconnected["reconnected"] is True


async def test_removals_are_asked_for_and_confirmed_by_name(control: Control) -> None:
    """Who misses a record is told; who is named is let go, and without names everybody is."""
    assert await control.ask(lambda client: client.missing_followers()) == ["alice", "bob/2 ü"]
    assert await control.ask(lambda client: client.confirm_removals(["bob/2 ü", "zoe"])) == ["bob/2 ü"]
    assert (await control.raw("POST", "/followers/confirm-removals")).json() == ["alice", "bob/2 ü"]
    refused = await control.raw("POST", "/followers/confirm-removals", json={"followers": ["alice"]})
    assert refused.status_code == 422


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LoginRefusedError("The password was rejected.", hint="Set a new one."), 409),
        (LaunchError("No port is free."), 409),
        (StoreUnavailableError("MongoDB is away."), 503),
        (NotStartedError("launch_gateway", stopped=True), 503),
        (GatewayManagerError("Something else."), 500),
    ],
)
async def test_a_refusal_is_told_in_the_managers_words(control: Control, error: GatewayManagerError, code: int) -> None:
    """Sentence and hint cross the socket as they were written, under a code that says whose turn it is."""
    control.manager.failing["launch_gateway"] = error
    response = await control.raw("POST", "/gateways/alice/launch")
    assert response.status_code == code
    assert response.json() == {"error": type(error).__name__, "sentence": error.what, "hint": error.hint}
    with pytest.raises(RefusedByManagerError) as told:
        await control.ask(lambda client: client.act("alice", "launch"))
    assert str(told.value) == str(error)


async def test_an_unknown_follower_is_404(control: Control) -> None:
    """Looking at, or acting on, a follower that no record names is refused by name."""
    for method, path in (("GET", "/gateways/carol"), ("POST", "/gateways/carol/stop")):
        response = await control.raw(method, path)
        assert response.status_code == 404
        assert "carol" in response.json()["sentence"]


async def test_what_is_no_request_of_ours_has_the_same_form(control: Control) -> None:
    """A wrong path, method or body is answered with the same three fields, so that clients need one way to read."""
    for method, path, body, code, error in (
        ("GET", "/nothing", None, 404, "UnknownRoute"),
        ("DELETE", "/gateways", None, 405, "MethodNotAllowed"),
        ("POST", "/gateways/alice/launch", {"retry": 1}, 422, "InvalidRequest"),
    ):
        response = await control.raw(method, path, json=body)
        assert (response.status_code, response.json()["error"]) == (code, error)
        assert set(response.json()) == {"error", "sentence", "hint"}
    assert not [call for call in control.manager.calls if call[0] == "launch_gateway"]


async def test_a_defect_is_no_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An exception that nobody foresaw is a 500 in the same form, without its text, which may hold anything."""
    control = Control(tmp_path)
    control.manager.failing["stop_gateway"] = RuntimeError("details")
    async with control.served():
        response = await control.raw("POST", "/gateways/alice/stop")
    assert response.status_code == 500
    assert response.json()["error"] == "InternalError"
    assert "details" not in response.text
    capfd.readouterr()


async def test_events_stream_until_the_manager_ends(control: Control) -> None:
    """A reader gets each event as one JSON object, and its stream ends by itself with the manager."""
    reading = asyncio.create_task(control.ask(lambda client: list(client.events())))
    await until(lambda: ("events",) in control.manager.calls)
    control.manager.bus.publish(LoginRejected(at=SINCE, follower_id="alice", sentence="Rejected."))
    await control.manager.stop()
    (event,) = await reading
    assert (event["name"], event["follower_id"], event["sentence"]) == ("LoginRejected", "alice", "Rejected.")


async def test_events_go_on_after_the_last_one_that_a_reader_knows(control: Control) -> None:
    """`Last-Event-ID` names it; what is no event's id is refused, and what is gone is told."""
    for number in range(3):
        control.manager.bus.publish(LoginRejected(at=SINCE, follower_id="alice", sentence=f"Number {number}."))
    first = int(SINCE.timestamp() * 1000)
    for after, expected in ((first, ["Number 1.", "Number 2."]), (1, ["EventsMissed", "Number 0."])):
        async with control.http() as client:
            asked = client.stream("GET", "/events", headers={"Last-Event-ID": str(after)})
            async with asked as response, aclosing(response.aiter_lines()) as lines:
                events = [json.loads(await anext(lines)) for _ in range(2)]
        shown = [each["name"] if each["name"] == "EventsMissed" else each["sentence"] for each in events]
        assert shown == expected
    assert events[0]["count"] is None
    refused = await control.raw("GET", "/events", headers={"Last-Event-ID": "yesterday"})
    assert (refused.status_code, refused.json()["error"]) == (422, "InvalidRequest")


async def test_one_snapshot_is_built_for_one_gateway(control: Control) -> None:
    """However large the fleet: nobody else is looked at."""
    for number in range(100):
        control.manager.snapshots[f"f{number}"] = a_snapshot(f"f{number}")
    before = len(control.manager.calls)
    await control.ask(lambda client: client.gateway("f50"))
    assert control.manager.calls[before:] == [("get_gateway",)]


async def test_the_history_comes_in_pages(control: Control) -> None:
    """The newest first; each page names where the next begins, and the last one nothing."""
    entries = [
        HistoryEntry(
            id=f"{number}-x",
            at=SINCE + timedelta(seconds=number),
            follower_id=FollowerId("alice"),
            name="GatewayReady",
            sentence=f"Number {number}.",
        )
        for number in range(5)
    ]
    control.manager.history = entries[::-1]
    told, older = [], None
    while True:
        query = {"follower_id": "alice", "limit": 2, "since": "2026-11-24T09:00:00Z"}
        page = (await control.raw("GET", "/history", params={**query, **({"before": older} if older else {})})).json()
        told.append([each["sentence"] for each in page["entries"]])
        if (older := page["older"]) is None:
            break
    assert told == [["Number 4.", "Number 3."], ["Number 2.", "Number 1."], ["Number 0."]]
    first = next(call[1] for call in control.manager.calls if call[0] == "read_history")
    assert (first.follower_id, first.limit, first.since) == ("alice", 2, datetime(2026, 11, 24, 9, tzinfo=UTC))
    for wrong in ({"before": "nowhere"}, {"limit": 0}, {"limit": 1001}, {"since": "today"}, {"before": f"{10**30}-x"}):
        refused = await control.raw("GET", "/history", params=wrong)
        assert (refused.status_code, refused.json()["error"]) == (422, "InvalidRequest"), wrong


async def test_a_reader_that_goes_leaves_nothing_behind(control: Control) -> None:
    """A client that hangs up in the middle of a stream takes its subscription with it."""
    async with control.http() as client, client.stream("GET", "/events") as response:
        assert response.status_code == 200
        await until(lambda: ("events",) in control.manager.calls)
    await until(lambda: not control.manager.bus._subscriptions)


async def test_the_end_waits_for_no_reader(tmp_path: Path) -> None:
    """An open event stream does not keep the server from ending."""
    control = Control(tmp_path)
    async with asyncio.timeout(20):
        async with control.served():
            reading = asyncio.create_task(control.ask(lambda client: list(client.events())))
            await until(lambda: ("events",) in control.manager.calls)
        with pytest.raises(SilentManagerError):
            await reading


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_server_that_is_cancelled_in_its_start_leaves_nothing(tmp_path: Path, turns: int) -> None:
    """A manager whose start is cancelled takes its socket along; pytest fails on one that nobody has closed."""
    server = ControlServer(FastAPI(), tmp_path)
    starting = asyncio.create_task(server.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await server.close()
    assert list(tmp_path.iterdir()) == []
    gc.collect()


async def test_detach_is_asked_once_and_answered_before_the_end(control: Control) -> None:
    """The answer to `detach` arrives; ending is the program's part."""
    response = await control.raw("POST", "/manager/detach")
    assert response.status_code == 202
    assert control.detached == 1


async def test_who_serves_is_told_without_secrets(control: Control) -> None:
    """`/manager` names process, version and places, and nothing that could hold a password."""
    told = (await control.raw("GET", "/manager")).json()
    places = {"pid", "version", "state_dir", "store", "followers", "runtime"}
    assert set(told) == places | {"identity", "adopted", "left_alone", "notices", "leader", "leader_address"}


async def test_only_its_owner_may_ask(control: Control) -> None:
    """The TWS accounts hang on this socket: mode 0600."""
    assert stat.S_IMODE((control.state_dir / SOCKET).stat().st_mode) == 0o600


async def test_a_dead_managers_socket_is_replaced(tmp_path: Path) -> None:
    """After `kill -9` the socket's file stays: a client says that nobody runs, and the next manager takes its place."""
    (await asyncio.to_thread(listening_socket, tmp_path)).close()
    assert (tmp_path / SOCKET).exists()
    control = Control(tmp_path)
    with pytest.raises(NoManagerError, match="No manager is running"):
        await control.ask(lambda client: client.gateways())
    async with control.served():
        assert len(await control.ask(lambda client: client.gateways())) == 2
    assert not (tmp_path / SOCKET).exists()


@pytest.mark.parametrize("exists", [True, False])
async def test_nobody_there_is_one_sentence(tmp_path: Path, exists: bool) -> None:
    """Without a manager, also without a state directory, the client says so and how to start one."""
    control = Control(tmp_path / "state")
    if exists:
        control.state_dir.mkdir()
    with pytest.raises(NoManagerError, match="gateway-manager run"):
        await control.ask(lambda client: client.gateways())


async def test_a_long_state_directory_works(tmp_path: Path) -> None:
    """A Unix socket's path is short by nature; a deep state directory is reached all the same."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    control = Control(deep)
    async with control.served():
        assert len(await control.ask(lambda client: client.gateways())) == 2
    assert not (deep / SOCKET).exists()


async def test_a_manager_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that accepts and never answers ends in a sentence, not in waiting for ever."""
    monkeypatch.setattr("spreadpilot_core.ibkr.service.client._ANSWER_WITHIN", 0.2)
    listening = await asyncio.to_thread(listening_socket, tmp_path)
    with listening, pytest.raises(SilentManagerError, match="no answer within"):
        await Control(tmp_path).ask(lambda client: client.gateways())
