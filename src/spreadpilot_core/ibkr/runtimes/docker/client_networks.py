"""How bots in containers reach a gateway: a network for each gateway, with the bots that hold its leases and nobody else.

A user names Docker networks (`gateway_network`). A container in one of them that asks for a client is let into the network of
that one gateway, and so is the gateway itself; no two gateways are ever in one network, whatever bots they share. These
networks lead nowhere else: they are internal, and nothing is published in them.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network, ip_address
from typing import Any, Final

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Endpoint, Gateway
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine, EngineRefusedError, gone_is_fine
from spreadpilot_core.ibkr.runtimes.docker.naming import FOLLOWER, VERSION, Naming
from spreadpilot_core.ibkr.runtimes.docker.network import Ranges, create_in_free_range
from spreadpilot_core.ibkr.runtimes.held_names import held_name
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_RANGES: Final = Ranges(IPv4Network("10.208.0.0/12"), 26)
"""Each takes a gateway and 60 bots."""


class ClientNetworks:
    """The networks of one manager's gateways with their clients; `naming` may change until one is first used."""

    def __init__(self, engine: Engine, naming: Naming, *, allowed: Sequence[str], version: str) -> None:
        """`allowed` are the networks whose containers may ask."""
        self._engine = engine
        self.naming = naming
        self._allowed = allowed
        self._version = version
        self._one_at_a_time = asyncio.Lock()

    async def endpoint_for(self, gateway: Gateway, address: str) -> Endpoint | None:
        """Where the container with this address reaches the gateway, once both are in its network; None: nowhere.

        The host is the name of the gateway's container, which its follower's next one has too.
        """
        member = await self._member(address) if self._allowed else None
        found = await self._engine.inspect_container(gateway.container_id) if member is not None else None
        port = _api_port(found, gateway) if found is not None else None
        if member is None or found is None or port is None:
            return None
        async with self._one_at_a_time:
            name = await self._ensure(gateway.follower_id)
            network = await self._engine.inspect_network(name)
            inside = set((network or {}).get("Containers") or {})
            for container_id in (gateway.container_id, member):
                if container_id not in inside:
                    await self._connect(name, container_id)
        return Endpoint(found["Name"].removeprefix("/"), port)

    async def _member(self, address: str) -> str | None:
        """The container that has this address in one of the user's networks."""
        wanted = ip_address(address)
        for name in self._allowed:
            network = await self._engine.inspect_network(name)
            for container_id, endpoint in ((network or {}).get("Containers") or {}).items():
                has = (endpoint.get(each) or "" for each in ("IPv4Address", "IPv6Address"))
                if any(each and ip_address(each.partition("/")[0]) == wanted for each in has):
                    return str(container_id)
        return None

    async def _ensure(self, follower_id: FollowerId) -> str:
        name = self.naming.client_network(follower_id)
        networks = await self._engine.networks()
        found = next((each for each in networks if each["Name"] == name), None)
        if found is not None:
            marks = found.get("Labels") or {}
            if not self.naming.owns(marks) or marks.get(FOLLOWER) != follower_id:
                identity = self.naming.others_identity(marks)
                raise held_name("Docker network", name, identity, remove=f"`docker network rm {name}`")
            return name
        config = partial(self._config, name, follower_id)
        await create_in_free_range(self._engine, config, networks, ranges=_RANGES, begin=zlib.crc32(name.encode()))
        return name

    def _config(self, name: str, follower_id: FollowerId, subnet: IPv4Network) -> dict[str, Any]:
        return {
            "Name": name,
            "CheckDuplicate": True,
            "Driver": "bridge",
            "Internal": True,
            "EnableIPv6": False,
            "IPAM": {"Config": [{"Subnet": str(subnet)}]},
            "Labels": {**self.naming.marks(follower_id), VERSION: self._version},
        }

    async def _connect(self, name: str, container_id: str) -> None:
        try:
            await self._engine.connect_network(name, container_id)
        except EngineRefusedError as refused:
            if "already exists" not in refused.said:  # it came in just now
                raise
        log.info("container let into a gateway's network", network=name, container=container_id[:12])

    async def remove_unused(self, followers: Collection[str]) -> None:
        """Remove those of followers that are not among these, which have containers."""
        for row in await self._engine.networks():
            marks = row.get("Labels") or {}
            name = row["Name"]
            if not self.naming.owns(marks) or FOLLOWER not in marks or marks[FOLLOWER] in followers:
                continue
            with gone_is_fine():
                network = await self._engine.inspect_network(name)
                for container_id in (network or {}).get("Containers") or {}:
                    await self._engine.disconnect_network(name, container_id)
                await self._engine.delete_network(name)


def _api_port(inspection: Mapping[str, Any], gateway: Gateway) -> int | None:
    """The port inside that is published where the gateway's API answers on this host."""
    bindings = (inspection.get("HostConfig") or {}).get("PortBindings") or {}
    for inside, outside in bindings.items():
        if gateway.endpoint is not None and str(gateway.endpoint.port) in [
            each.get("HostPort") for each in outside or ()
        ]:
            return int(inside.partition("/")[0])
    return None
