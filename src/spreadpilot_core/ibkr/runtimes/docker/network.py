"""The one bridge network that a manager's gateways share without reaching each other.

The TWS API has no authentication, so containers on this network can't talk to each other, and what they publish is bound
to loopback by default. It has an address range of its own choosing: the engine's default ranges end after some thirty
networks, and may lie over a network that this host uses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final, NamedTuple

from spreadpilot_core.ibkr.errors import LaunchError
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine, EngineRefusedError, gone_is_fine
from spreadpilot_core.ibkr.runtimes.docker.naming import IDENTITY, VERSION, Naming
from spreadpilot_core.ibkr.runtimes.held_names import held_name
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)


class Ranges(NamedTuple):
    """Ranges of one size, side by side; made when they are looked at, for there may be thousands."""

    within: IPv4Network
    prefix: int

    def from_place(self, begin: int) -> Iterator[IPv4Network]:
        """All of them, once around."""
        count, size = 1 << (self.prefix - self.within.prefixlen), 1 << (self.within.max_prefixlen - self.prefix)
        for i in range(count):
            yield IPv4Network((int(self.within.network_address) + (begin + i) % count * size, self.prefix))


_RANGES: Final = Ranges(IPv4Network("10.192.0.0/12"), 22)
"""Each takes 1,021 gateways; rarely used by others, and what is used is left out."""
_TRIES: Final = 16


class GatewayNetwork:
    """The manager's network on one engine; `naming` may change until it is first used."""

    def __init__(self, engine: Engine, naming: Naming, *, version: str) -> None:
        self._engine = engine
        self.naming = naming
        self._version = version
        self._one_at_a_time = asyncio.Lock()

    async def ensure(self) -> str:
        """Have the network there, and give its name. Raises `LaunchError` when something else bears its name."""
        async with self._one_at_a_time:
            for _ in range(_TRIES):
                networks = await self._engine.networks()
                named = Counter(each["Name"] for each in networks)
                ours = [each for each in networks if self._is_ours(each)]
                if (only := next((each for each in ours if named[each["Name"]] == 1), None)) is not None:
                    return str(only["Name"])
                for each in (
                    ours
                ):  # another manager that began at once made one too, and a name that is there twice serves nobody
                    await self._delete(each)
                await self._create(self.naming.own_network if ours else self._free_name(networks), networks)
        raise LaunchError("The gateways' Docker network is removed as often as it is made.")

    async def remove(self) -> None:
        """Remove what is ours, where no container uses it."""
        for network in await self._engine.networks():
            if self._is_ours(network):
                await self._delete(network)

    async def _delete(self, network: Mapping[str, Any]) -> None:
        """By its id; one that containers use stays."""
        try:
            with gone_is_fine():
                await self._engine.delete_network(network["Id"])
        except EngineRefusedError as refused:
            log.debug("network stays", why=str(refused))

    def _is_ours(self, network: Mapping[str, Any]) -> bool:
        """By its identity and its name: a manager with two prefixes has two networks."""
        named = network["Name"] in (self.naming.network, self.naming.own_network)
        return named and self.naming.owns(network.get("Labels"))

    def _free_name(self, networks: Iterable[Mapping[str, Any]]) -> str:
        """A second manager with the same prefix takes a name of its own; what no manager made is in the way."""
        for network in networks:
            if network["Name"] in (self.naming.network, self.naming.own_network):
                if IDENTITY in (network.get("Labels") or {}) and network["Name"] == self.naming.network:
                    return self.naming.own_network
                name, identity = str(network["Name"]), self.naming.others_identity(network.get("Labels"))
                raise held_name("Docker network", name, identity, remove=f"`docker network rm {name}`")
        return self.naming.network

    async def _create(self, name: str, networks: Iterable[Mapping[str, Any]]) -> None:
        begin = zlib.crc32(self.naming.prefix.encode())
        await create_in_free_range(self._engine, partial(self._config, name), networks, ranges=_RANGES, begin=begin)

    def _config(self, name: str, subnet: IPv4Network) -> dict[str, Any]:
        return {
            "Name": name,
            "CheckDuplicate": True,  # up to API 1.43; of two requests at once each may find none
            "Driver": "bridge",
            "EnableIPv6": False,
            "IPAM": {"Config": [{"Subnet": str(subnet)}]},
            "Options": {
                "com.docker.network.bridge.enable_icc": "false",
                "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
            },
            "Labels": {**self.naming.own_marks, VERSION: self._version},
        }


async def create_in_free_range(
    engine: Engine,
    config: Callable[[IPv4Network], dict[str, Any]],
    networks: Iterable[Mapping[str, Any]],
    *,
    ranges: Ranges,
    begin: int,
) -> None:
    """Create a network in the first of these ranges that is free on this host, from place `begin` on.

    Raises:
        LaunchError: none is free.
    """
    taken = [*_ranges_of(networks), *await asyncio.to_thread(_routed_ranges)]
    for _, subnet in zip(range(_TRIES), free_ranges(taken, ranges=ranges, begin=begin), strict=False):
        wanted = config(subnet)
        try:
            await engine.create_network(wanted)
        except EngineRefusedError as refused:
            if "overlaps" in refused.said:  # somebody took it just now
                continue
            if refused.is_conflict:  # another process was faster
                return
            raise
        log.info("network created", network=wanted["Name"], subnet=str(subnet))
        return
    raise LaunchError(
        "No address range is free for the gateways' Docker network.",
        hint="`docker network prune` removes unused networks.",
    )


def free_ranges(taken: Iterable[IPv4Network], *, begin: int, ranges: Ranges = _RANGES) -> Iterator[IPv4Network]:
    """Ranges that overlap none of `taken`; two owners begin at different places."""
    used = list(taken)
    for candidate in ranges.from_place(begin):
        if not any(candidate.overlaps(other) for other in used):
            yield candidate


def _ranges_of(networks: Iterable[Mapping[str, Any]]) -> Iterator[IPv4Network]:
    for network in networks:
        for config in (network.get("IPAM") or {}).get("Config") or ():
            subnet = config.get("Subnet", "")
            if subnet and ":" not in subnet:
                yield IPv4Network(subnet, strict=False)


def _routed_ranges(table: Path = Path("/proc/net/route")) -> list[IPv4Network]:
    """What this host has routes to, the default route left out; nothing where there is no such table."""
    try:
        rows = [row.split() for row in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [IPv4Network((_address(row[1]), _address(row[7])), strict=False) for row in rows if int(row[7], 16)]


def _address(little_endian_hex: str) -> str:
    return str(ipaddress.IPv4Address(struct.pack("<L", int(little_endian_hex, 16))))
