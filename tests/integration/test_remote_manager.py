"""`RemoteGatewayManager` beside a real manager, over its control socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ib_async import IB

from spreadpilot_core.ibkr.errors import GatewayManagerError, SettingsError, UnknownFollowerError, WrongTradingModeError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.events import ClientStale, Event, GatewayReady, StateChanged
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.remote import ManagerAwayError, RemoteGatewayManager, held_client
from spreadpilot_core.ibkr.supervision.client_leases import KIND
from support.home import PATIENCE, Home, eventually


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    await place.add("alice")
    await place.add("off", enabled=False)
    yield place
    await place.end()


@pytest.fixture
async def manager(home: Home) -> AsyncIterator[GatewayManager]:
    async with home.manager() as manager:
        yield manager


@pytest.fixture
async def remote(home: Home, manager: GatewayManager) -> AsyncIterator[RemoteGatewayManager]:
    assert manager.identity is not None  # it serves there
    async with RemoteGatewayManager(f"unix:{home.directory}", name="bot") as remote:
        yield remote


async def test_it_waits_and_refuses_as_the_manager_itself_does(remote: RemoteGatewayManager) -> None:
    """A client once it is ready, the same for all who ask; None at once for what is down; errors of the same classes."""
    first, second = await asyncio.gather(remote.get_client("alice"), remote.get_client("alice"))
    assert isinstance(first, IB)
    assert first is second
    assert first.isConnected()
    assert await remote.get_client("off") is None
    assert await remote.get_client("alice", require="paper") is first
    with pytest.raises(UnknownFollowerError, match="nobody"):
        await remote.get_client("nobody")
    with pytest.raises(WrongTradingModeError, match="live is required"):
        await remote.get_client("alice", require="live")


async def test_a_timeout_of_zero_never_waits(remote: RemoteGatewayManager) -> None:
    """None before it is connected here."""
    assert await remote.get_client("alice", timeout=0) is None


async def test_what_the_manager_can_the_remote_one_can(remote: RemoteGatewayManager) -> None:
    """Look, launch, stop, restart, reconnect; refusals are those of the manager."""
    ib = await remote.get_client("alice")
    assert [each.follower_id for each in await remote.list_gateways()] == ["alice", "off"]
    assert await remote.is_healthy("alice")
    assert await remote.reconnect("alice")
    assert ib.isConnected()
    await remote.stop_gateway("alice")
    assert await remote.get_gateway_status("alice") is GatewayStatus.STOPPED
    assert await remote.get_client("alice") is None
    await remote.launch_gateway("alice")
    assert await remote.get_client("alice") is not ib
    with pytest.raises(GatewayManagerError, match="not enabled"):
        await remote.launch_gateway("off")
    await remote.reload_followers()
    assert (await remote.list_notices(), await remote.missing_followers()) == ((), ())
    assert (await remote.read_history("alice"))["entries"]


async def test_events_are_the_managers_and_those_of_the_clients_here(remote: RemoteGatewayManager) -> None:
    """A gateway that is replaced: its states, and this process's own client that went and came."""
    seen: list[Event] = []

    async def read() -> None:
        async for event in remote.events():
            seen.append(event)  # noqa: PERF401  # it is looked at meanwhile

    reading = asyncio.create_task(read())
    ib = await remote.get_client("alice")
    await remote.restart_gateway("alice")
    assert await remote.get_client("alice") is not ib
    own = [event for event in seen if isinstance(event, GatewayReady | ClientStale)]
    assert [event.name for event in own] == ["GatewayReady", "ClientStale", "GatewayReady"]
    assert own[0].client_id == own[2].client_id == ib.client.clientId
    assert remote.find_client("alice", own[1].client_serial) is ib
    await eventually(lambda: any(isinstance(event, StateChanged) and event.follower_id == "alice" for event in seen))
    await remote.stop()
    await reading


async def test_a_client_id_that_somebody_uses_is_left_for_the_next_one(
    home: Home, manager: GatewayManager, remote: RemoteGatewayManager
) -> None:
    """A program without a lease sits on the id that the name would get: error 326, and another id is asked for."""
    ib = await remote.get_client("alice")
    taken, port = ib.client.clientId, ib.client.port
    await remote.stop()
    squatter = IB()
    await squatter.connectAsync("127.0.0.1", port, taken)
    async with RemoteGatewayManager(f"unix:{home.directory}", name="bot") as other:
        mine = await other.get_client("alice")
        assert mine.client.clientId not in (taken, manager.get_gateway("alice").client_id)
        assert squatter.isConnected()
    squatter.disconnect()


async def test_a_gateway_that_hangs_up_is_called_ever_more_seldom(remote: RemoteGatewayManager) -> None:
    """Each connection ends as soon as it stands: the pauses grow as they do where none can be made at all."""
    events = remote.events()
    await remote.get_client("alice")
    loop = asyncio.get_running_loop()
    began, calls = loop.time(), 0
    async for event in events:
        if isinstance(event, GatewayReady):
            if calls == 3:
                break
            calls += 1
            client = remote._held["alice"].ib
            assert client is not None
            client.disconnect()
    assert loop.time() - began >= 0.2 + 0.4 + 0.8


async def test_a_lease_that_somebody_took_costs_no_connection(
    manager: GatewayManager, remote: RemoteGatewayManager
) -> None:
    """The client goes on; the next one has a new id, since the old one is somebody else's."""
    ib = await remote.get_client("alice")
    assert manager._wired is not None
    lease = {"lease": "stolen", "follower_id": "alice", "name": None}
    await manager._wired.shared.open()
    await manager._wired.shared.put(KIND, str(ib.client.clientId), lease)
    manager._wired.services.client_leases._held.clear()
    assert remote._renewals is not None
    remote._renewals.hurry()
    await eventually(lambda: remote._held["alice"].leased is None)
    assert ib.isConnected()
    assert await remote.get_client("alice") is ib
    await remote.restart_gateway("alice")
    assert (await remote.get_client("alice")).client.clientId != ib.client.clientId


async def test_who_gives_up_while_the_phone_is_asked_is_told_so(home: Home) -> None:
    """`connect` says how the gateway stands, as `exec` and `endpoint` do, and not only that the time is over."""
    asked = {"followers": {"alice": {"laps": [{"second_factor": "pending"}]}}}
    await asyncio.to_thread((home.directory / "scripts.json").write_text, json.dumps(asked))
    program = """
import sys
from spreadpilot_core.ibkr import remote
remote.connect("alice", 2, url=sys.argv[1])
"""
    async with home.manager() as manager:
        await eventually(lambda: manager.get_gateway("alice").state is State.AWAITING_2FA)
        url = f"unix:{home.directory}"
        command = [sys.executable, "-c", program, url]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        seen = manager.get_gateway("alice")
    said = done.stderr.splitlines()[-1]
    assert "GatewayNotReadyError: The gateway of alice is awaiting_2fa: " in said
    assert seen.reason is not None
    assert seen.reason[:40] in said


async def test_no_manager_is_an_error_that_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """Neither None nor a wait without end."""
    remote = RemoteGatewayManager(f"unix:{tmp_path}")
    with pytest.raises(ManagerAwayError, match=str(tmp_path)):
        await remote.start()
    with pytest.raises(ManagerAwayError, match="gateway-manager run"):
        await remote.get_client("alice", timeout=0.5)
    await remote.stop()


async def test_who_waits_for_a_manager_is_told_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the wait is over, and with the place that is asked; one that is away for a moment is not worth a word."""
    remote = RemoteGatewayManager(f"unix:{tmp_path}")
    with pytest.raises(ManagerAwayError):
        await remote.get_client("alice", timeout=0.5)
    assert "It is waited for" not in caplog.text
    monkeypatch.setattr(held_client, "AWAY_LOGGED_AFTER", 0.5)
    waiting = asyncio.ensure_future(remote.get_client("alice", timeout=PATIENCE))
    await eventually(lambda: "It is waited for" in caplog.text)
    assert not waiting.done()
    (told,) = [each for each in caplog.records if "It is waited for" in each.message]
    assert (told.levelname, str(tmp_path) in told.message, "alice" in told.message) == ("WARNING", True, True)
    begun = remote._held["alice"]._begun
    await eventually(lambda: remote._held["alice"]._begun > begun + 1)
    assert caplog.text.count("It is waited for") == 1
    waiting.cancel()
    await remote.stop()


@pytest.mark.parametrize("url", ["", "alice", "ftp://x", "http://", "https://user:word@host", "http://h?x=1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """With what is allowed, and without what may be a password."""
    with pytest.raises(SettingsError) as refused:
        RemoteGatewayManager(url)
    assert "word" not in str(refused.value).replace("password", "")


BLOCKING = """
import sys
from spreadpilot_core.ibkr import remote

ib = remote.connect("alice", url=sys.argv[1])
print(ib.isConnected(), ib.reqCurrentTime().year > 2020, remote.connect("alice", url=sys.argv[1]) is ib)
"""
NOTEBOOK = """
import asyncio, sys
from ib_async import util
from spreadpilot_core.ibkr import remote
from spreadpilot_core.ibkr.errors import GatewayManagerError

async def kernel():
    try:
        remote.connect("alice", url=sys.argv[1])
    except GatewayManagerError as error:
        print(error.hint)
    util.startLoop()
    ib = remote.connect("alice", url=sys.argv[1])
    print(ib.isConnected(), ib.reqCurrentTime().year > 2020)

asyncio.run(kernel())
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [(BLOCKING, ["True True True"]), (NOTEBOOK, ["await manager.get_client('alice')", "True True"])],
)
async def test_a_program_without_async_is_served(
    home: Home, manager: GatewayManager, program: str, said: list[str]
) -> None:
    """A script, and a cell of a notebook, whose loop runs already; both give their client id back when they end."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, f"unix:{home.directory}"],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == len(said)
    assert all(word in line for word, line in zip(said, lines, strict=True))
    assert await manager.clients.list() == ()
