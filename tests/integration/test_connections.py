"""One try to connect, and the life of a connection, against the simulated API server.

The same file runs with `ib_insync` in an environment that holds both libraries (`test_connections_ib_insync.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.api_client import connection as connection_module
from spreadpilot_core.ibkr.api_client.connection import Connection, HeartbeatError
from spreadpilot_core.ibkr.api_client.connector import ConnectError, Connector
from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from support.failing_peers import closes_at_once, peer, refusing_port, says_nothing, sends

LIBRARY = os.environ.get("TEST_CLIENT_LIBRARY", "ib_async")
IB: Any = importlib.import_module(LIBRARY).IB
NEWEST = {"ib_async": 178, "ib_insync": 176}[LIBRARY]
HOST = "127.0.0.1"
ACCOUNT = "DU1234567"
LONG = 90.0
"""A timeout that no test waits for: what must be seen at once is seen long before."""
SOON = 20.0
BRIEF = 2.0
"""A timeout that is waited for; a handshake must still fit into it on a machine with other work."""


def nothing() -> None:
    """An `on_change` nobody listens to."""


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    """A healthy gateway's API with one account; its port is `server_port(server)`."""
    server = ApiServer(accounts=[ACCOUNT])
    await server.listen(HOST, 0)
    yield server
    server.behaviour.frozen = False
    await server.close()


def server_port(server: ApiServer) -> int:
    assert server._listener is not None
    port: int = server._listener.sockets[0].getsockname()[1]
    return port


async def connect(
    where: ApiServer | int,
    *,
    client_id: int = 7,
    account: str | None = None,
    read_only: bool = False,
    timeout: float = LONG,  # noqa: ASYNC109  # handed on
    on_change: Callable[[], None] = nothing,
    connector: Connector | None = None,
) -> Connection:
    port = where if isinstance(where, int) else server_port(where)
    connector = connector or Connector(ib_factory=IB)
    return await connector.connect(
        HOST, port, client_id, account=account, read_only=read_only, timeout=timeout, on_change=on_change
    )


async def until(holds: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(SOON):
        while not holds():  # there is no event for most conditions
            await asyncio.sleep(0.005)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def files_at_rest() -> int:
    """The same without what an earlier test left to the garbage collector, which may come by at any moment."""
    gc.collect()
    return open_files()


def handlers(ib: Any) -> list[int]:
    """How many handlers each of the events has that we listen to."""
    conn = ib.client.conn
    return [
        len(event)
        for event in (ib.errorEvent, ib.disconnectedEvent, ib.client.apiStart, conn.disconnected, conn.hasData)
    ]


# --- connecting


async def test_connected_client(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    """The client is ready and synchronised, accounts and version are known, and nobody logged anything loud."""
    caplog.set_level(logging.WARNING)
    async with asyncio.timeout(SOON):
        connection = await connect(server, account=ACCOUNT)
    assert connection.is_open
    assert connection.ib.isConnected()
    assert connection.accounts == (ACCOUNT,)
    assert connection.ib.client.serverVersion() == NEWEST
    assert connection.closed_reason is None
    assert connection.ib.accountValues()
    assert server.clients == 1
    connection.disconnect()
    await until(lambda: server.clients == 0)
    assert not caplog.records


async def test_several_accounts_and_one_of_them_named() -> None:
    """A login with several accounts is taken when it manages the named one."""
    server = ApiServer(accounts=["F1234567", ACCOUNT, "DU7654321"])
    await server.listen(HOST, 0)
    connection = await connect(server, account="DU7654321")
    assert connection.accounts == ("F1234567", ACCOUNT, "DU7654321")
    connection.disconnect()
    await server.close()


async def test_loggers_are_the_librarys_own_again(server: ApiServer) -> None:
    """A client's loggers are turned down only while it connects."""
    connection = await connect(server)
    parts = (connection.ib, connection.ib.client, connection.ib.wrapper)
    assert all(type(part._logger) is logging.Logger for part in parts)
    connection.disconnect()


async def _fails(where: ApiServer | int, **arguments: Any) -> ConnectError:
    async with asyncio.timeout(SOON):
        with pytest.raises(ConnectError) as caught:
            await connect(where, **arguments)
    return caught.value


async def test_probe_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the raw probe finds is the error, at once, and no client was made."""

    def no_client() -> Any:
        pytest.fail("a client was made")

    caplog.set_level(logging.WARNING)
    connector = Connector(ib_factory=no_client)
    assert (await _fails(refusing_port(), connector=connector)).kind == "refused"
    for serve, kind in ((closes_at_once, "closed"), (sends(b"HTTP/1.1 400\r\n"), "garbage")):
        async with peer(serve) as port:
            assert (await _fails(port, connector=connector)).kind == kind
    async with peer(says_nothing) as port:
        assert (await _fails(port, connector=connector, timeout=0.2)).kind == "silent"
    assert not caplog.records


async def test_client_id_in_use(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    """326 is told by its code, at once, and whoever holds the id is not disturbed."""
    caplog.set_level(logging.WARNING)
    holder = await connect(server)
    error = await _fails(server)
    assert (error.kind, error.codes) == ("client_id_in_use", (326,))
    assert "326" in str(error)
    assert holder.is_open
    assert await holder.heartbeat(timeout=SOON) >= 0
    holder.disconnect()
    assert not caplog.records


async def test_disclaimer_pending(server: ApiServer) -> None:
    """10141 is told by its code, not as the duplicate client id that the libraries suspect."""
    server.behaviour.disclaimer_pending = True
    error = await _fails(server)
    assert (error.kind, error.codes) == ("disclaimer", (10141,))


async def test_closed_early_without_a_word(server: ApiServer) -> None:
    """A close after START_API without any code ends the try at once."""
    server.behaviour.close_early = True
    error = await _fails(server)
    assert (error.kind, error.codes) == ("closed", ())


async def test_closed_while_synchronising(server: ApiServer) -> None:
    """A close after the client was ready ends the try at once as well."""
    connector = Connector(ib_factory=IB)

    def drop_soon(_client_id: int) -> None:
        asyncio.get_running_loop().call_soon(server.drop_clients)

    server._on_client = drop_soon
    error = await _fails(server, connector=connector)
    assert error.kind == "closed"


async def test_mute_after_the_handshake(server: ApiServer) -> None:
    """A gateway that answers the handshake and no more is told from a silent one."""
    server.behaviour.mute_start = True
    error = await _fails(server, timeout=BRIEF)
    assert (error.kind, error.codes) == ("mute", ())
    assert "login may be lost" in str(error)


async def test_frozen_while_synchronising(server: ApiServer) -> None:
    """A gateway that falls silent after the client was ready fails in time and leaves no socket."""
    before = files_at_rest()

    def freeze(_client_id: int) -> None:
        server.behaviour.frozen = True

    server._on_client = freeze
    error = await _fails(server, timeout=BRIEF)
    assert error.kind in ("unsynchronised", "mute")
    server.behaviour.frozen = False
    await until(lambda: open_files() <= before)


async def test_wrong_account(server: ApiServer) -> None:
    """Another account than the record's ends the try at once; the sentence names both, so that they can be compared."""
    error = await _fails(server, account="DU7654321")
    assert error.kind == "wrong_account"
    assert str(error) == "This login manages DU1234567, and the record asks for DU7654321."
    await until(lambda: server.clients == 0)


async def test_wrong_account_of_an_advisor() -> None:
    """Of a login that manages many accounts some are named, and the others counted."""
    server = ApiServer(accounts=[f"DU10000{each:02}" for each in range(13)])
    await server.listen(HOST, 0)
    error = await _fails(server, account="DU7654321")
    assert "DU1000000, DU1000001" in str(error)
    assert "DU1000009 and 3 more, and the record asks for DU7654321." in str(error)
    await server.close()


async def test_read_only_gateway() -> None:
    """With a read-only API, orders are not asked for: it connects without waiting for a refusal."""
    server = ApiServer(accounts=[ACCOUNT], read_only=True)
    await server.listen(HOST, 0)
    async with asyncio.timeout(SOON):
        connection = await connect(server, read_only=True)
    assert connection.is_open
    assert 321 not in [seen.code for seen in connection.codes]
    connection.disconnect()
    await server.close()


async def test_code_of_the_opening_is_kept(server: ApiServer) -> None:
    """What the gateway said while the client connected is known afterwards."""
    connection = await connect(server)
    await until(lambda: 2104 in [seen.code for seen in connection.codes])
    assert all(isinstance(seen.at, datetime) and seen.at.tzinfo for seen in connection.codes)
    connection.disconnect()


async def test_cancelled_at_any_moment(server: ApiServer) -> None:
    """Cancelled wherever it stands, a try leaves no task, no socket and no client behind."""
    tasks, files = len(asyncio.all_tasks()), files_at_rest()
    connector = Connector(ib_factory=IB, parallel=1)
    for steps in range(60):
        trying = asyncio.ensure_future(connect(server, connector=connector))
        for _ in range(steps):
            await asyncio.sleep(0)
        trying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await trying).disconnect()  # it was faster
        await until(lambda: server.clients == 0)
    await until(lambda: len(server._connections) == 0)
    await until(lambda: len(asyncio.all_tasks()) == tasks and open_files() <= files)
    connection = await connect(server, connector=connector)  # the only turn was given back each time
    connection.disconnect()


async def test_failed_tries_leave_nothing(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    """Two hundred failed tries of every kind: no descriptor, no task, no client, no log record, no complaint of the loop."""
    caplog.set_level(logging.WARNING)
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    made: list[weakref.ref[Any]] = []

    def factory() -> Any:
        ib = IB()
        made.append(weakref.ref(ib))
        return ib

    connector = Connector(ib_factory=factory)
    tasks, files = len(asyncio.all_tasks()), files_at_rest()
    behaviour = server.behaviour
    for _ in range(4):
        behaviour.close_early = True
        await asyncio.gather(*(_fails(server, connector=connector, client_id=n) for n in range(13)))
        behaviour.close_early, behaviour.disclaimer_pending = False, True
        await asyncio.gather(*(_fails(server, connector=connector, client_id=n) for n in range(13)))
        behaviour.disclaimer_pending = False
        await asyncio.gather(*(_fails(server, connector=connector, client_id=n, account="DU1") for n in range(13)))
        behaviour.mute_start = True
        await asyncio.gather(*(_fails(server, connector=connector, client_id=n, timeout=BRIEF) for n in range(11)))
        behaviour.mute_start = False
    await until(lambda: len(asyncio.all_tasks()) == tasks and open_files() <= files)
    gc.collect()
    await asyncio.sleep(0)
    assert len(made) == 200
    assert not [ib for ib in made if ib() is not None]
    assert not complaints
    assert not caplog.records


async def test_few_connect_at_a_time(server: ApiServer) -> None:
    """Never more than `parallel` clients of the process connect at once, and all get their turn."""
    connecting = most = 0

    class Counting(IB):  # type: ignore[misc]  # the library is chosen at run time
        async def connectAsync(self, *arguments: Any, **options: Any) -> Any:  # noqa: N802  # the library's name
            nonlocal connecting, most
            connecting += 1
            most = max(most, connecting)
            try:
                return await super().connectAsync(*arguments, **options)
            finally:
                connecting -= 1

    connector = Connector(ib_factory=Counting, parallel=3)
    connections = await asyncio.gather(*(connect(server, client_id=n, connector=connector) for n in range(12)))
    assert most == 3
    assert server.clients == 12
    for connection in connections:
        connection.disconnect()


async def test_a_mute_gateway_keeps_nobody_waiting(server: ApiServer) -> None:
    """While one gateway keeps its client waiting, another one's client still gets its turn."""
    mute = ApiServer(accounts=[ACCOUNT])
    await mute.listen(HOST, 0)
    mute.behaviour.mute_start = True
    connector = Connector(ib_factory=IB, parallel=1)
    waiting = asyncio.ensure_future(connect(mute, connector=connector))
    await until(connector._places.locked)
    connection = await asyncio.wait_for(connect(server, connector=connector), SOON)
    assert connection.is_open
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    connection.disconnect()
    await mute.close()


async def test_a_users_client_whose_handlers_raise(server: ApiServer) -> None:
    """A user's subclass with handlers that raise, and a `disconnect` that raises, breaks nothing of ours."""

    def bad(*_arguments: Any) -> None:
        raise RuntimeError("a user's mistake")

    class Theirs(IB):  # type: ignore[misc]  # the library is chosen at run time
        def __init__(self) -> None:
            super().__init__()
            for name in ("errorEvent", "connectedEvent", "disconnectedEvent", "updateEvent", "accountValueEvent"):
                getattr(self, name).connect(bad)

        def disconnect(self) -> None:
            was_connected = self.isConnected()
            super().disconnect()
            if was_connected:  # the library disconnects once more when it is collected
                raise RuntimeError("another one")

    changes: list[None] = []
    connector = Connector(ib_factory=Theirs)
    connection = await connect(server, connector=connector, on_change=lambda: changes.append(None))
    assert isinstance(connection.ib, Theirs)
    server.broadcast(1100, "link lost")
    await until(lambda: connection.link_lost_since)
    assert await connection.heartbeat(timeout=SOON) >= 0
    assert (await _fails(server, connector=connector)).kind == "client_id_in_use"
    server.drop_clients()
    await until(lambda: not connection.is_open)
    connection.disconnect()
    assert len(changes) == 2


async def test_a_factory_that_fails_is_an_error_of_the_try(server: ApiServer) -> None:
    """A factory that raises fails the try and says so."""

    def factory() -> Any:
        raise OSError("no licence")

    error = await _fails(server, connector=Connector(ib_factory=factory))
    assert error.kind == "failed"
    assert "no licence" in str(error)


def test_importing_brings_no_client_library() -> None:
    """Importing the module loads neither client library."""
    check = (
        "import sys; import spreadpilot_core.ibkr.api_client.connector;"
        "assert not {'ib_async', 'ib_insync', 'eventkit'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


# --- a connection's life


async def test_closed_socket_is_seen_at_once(server: ApiServer) -> None:
    """When the gateway closes, whoever made the connection is told, and nothing of ours stays on the client."""
    fresh = handlers(IB())
    changes: list[str | None] = []
    connection = await connect(server, on_change=lambda: changes.append(connection.closed_reason))
    server.drop_clients()
    await until(lambda: changes)
    assert changes == ["The gateway closed the connection."]
    assert not connection.is_open
    assert handlers(connection.ib) == fresh
    connection.disconnect()
    assert changes == ["The gateway closed the connection."]


async def test_port_change_is_the_reason_of_the_close(server: ApiServer) -> None:
    """A close right after 1300 is told with its reason."""
    connection = await connect(server)
    server.broadcast(1300, "Socket port has been reset and this connection is being dropped.")
    server.drop_clients()
    await until(lambda: not connection.is_open)
    assert connection.closed_reason == "The gateway closed the connection: its API port changed."
    connection.disconnect()


async def test_disconnected_by_the_user(server: ApiServer) -> None:
    """A user who disconnects the client is seen at once, and told from the gateway."""
    changes: list[None] = []
    connection = await connect(server, on_change=lambda: changes.append(None))
    connection.ib.disconnect()
    assert connection.closed_reason == "The client was disconnected by the program that uses it."
    assert len(changes) == 1
    connection.disconnect()


async def test_disconnect_twice_and_from_callbacks(server: ApiServer) -> None:
    """Letting go twice, or from within a callback of the library, does no harm and takes all handlers away."""
    fresh = handlers(IB())
    connection = await connect(server, on_change=lambda: connection.disconnect())  # noqa: PLW0108  # not yet made
    server.broadcast(1100, "link lost")
    await until(lambda: not connection.is_open)
    connection.disconnect()
    assert connection.closed_reason == "It was let go."
    assert handlers(connection.ib) == fresh
    await until(lambda: server.clients == 0)
    again = await connect(server)
    again.disconnect()
    again.disconnect()


async def test_pending_requests_of_the_user_end(server: ApiServer) -> None:
    """Whoever waits for an answer of a client that is let go gets an error instead of waiting for ever."""
    connection = await connect(server)
    server.behaviour.frozen = True
    asking = asyncio.ensure_future(connection.ib.reqCurrentTimeAsync())
    await asyncio.sleep(0)
    connection.disconnect()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(asking, SOON)


async def test_a_socket_that_is_read_no_more_is_closed(server: ApiServer) -> None:
    """A client with unsent requests to a frozen gateway still gives its socket back."""
    connection = await connect(server)
    files = open_files()
    server.behaviour.frozen = True
    transport = connection.ib.client.conn.transport
    while not transport.get_write_buffer_size():
        transport.write(b"\0" * 65536)
    connection.disconnect()
    await until(lambda: open_files() < files)


async def test_lost_link_and_back(server: ApiServer) -> None:
    """1100 and 2110 mark the link lost and keep the connection; 1102 and 1101 restore it, the latter counts lost data."""
    changes: list[bool] = []
    connection = await connect(server, on_change=lambda: changes.append(connection.link_lost_since is not None))
    server.broadcast(2103, "Market data farm connection is broken:usfarm")
    for code in (1100, 1100, 1102, 2110, 1101):
        server.broadcast(code, "about the link")
    await until(lambda: len(changes) == 5)
    assert changes == [True, True, False, True, False]
    assert connection.data_lost == 1
    assert connection.is_open
    assert [seen.code for seen in connection.codes][-6:] == [2103, 1100, 1100, 1102, 2110, 1101]
    connection.disconnect()


async def test_lost_link_keeps_its_first_time(server: ApiServer) -> None:
    """IBKR repeats 1100 about once a minute: the loss began with the first."""
    connection = await connect(server)
    server.broadcast(1100, "lost")
    await until(lambda: connection.link_lost_since)
    first = connection.link_lost_since
    server.broadcast(1100, "lost")
    await until(lambda: [seen.code for seen in connection.codes].count(1100) == 2)
    assert connection.link_lost_since == first
    connection.disconnect()


# --- heartbeat


async def test_heartbeat(server: ApiServer) -> None:
    """An answered heartbeat gives its round trip and leaves no handler."""
    connection = await connect(server)
    before = handlers(connection.ib)
    assert connection.last_heartbeat is None
    round_trip = await connection.heartbeat(timeout=SOON)
    assert round_trip == connection.round_trip >= 0
    assert connection.last_heartbeat is not None
    assert handlers(connection.ib) == before
    connection.disconnect()


async def test_heartbeat_of_a_frozen_gateway(server: ApiServer) -> None:
    """An open socket to a frozen gateway is found out, after the timeout and not before; lifted, it answers again."""
    connection = await connect(server)
    before = handlers(connection.ib)
    server.behaviour.frozen = True
    with pytest.raises(HeartbeatError, match=r"did not answer a heartbeat within 0\.3 s"):
        await connection.heartbeat(timeout=0.3)
    assert connection.is_open
    assert connection.last_heartbeat is None
    assert handlers(connection.ib) == before
    server.behaviour.frozen = False
    assert await connection.heartbeat(timeout=SOON) >= 0
    connection.disconnect()


async def test_heartbeat_of_a_connection_that_closes(server: ApiServer) -> None:
    """A close during a heartbeat ends it at once; afterwards none is sent."""
    connection = await connect(server)
    server.behaviour.frozen = True
    beating = asyncio.ensure_future(connection.heartbeat(timeout=LONG))
    await asyncio.sleep(0)
    connection.disconnect()
    with pytest.raises(HeartbeatError, match="let go"):
        await asyncio.wait_for(beating, SOON)
    with pytest.raises(HeartbeatError, match="let go"):
        await connection.heartbeat(timeout=LONG)


async def test_heartbeat_that_is_cancelled_as_its_connection_goes(server: ApiServer) -> None:
    """Nobody waits for its end any more, and nobody complains of that in the log."""
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    connection = await connect(server)
    server.behaviour.frozen = True
    beating = asyncio.ensure_future(connection.heartbeat(timeout=LONG))
    await asyncio.sleep(0)
    beating.cancel()
    connection.disconnect()
    await asyncio.wait({beating})
    del beating, connection
    gc.collect()
    assert complaints == []


async def test_any_message_is_an_answer(server: ApiServer) -> None:
    """Where the request itself is ignored, any other message proves the gateway alive."""
    server.behaviour.ignores_repeats = True
    connection = await connect(server)
    await connection.ib.reqCurrentTimeAsync()
    beating = asyncio.ensure_future(connection.heartbeat(timeout=LONG))
    await asyncio.sleep(0)
    server.broadcast(2104, "Market data farm connection is OK:usfarm")
    await asyncio.wait_for(beating, SOON)
    connection.disconnect()


async def test_ignored_repeat_is_asked_again(server: ApiServer) -> None:
    """A gateway ignores a second request for the time within a second: the heartbeat asks again and is answered."""
    server.behaviour.ignores_repeats = True
    connection = await connect(server)
    await connection.ib.reqCurrentTimeAsync()
    assert await asyncio.wait_for(connection.heartbeat(timeout=LONG), SOON) < SOON
    connection.disconnect()


@pytest.mark.parametrize("ignores_repeats", [False, True])
async def test_heartbeat_beside_a_users_own_request(server: ApiServer, *, ignores_repeats: bool) -> None:
    """A user's request for the time before, with and right after a heartbeat is answered, and so are all heartbeats."""
    server.behaviour.ignores_repeats = ignores_repeats
    connection = await connect(server)
    ask = connection.ib.reqCurrentTimeAsync
    async with asyncio.timeout(SOON):
        before = ask()
        await asyncio.gather(connection.heartbeat(timeout=LONG), connection.heartbeat(timeout=LONG), before)
        await connection.heartbeat(timeout=LONG)
        assert isinstance(await ask(), datetime)
        during = asyncio.ensure_future(connection.heartbeat(timeout=LONG))
        await asyncio.sleep(0)
        await asyncio.gather(ask(), during)
    connection.disconnect()


async def test_no_request_for_the_user_after_the_end(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The late request on a user's behalf is not sent on a client that was let go."""
    monkeypatch.setattr(connection_module, "ANSWER_FOR_USER_AFTER", 0.02)
    connection = await connect(server)
    await connection.heartbeat(timeout=SOON)
    connection.disconnect()
    await asyncio.sleep(0.05)
    assert not connection.is_open


async def test_an_answer_in_time_counts_although_the_loop_was_blocked() -> None:
    """User code that blocks the loop past the timeout is no dead gateway: the answer had arrived."""
    port = refusing_port()
    command = [sys.executable, "-m", "spreadpilot_core.ibkr.simulator", "--port", str(port), "--account", ACCOUNT]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)  # noqa: ASYNC220  # before anything else
    try:
        connection = None
        async with asyncio.timeout(60):
            while connection is None:
                try:
                    connection = await connect(port, account=ACCOUNT, timeout=10)
                except ConnectError:
                    await asyncio.sleep(0.05)
        beating = asyncio.ensure_future(connection.heartbeat(timeout=0.5))
        await asyncio.sleep(0)
        time.sleep(1.2)  # noqa: ASYNC251  # what a user's strategy does
        await beating
        connection.disconnect()
    finally:
        process.terminate()
        process.wait()
