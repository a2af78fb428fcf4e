"""Bots in containers on a real Docker Engine: each gateway in a network of its own with them, never with another gateway."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.access import tokens
from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.model.gateways import Endpoint, Gateway
from spreadpilot_core.ibkr.runtimes.docker.naming import OWNER
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import utc_now
from spreadpilot_core.ibkr.wiring import open_shared
from support.certificates import make_certificates
from support.docker_bench import (  # noqa: F401  # fixtures
    Bench,
    DockerHome,
    bench_fixture,
    engine_fixture,
    own_engine_fixture,
)
from support.docker_http import DockerApiError
from support.docker_images import simulator_image
from support.ports import free_ports

pytestmark = pytest.mark.real_part("docker")


class Bots:
    """A user's network, and containers of a user's."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.network = f"{bench.prefix}-bots"
        self._label = {OWNER: bench.prefix}  # so that the test's end takes them too
        self._make(self.network)

    def _make(self, network: str) -> None:
        self._bench.api.ask("POST", "/networks/create", body={"Name": network, "Labels": self._label})

    def run(self, name: str, *, network: str | None = None) -> str:
        """A container that waits for orders; gives its id."""
        if network is not None:
            self._make(network)
        config = {
            "Image": simulator_image(self._bench.api, "ibcontroller"),
            "Entrypoint": ["sleep", "600"],
            "Labels": self._label,
            "StopTimeout": 0,
            "HostConfig": {"NetworkMode": network or self.network, "Init": True},
        }
        return self._bench.api.run(config, name=f"{self._bench.prefix}-{name}")

    def address(self, container: str) -> str:
        """Its address in the network that it was begun in, whatever others it is in."""
        seen = self._bench.api.inspect(container)
        return str(seen["NetworkSettings"]["Networks"][seen["HostConfig"]["NetworkMode"]]["IPAddress"])


@pytest.fixture
def bots(bench: Bench) -> Iterator[Bots]:
    yield Bots(bench)
    for row in bench.api.containers(f"{OWNER}={bench.prefix}"):
        if row["Image"] and row["Command"].startswith("sleep"):
            bench.api.remove(row["Id"])


def reaches(bench: Bench, container: str, host: str, port: int) -> bool:
    """Whether a connection from inside is accepted."""
    said = bench.api.execute(container, "sh", "-c", f"nc -w 1 {host} {port} </dev/null; echo code $?")
    return "code 0" in said


def addresses(bench: Bench, gateway: Gateway) -> dict[str, str]:
    networks = bench.api.inspect(gateway.container_id)["NetworkSettings"]["Networks"]
    return {name: each["IPAddress"] for name, each in networks.items()}


async def test_a_bot_is_let_in_to_the_gateway_it_asks_for_and_no_two_gateways_meet(bench: Bench, bots: Bots) -> None:
    """By name, for as long as the follower has gateways; others are not reached, nor the bot's own gateways by each other."""
    runtime = await bench.runtime(client_networks=[bots.network])
    alice, bob = await asyncio.gather(*(bench.ready(runtime, bench.spec(name)) for name in ("alice", "bob")))
    bot = bots.run("bot")
    found = await runtime.endpoint_for(alice, bots.address(bot))
    assert found == Endpoint(alice.name, 4004)
    assert await asyncio.to_thread(reaches, bench, bot, found.host, found.port)
    for address in addresses(bench, bob).values():
        assert not await asyncio.to_thread(reaches, bench, bot, address, 4004)

    other = await runtime.endpoint_for(bob, bots.address(bot))
    assert other == Endpoint(bob.name, 4004)
    assert await asyncio.to_thread(reaches, bench, bot, bob.name, 4004)
    assert not {*addresses(bench, alice)} & {*addresses(bench, bob)} - {f"{bench.prefix}-network"}
    for gateway, neighbour in ((alice, bob), (bob, alice)):
        for target in addresses(bench, neighbour).values():
            assert not await asyncio.to_thread(reaches, bench, gateway.container_id, target, 4004), target

    await runtime.remove(alice.container_id, grace=0)
    again = await bench.ready(runtime, bench.spec("alice"))
    assert await runtime.endpoint_for(again, bots.address(bot)) == found
    assert await asyncio.to_thread(reaches, bench, bot, found.host, found.port)

    for gateway in (again, bob):
        await runtime.remove(gateway.container_id, grace=0)
    await runtime.close()
    for gateway in (alice, bob):
        with pytest.raises(DockerApiError):
            bench.api.ask("GET", f"/networks/{gateway.name}-clients")


async def test_who_is_in_no_named_network_reaches_nothing(bench: Bench, bots: Bots) -> None:
    """A container elsewhere, an address that nobody has, and everybody where no network is named."""
    runtime = await bench.runtime(client_networks=[bots.network, "no-such-network"])
    gateway = await bench.ready(runtime, bench.spec())
    stranger = bots.run("stranger", network=f"{bench.prefix}-elsewhere")
    assert await runtime.endpoint_for(gateway, bots.address(stranger)) is None
    assert await runtime.endpoint_for(gateway, "192.0.2.7") is None
    bot = bots.run("bot")
    assert await (await bench.runtime()).endpoint_for(gateway, bots.address(bot)) is None
    for container in (stranger, bot):
        assert not await asyncio.to_thread(reaches, bench, container, addresses(bench, gateway).popitem()[1], 4004)


BOT = """
import json, socket, ssl, struct, sys, urllib.request
url, token = sys.argv[1:]
asked = urllib.request.Request(url + "/v1/gateways/alice/clients?wait=60", method="POST", headers={"Authorization": "Bearer " + token})
leased = json.load(urllib.request.urlopen(asked, context=ssl._create_unverified_context(), timeout=90))
with socket.create_connection((leased["host"], leased["port"]), timeout=30) as connection:
    hello = b"v157..178"
    connection.sendall(b"API\\0" + struct.pack(">I", len(hello)) + hello)
    print(json.dumps({**leased, "answer": connection.recv(64).decode("latin-1")}))
"""


async def test_a_bot_in_a_container_leases_a_client_and_connects(bench: Bench, bots: Bots, tmp_path: Path) -> None:
    """The whole way: with a trader's token at the address, over TLS, to the gateway's API by its name."""
    certificates = await asyncio.to_thread(make_certificates, tmp_path)
    assert ssl.create_default_context(cafile=certificates.authority)
    port = free_ports(1)
    home = DockerHome(
        bench,
        gateway_network=bots.network,
        http_address=f"0.0.0.0:{port}",
        http_cert_file=certificates.server,
        http_key_file=certificates.server_key,
    )
    await home.add_on("ibcontroller", "alice")
    try:
        async with home.manager():
            shared = open_shared(Settings.read(**home.settings))
            await shared.open()
            token = await tokens.add(
                shared, "bot", role=Role.TRADER, followers=["alice"], expires_at=None, now=utc_now()
            )
            await shared.close()
            network = bench.api.ask("GET", f"/networks/{bots.network}")
            gateway = network["IPAM"]["Config"][0]["Gateway"]
            bot = bots.run("bot")
            said = await asyncio.to_thread(
                bench.api.execute, bot, "python3", "-c", BOT, f"https://{gateway}:{port}", token
            )
            told = json.loads(said.splitlines()[-1])
            assert (told["host"], told["port"]) == (f"{bench.prefix}-alice", 4004)
            assert "178" in told["answer"]
    finally:
        await home.end()
