"""`RemoteGatewayManager` at an address: tokens, TLS, and the leader where there are several managers."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.access import tokens
from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.errors import (
    GatewayManagerError,
    SettingsError,
    UnavailableError,
    UnknownFollowerError,
)
from spreadpilot_core.ibkr.remote import ManagerAwayError, RemoteGatewayManager, UntrustedManagerError
from spreadpilot_core.ibkr.remote.transport import Target
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import utc_now
from spreadpilot_core.ibkr.wiring import open_shared
from support.certificates import Certificates, make_certificates
from support.command import PROGRAM
from support.home import Home
from support.ports import free_ports


class Addressed:
    """A manager of two followers at an address with TLS."""

    def __init__(self, home: Home, url: str, certificates: Certificates) -> None:
        self.home = home
        self.url = url
        self.ca_file = certificates.authority

    async def token(self, role: Role, *followers: str) -> str:
        """A new one."""
        shared = open_shared(Settings.read(**self.home.settings))
        await shared.open()
        try:
            return await tokens.add(
                shared, role.value, role=role, followers=followers or None, expires_at=None, now=utc_now()
            )
        finally:
            await shared.close()


@pytest.fixture
async def addressed(tmp_path: Path) -> AsyncIterator[Addressed]:
    home = Home()
    await home.add("alice", "bob")
    certificates = await asyncio.to_thread(make_certificates, tmp_path)
    port = free_ports(1)
    served = {
        "http_address": f"127.0.0.1:{port}",
        "http_cert_file": certificates.server,
        "http_key_file": certificates.server_key,
    }
    async with home.manager(**served):
        yield Addressed(home, f"https://127.0.0.1:{port}", certificates)
    await home.end()


async def test_a_traders_token_gets_clients_of_its_followers(addressed: Addressed) -> None:
    """Its own follower's client, connected here; of others it does not even learn that they exist; nothing of an operator's."""
    token = await addressed.token(Role.TRADER, "alice")
    async with RemoteGatewayManager(addressed.url, token, ca_file=addressed.ca_file) as remote:
        ib = await remote.get_client("alice")
        assert ib.isConnected()
        assert await remote.is_healthy("alice")
        with pytest.raises(UnknownFollowerError, match="bob"):
            await remote.get_client("bob")
        with pytest.raises(GatewayManagerError, match="operator"):
            await remote.stop_gateway("alice")
        assert [each.follower_id for each in await remote.list_clients()] == ["alice"]


async def test_commands_that_take_their_time_end_here_too(addressed: Addressed) -> None:
    """An operator's restart returns when it is done, and the next client is the new gateway's."""
    token = await addressed.token(Role.OPERATOR)
    async with RemoteGatewayManager(addressed.url, token, ca_file=addressed.ca_file) as remote:
        ib = await remote.get_client("alice")
        await remote.restart_gateway("alice")
        after = await remote.get_client("alice")
        assert after is not ib
        assert after.client.clientId == ib.client.clientId


async def test_a_command_asks_there_too(addressed: Addressed, tmp_path: Path) -> None:
    """With the token from a file, on a machine that has no manager of its own."""
    token = tmp_path / "token"
    token.write_text(f"{await addressed.token(Role.TRADER, 'alice')}\n")
    where = ["--url", addressed.url, "--token-file", token, "--ca-file", addressed.ca_file]
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *["exec", "alice", *where, "--", "sh", "-c", "echo $IB_TRADING_MODE $IB_PORT"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert said.decode().split()[0] == "paper"


async def test_who_has_no_token_or_a_viewers_gets_no_client(addressed: Addressed) -> None:
    """Each is told at once what is missing, and nothing is waited for."""
    for token in (None, "wrong", await addressed.token(Role.VIEWER)):
        remote = RemoteGatewayManager(addressed.url, token, ca_file=addressed.ca_file)
        async with asyncio.timeout(30):
            with pytest.raises(GatewayManagerError, match=r"token|trader"):
                await remote.get_client("alice")
        await remote.stop()


async def test_a_certificate_that_nobody_vouches_for_is_refused(addressed: Addressed) -> None:
    """The token is not shown to who can't prove who he is."""
    remote = RemoteGatewayManager(addressed.url, "a token")
    for call in (remote.start(), remote.get_client("alice")):
        with pytest.raises(UntrustedManagerError, match="ca_file"):
            await call
    await remote.stop()


class _StandingBy(BaseHTTPRequestHandler):
    """A manager that stands by, and one that leads."""

    leader: str | None = None

    def do_GET(self) -> None:
        if type(self).leader is None:
            self._say(200, {"notices": ["I lead."]})
        else:
            self._say(503, {"error": "NOT_LEADER", "sentence": "It stands by.", "leader": {"url": type(self).leader}})

    def _say(self, code: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def _standing_by(leader: str | None) -> Iterator[str]:
    handler = type("Handler", (_StandingBy,), {"leader": leader})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_the_leader_is_followed_and_its_end_survived() -> None:
    """A manager that stands by names the leader; when that one is gone, who was named first is asked again."""
    with _standing_by(None) as first, _standing_by(None) as leader, _standing_by(leader) as other:
        remote = RemoteGatewayManager(other)
        assert await remote.list_notices() == ("I lead.",)
        assert str(remote._route.now) == leader
        remote._route.give_up(remote._route.now)
        assert str(remote._route.now) == other
        await remote.stop()
        several = RemoteGatewayManager([f"http://127.0.0.1:{free_ports(1)}", first])
        await several.start()
        await several.stop()


async def test_managers_that_name_each_other_are_not_followed_for_ever() -> None:
    """Nobody leads for the moment: that may pass."""
    port = free_ports(1)
    with _standing_by(f"http://127.0.0.1:{port}") as one:
        handler = type("Handler", (_StandingBy,), {"leader": one})
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        remote = RemoteGatewayManager(one)
        try:
            with pytest.raises(UnavailableError, match="stands by"):
                await remote.start()
        finally:
            await remote.stop()
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.mark.parametrize("url", ["http://manager:8443", "http://192.0.2.1:8443", "http://127.0.0.1.example:1"])
def test_a_token_goes_to_no_other_machine_in_the_clear(url: str) -> None:
    """Anybody on the way could read it; TLS, or this machine, is what keeps it."""
    with pytest.raises(SettingsError, match="https://"):
        RemoteGatewayManager(url, "gm_token")
    for kept in ("https://manager:8443", "http://127.0.0.1:8443", "http://[::1]:8443", "http://localhost:8443"):
        RemoteGatewayManager(kept, "gm_token")


@pytest.mark.parametrize(
    "leader",
    ["http://manager:8443", "http://127.0.0.1:8443", "https://127.0.0.1:8443", "https://", "ftp://x", "https://u:p@x"],
)
def test_a_leader_that_would_have_the_token_elsewhere_is_not_followed(leader: str) -> None:
    """Neither in the clear, nor to whoever listens on this machine at the address that the leader has on its own."""
    asked = Target.of("https://standby:8443", token="gm_token")
    assert asked.leader({"host": "other", "socket": None, "url": leader}) is None
    followed = asked.leader({"host": "other", "socket": None, "url": "https://leader:8443"})
    assert followed == Target.of("https://leader:8443", token="gm_token")


class _Slow(_StandingBy):
    """Something before the manager writes its own scheme and host into what the manager answers."""

    seen: list[str]

    def do_POST(self) -> None:
        self.send_response(202)
        self.send_header("location", "http://192.0.2.1:1/v1/operations/some")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self._say(200, {"reconnected": True})


async def test_what_takes_long_is_asked_where_it_was_begun() -> None:
    """Whatever host the answer names: the token goes nowhere else."""
    handler = type("Handler", (_Slow,), {"leader": None, "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        remote = RemoteGatewayManager(f"http://127.0.0.1:{server.server_address[1]}", "gm_token")
        assert await remote.reconnect("alice")
        assert handler.seen == ["/v1/operations/some"]
        await remote.stop()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_manager_that_is_away_for_long_costs_no_file(tmp_path: Path) -> None:
    """Its directory is opened to reach a socket behind a long path, at each try; hours of them must not use up all descriptors."""
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    remote = RemoteGatewayManager(f"unix:{directory}")
    counts = []
    for _ in range(20):
        with pytest.raises(ManagerAwayError):
            await remote.start()
        counts.append(sum(1 for _ in Path("/dev/fd").iterdir()))
    await remote.stop()
    assert counts[-1] == counts[0]
