"""A simulated gateway as its API clients see it: ib_async on a real socket, through logins, faults and restarts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from ib_async import IB

from support.simulated_life import ACCOUNT, CONTROLLERS, DEADLINE, Life, living, until

both = pytest.mark.parametrize("controller", CONTROLLERS)


class Client:
    """An `IB` that remembers the codes it was told."""

    def __init__(self) -> None:
        self.ib = IB()
        self.codes: list[int] = []
        self.ib.errorEvent += lambda _request, code, _text, _contract: self.codes.append(code)

    async def connect(self, life: Life, *, seconds: float = 10) -> None:
        """One try; raises what ib_async raises."""
        await self.ib.connectAsync("127.0.0.1", life.gateway.port, clientId=1, timeout=seconds)

    async def told(self, code: int) -> None:
        """Return once it was told this code."""
        await until(lambda: code in self.codes)


@contextlib.asynccontextmanager
async def connected(life: Life) -> AsyncIterator[Client]:
    """A client of a usable gateway."""
    client = Client()
    await life.usable()
    await client.connect(life)
    try:
        yield client
    finally:
        client.ib.disconnect()


@both
async def test_client_connects_after_the_login(controller: str) -> None:
    """Logged in, the managed accounts are those of the login."""
    async with living(controller, accounts=[ACCOUNT, "DU7654321"]) as life, connected(life) as client:
        assert client.ib.managedAccounts() == [ACCOUNT, "DU7654321"]


@both
async def test_disclaimer_that_waits_refuses_with_10141(controller: str) -> None:
    """Between a paper login and its disclaimer clients are told 10141 and dropped; afterwards they are served."""
    async with living(controller, [{"disclaimer_pending": 60}]) as life:
        await life.said("Login has completed" if controller == "ibc" else "state=LoginState.LOGGED_IN")
        client = Client()
        with pytest.raises((TimeoutError, ConnectionError)):
            await client.connect(life, seconds=3)
        assert 10141 in client.codes
        life.gateway.inject("disclaimer_pending", seconds=0)
        async with connected(life) as served:
            assert served.ib.isConnected()


async def test_disclaimer_at_run_time() -> None:
    """Injected, it drops the clients and refuses new ones for as long as it says."""
    async with living("ibc") as life, connected(life) as client:
        life.gateway.inject("disclaimer_pending", seconds=0.1)
        await until(lambda: not client.ib.isConnected())
        async with connected(life) as again:
            assert again.ib.isConnected()


async def test_live_login_has_no_disclaimer() -> None:
    """A live login's clients are served at once."""
    async with living("ibc", trading_mode="live", accounts=["U1234567"]) as life, connected(life) as client:
        assert 10141 not in client.codes


@pytest.mark.parametrize("fault", ["mute", "close_early"])
async def test_start_that_is_not_served(fault: str) -> None:
    """The handshake is answered, the start is not (silence, or a close without an error); the library can only time out."""
    async with living("ibc", [{fault: True}]) as life:
        await life.said("Login has completed")
        client = Client()
        with pytest.raises((TimeoutError, ConnectionError)):
            await client.connect(life, seconds=0.5)
        assert not [code for code in client.codes if code < 2000]


async def test_link_to_ibkr_comes_and_goes() -> None:
    """1100, then 1102 or 1101, on a socket that stays."""
    async with living("ibc") as life, connected(life) as client:
        life.gateway.inject("link_lost")
        await client.told(1100)
        life.gateway.inject("link_restored")
        await client.told(1102)
        life.gateway.inject("link_lost", seconds=0.05, data="lost")
        await client.told(1101)
        assert client.ib.isConnected()


async def test_farm_notices() -> None:
    """Each farm code arrives with a text of its own; any other code with the text it is given."""
    texts: dict[int, str] = {}
    async with living("ibc") as life, connected(life) as client:
        client.ib.errorEvent += lambda _request, code, text, _contract: texts.__setitem__(code, text)
        for code in (2103, 2105, 2107, 2108, 2110, 2119, 2157):
            life.gateway.inject("notice", code=code)
        life.gateway.inject("notice", code=10197, text="No market data during competing live session")
        await client.told(10197)
    assert texts[2103] == "Market data farm connection is broken:usfarm"
    assert texts[10197] == "No market data during competing live session"
    assert len(set(texts.values())) == len(texts) >= 8


@both
async def test_nightly_restart_ends_the_socket_and_serves_again(controller: str) -> None:
    """A connected client loses its socket, the same port serves the next one."""
    async with living(controller) as life, connected(life) as client:
        life.gateway.inject("nightly_restart")
        await until(lambda: not client.ib.isConnected())
        async with connected(life) as again:
            assert again.ib.managedAccounts() == [ACCOUNT]


async def test_frozen_gateway_leaves_the_socket_open_and_silent() -> None:
    """Frozen, the socket stays and nothing is answered; thawed, the answer comes."""
    async with living("ibc") as life, connected(life) as client:
        life.gateway.inject("freeze")
        asked = asyncio.ensure_future(client.ib.reqCurrentTimeAsync())
        await asyncio.wait((asked,), timeout=0.2)
        assert not asked.done()
        assert client.ib.isConnected()
        life.gateway.inject("thaw")
        async with asyncio.timeout(DEADLINE):
            assert await asked
        assert client.ib.isConnected()


@both
async def test_lost_session_keeps_sockets_and_mutes_new_ones(controller: str) -> None:
    """The client is told 1100 and stays connected; whoever connects now gets no further than the handshake."""
    async with living(controller) as life, connected(life) as client:
        life.gateway.inject("session_lost")
        await client.told(1100)
        assert client.ib.isConnected()
        late = Client()
        with pytest.raises((TimeoutError, ConnectionError)):
            await late.ib.connectAsync("127.0.0.1", life.gateway.port, clientId=2, timeout=0.5)


@both
@pytest.mark.parametrize("fault", ["crash", "out_of_memory", "kill", "log_off"])
async def test_end_of_the_gateway_ends_the_socket(controller: str, fault: str) -> None:
    """However it ends, its clients read the end of the stream."""
    async with living(controller) as life, connected(life) as client:
        life.gateway.inject(fault)
        await until(lambda: not client.ib.isConnected())
        await life.ended()


async def test_dropped_clients_may_come_back() -> None:
    """`drop_clients` ends connections and nothing else."""
    async with living("ibc") as life, connected(life) as client:
        life.gateway.inject("drop_clients")
        await until(lambda: not client.ib.isConnected())
        async with connected(life) as again:
            assert again.ib.isConnected()


@both
async def test_log_tells_of_clients_that_go(controller: str) -> None:
    """The gateway prints a line of its own for each client that goes away; it means nothing for the login."""
    async with living(controller) as life:
        async with connected(life):
            assert not life.count("remove Client")
        await life.said("remove Client 1")
        assert life.gateway.is_usable
        assert life.gateway.api_is_open
