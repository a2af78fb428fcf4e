"""The one bridge network that an owner's gateways share without reaching each other.

The TWS API has no authentication, so containers on this network can't talk to each other, and what they publish is bound
to loopback by default. It has an address range of its own choosing: the engine's default ranges end after some thirty
networks, and may lie over a network that this host uses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

import structlog

from spreadpilot_core.ibkr.errors import LaunchError
from spreadpilot_core.ibkr.runtimes.docker_engine import Engine, EngineRefusedError, gone_is_fine
from spreadpilot_core.ibkr.runtimes.docker_naming import OWNER, VERSION, Naming

log = structlog.get_logger(__name__)

_RANGES: Final = list(ipaddress.ip_network("10.192.0.0/12").subnets(new_prefix=22))
"""Each takes 1,021 gateways; rarely used by others, and what is used is left out."""
_TRIES: Final = 16


class GatewayNetwork:
    """The owner's network on one engine."""

    def __init__(self, engine: Engine, naming: Naming, *, version: str) -> None:
        self._engine = engine
        self._naming = naming
        self._version = version
        self._one_at_a_time = asyncio.Lock()

    async def ensure(self) -> None:
        """Have the network there. Raises `LaunchError` when something else bears its name."""
        async with self._one_at_a_time:
            networks = await self._engine.networks()
            if self._find(networks) is not None:
                return
            await self._create(networks)

    async def remove(self) -> None:
        """Remove it, when it is ours and no container uses it."""
        if self._find(await self._engine.networks()) is None:
            return
        try:
            with gone_is_fine():
                await self._engine.delete_network(self._naming.network)
        except EngineRefusedError as refused:
            log.debug("network stays", why=str(refused))

    def _find(self, networks: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        for network in networks:
            if network["Name"] != self._naming.network:
                continue
            if not self._naming.owns(network.get("Labels")):
                raise LaunchError(
                    f"A Docker network that is not this manager's bears the name {network['Name']}.",
                    hint=f"Remove it (`docker network rm {network['Name']}`), or choose another container_prefix.",
                )
            return network
        return None

    async def _create(self, networks: Iterable[Mapping[str, Any]]) -> None:
        taken = [*_ranges_of(networks), *await asyncio.to_thread(_routed_ranges)]
        candidates = free_ranges(taken, begin=zlib.crc32(self._naming.prefix.encode()))
        for _, subnet in zip(range(_TRIES), candidates, strict=False):
            try:
                await self._engine.create_network(self._config(subnet))
            except EngineRefusedError as refused:
                if "overlaps" in refused.said:  # somebody took it just now
                    continue
                if refused.is_conflict:  # another process of this owner was faster
                    return
                raise
            log.info("network created", network=self._naming.network, subnet=str(subnet))
            return
        raise LaunchError(
            "No address range is free for the gateways' Docker network.",
            hint="`docker network prune` removes unused networks.",
        )

    def _config(self, subnet: IPv4Network) -> dict[str, Any]:
        return {
            "Name": self._naming.network,
            "CheckDuplicate": True,  # one name may exist twice without it, up to API 1.43
            "Driver": "bridge",
            "EnableIPv6": False,
            "IPAM": {"Config": [{"Subnet": str(subnet)}]},
            "Options": {
                "com.docker.network.bridge.enable_icc": "false",
                "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
            },
            "Labels": {OWNER: self._naming.prefix, VERSION: self._version},
        }


def free_ranges(taken: Iterable[IPv4Network], *, begin: int) -> Iterator[IPv4Network]:
    """Ranges that overlap none of `taken`; two owners begin at different places."""
    used = list(taken)
    for i in range(len(_RANGES)):
        candidate = _RANGES[(begin + i) % len(_RANGES)]
        if isinstance(candidate, IPv4Network) and not any(candidate.overlaps(other) for other in used):
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
