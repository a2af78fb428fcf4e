"""Clients in other programs: what a program outside the manager is told so that it may be an API client of a gateway.

It waits as `get_client` does, and refuses for the same reasons. A client id is leased only once the gateway is ready.
"""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime
from ipaddress import ip_address
from typing import Any, cast

from spreadpilot_core.ibkr.errors import (
    ClientOutOfReachError,
    GatewayDownError,
    GatewayNotReadyError,
    UnknownFollowerError,
    WrongTradingModeError,
)
from spreadpilot_core.ibkr.model.client_leases import ClientLease, ClientPlace, GatewayEndpoint, LeasedClient, LeaseView
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Endpoint, Gateway
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import GatewayStatus
from spreadpilot_core.ibkr.seams import GatewayRuntime, ReachedFromContainers
from spreadpilot_core.ibkr.supervision.fleet import Fleet
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.supervision.snapshots import snapshot, trading_mode
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor


class SharedClients:
    """Of one started manager."""

    def __init__(self, fleet: Fleet, services: Services) -> None:
        self._fleet = fleet
        self._services = services

    async def lease(
        self,
        follower_id: str,
        place: ClientPlace,
        *,
        name: str | None = None,
        wait: float = 0,
        require: TradingMode | None = None,
    ) -> LeasedClient:
        """A client id of one's own, and where the gateway is, once it is ready.

        Args:
            follower_id: the record's id.
            place: from where it is asked: the endpoint is one that it can reach.
            name: who comes back under the same name gets the same client id, while that is free.
            wait: seconds that the gateway may take to become ready.
            require: no client of a gateway in the other trading mode is leased.

        Raises:
            UnknownFollowerError: no record has this id.
            WrongTradingModeError: it is in the other mode than required.
            GatewayDownError: it is STOPPED or FAILED, or waits for the end of IBKR's reset hours.
            GatewayNotReadyError: it was not ready in time.
            ClientOutOfReachError: the caller can't reach it from where it is.
            SharedClientIdsExhaustedError: every client id of the range is held.
            TooManyClientsError: this follower's programs hold as many as they may.
            StoreUnavailableError: no lease can be kept now.
            LeadershipLostError: another manager acts.

        """
        self._services.runtime.guard()
        must_be_in(self._fleet, follower_id, require)  # what is known now need not be waited for
        supervisor = await self._ready(follower_id, wait)
        must_be_in(self._fleet, follower_id, require)
        endpoint = await self._endpoint(supervisor, place)
        lease, expires = await self._services.client_leases.lease(FollowerId(follower_id), name)
        return self._leased(lease, expires, supervisor, endpoint)

    async def endpoint(self, follower_id: str, place: ClientPlace, *, wait: float = 0) -> GatewayEndpoint:
        """Where the gateway is, without a lease: for programs that bring a client id of their own. Raises as `lease` does."""
        supervisor = await self._ready(follower_id, wait)
        endpoint = await self._endpoint(supervisor, place)
        return GatewayEndpoint(**self._found(follower_id, supervisor, endpoint))

    async def renew(self, follower_id: str, lease_id: str, place: ClientPlace, *, wait: float = 0) -> LeasedClient:
        """Hold a lease for another while, and learn where the gateway is now; with `wait` once it is ready, or is down.

        Raises:
            ClientLeaseLostError: somebody else has the client id now.
            ClientOutOfReachError: the caller can't reach the gateway from where it is.
            StoreUnavailableError: whether it is still held can't be found out now.
            LeadershipLostError: another manager acts.

        """
        self._services.runtime.guard()
        lease, expires = await self._services.client_leases.renew(FollowerId(follower_id), lease_id)
        supervisor = self._fleet.supervisors.get(lease.follower_id)
        if wait and not self._is_ready(follower_id):
            supervisor = await await_ready(self._fleet, follower_id, wait)
            lease, expires = await self._services.client_leases.renew(lease.follower_id, lease_id)
        endpoint = await self._endpoint(supervisor, place) if supervisor and self._is_ready(follower_id) else None
        return self._leased(lease, expires, supervisor, endpoint)

    async def give_back(self, follower_id: str, lease_id: str) -> bool:
        """End a lease; whether it was one. Raises `StoreUnavailableError`, `LeadershipLostError`."""
        self._services.runtime.guard()
        return await self._services.client_leases.give_back(FollowerId(follower_id), lease_id)

    async def list(self) -> tuple[LeaseView, ...]:
        """Who holds which client id. Raises `StoreUnavailableError`."""
        return tuple(
            LeaseView(follower_id=each.follower_id, client_id=each.client_id, name=each.name)
            for each in await self._services.client_leases.held()
        )

    # ------------------------------------------------------------------

    def _is_ready(self, follower_id: str) -> bool:
        return ready_client(self._fleet, follower_id) is not None

    async def _ready(self, follower_id: str, wait: float) -> GatewaySupervisor:
        supervisor = await await_ready(self._fleet, follower_id, wait)
        if supervisor is not None and self._is_ready(follower_id):
            return supervisor
        if supervisor is None:
            faulty = self._fleet.roster.faulty.get(follower_id)
            if faulty is not None:
                raise GatewayDownError(follower_id, "invalid", faulty.fault, None)
            raise GatewayNotReadyError(follower_id, "queued", "The followers were not read yet.", None)
        seen = snapshot(supervisor)
        kind = GatewayDownError if is_down(supervisor) else GatewayNotReadyError
        raise kind(follower_id, seen.state.value, seen.reason, seen.next_action)

    async def _endpoint(self, supervisor: GatewaySupervisor, place: ClientPlace) -> Endpoint:
        """Where this caller reaches the gateway's API."""
        gateway = supervisor.facts.gateway_view.gateway
        if gateway is None or gateway.endpoint is None:
            seen = snapshot(supervisor)
            raise GatewayNotReadyError(supervisor.follower_id, seen.state.value, seen.reason, seen.next_action)
        if place.is_here:
            return await self._services.runtime.reach(gateway)
        if not _is_loopback(gateway.endpoint.host):
            return gateway.endpoint
        gate = _reached_from_containers(self._services.runtime)
        found = await gate.endpoint_for(gateway, place.address) if gate is not None and place.address else None
        if found is not None:
            return found
        raise ClientOutOfReachError(supervisor.follower_id, place.address)

    def _leased(
        self, lease: ClientLease, expires: datetime, supervisor: GatewaySupervisor | None, endpoint: Endpoint | None
    ) -> LeasedClient:
        found = self._found(lease.follower_id, supervisor, endpoint)
        return LeasedClient(**found, lease=lease.id, client_id=lease.client_id, expires=expires)

    def _found(
        self, follower_id: str, supervisor: GatewaySupervisor | None, endpoint: Endpoint | None
    ) -> dict[str, Any]:
        """What is told of a gateway; without an endpoint, why there is none."""
        seen = snapshot(supervisor) if supervisor is not None else None
        gateway = supervisor.facts.gateway_view.gateway if supervisor is not None else None
        if supervisor is None or seen is None or gateway is None or endpoint is None:
            return {
                "follower_id": follower_id,
                "ready": False,
                "is_down": supervisor is None or is_down(supervisor),
                "reason": seen.reason if seen is not None else "There is no such follower now.",
                "reason_code": seen.reason_code if seen is not None else None,
            }
        options = supervisor.facts.spec.options if supervisor.facts.spec is not None else self._services.options
        return {
            "follower_id": follower_id,
            "ready": True,
            "host": endpoint.host,
            "port": endpoint.port,
            "account": _account(supervisor, seen),
            "accounts": seen.accounts,
            "trading_mode": seen.trading_mode,
            "read_only": bool(options.read_only_api),
            "serial": serial_of(gateway),
        }


def ready_client(fleet: Fleet, follower_id: str) -> Any | None:
    """The connected client of a gateway that is ready."""
    client: Any = fleet.ready.get(follower_id)
    return client if client is not None and client.isConnected() else None


def is_down(supervisor: GatewaySupervisor) -> bool:
    """Whether waiting for it is no use: STOPPED, FAILED, or held back by IBKR's reset hours."""
    return supervisor.state.status in (GatewayStatus.STOPPED, GatewayStatus.FAILED) or supervisor.waits_for_reset


async def await_ready(fleet: Fleet, follower_id: str, seconds: float) -> GatewaySupervisor | None:
    """Wait until there is a connected client, or waiting for one is no use; None where nobody supervises such a gateway.

    Raises:
        UnknownFollowerError: no record has this id.
        NotStartedError: the manager has ended meanwhile.

    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        async with asyncio.timeout(seconds):
            await fleet.roster.known.wait()
    except TimeoutError:
        return None
    supervisor = known_supervisor(fleet, follower_id)
    if supervisor is None:
        return None

    def decided() -> bool:
        return is_down(supervisor) or ready_client(fleet, follower_id) is not None

    await supervisor.facts.requests.answered(0, decided, timeout=max(0.0, deadline - loop.time()))
    return supervisor


def must_be_in(fleet: Fleet | None, follower_id: str, required: TradingMode | None) -> None:
    """Raise `WrongTradingModeError` where the gateway is known to be in the other mode than required."""
    supervisor = fleet.supervisors.get(FollowerId(follower_id)) if required is not None and fleet is not None else None
    mode = trading_mode(supervisor) if supervisor is not None else None
    if required is not None and mode not in (None, required):
        raise WrongTradingModeError(follower_id, required=required.value, is_in=mode.value)


def known_supervisor(fleet: Fleet, follower_id: str) -> GatewaySupervisor | None:
    """The supervisor; None for a record that can't be used, or before the followers were read. Raises `UnknownFollowerError`."""
    supervisor = fleet.supervisors.get(FollowerId(follower_id))
    if supervisor is None and follower_id not in fleet.roster.faulty and fleet.roster.known.is_set():
        raise UnknownFollowerError(follower_id, {*fleet.supervisors, *fleet.roster.faulty})
    return supervisor


def serial_of(gateway: Gateway) -> str:
    """Names this life of this container, for every manager alike."""
    return hashlib.sha256(f"{gateway.container_id} {gateway.started_at}".encode()).hexdigest()[:12]


def _account(supervisor: GatewaySupervisor, seen: GatewaySnapshot) -> str | None:
    follower = supervisor.facts.follower
    if follower is not None and follower.account is not None:
        return follower.account
    return seen.accounts[0] if len(seen.accounts) == 1 else None


def _reached_from_containers(runtime: GatewayRuntime) -> ReachedFromContainers | None:
    """The same runtime, where it can do so; by the name of what it can, since it may stand behind what times its calls."""
    return cast("ReachedFromContainers", runtime) if hasattr(runtime, "endpoint_for") else None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
