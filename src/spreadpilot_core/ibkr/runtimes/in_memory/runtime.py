"""Fulfils `seams.GatewayRuntime` in memory, in two shapes.

InMemoryRuntime   as on Docker: a container runs nothing before its start, and is published on a port of this host
InMemoryPods      as on Kubernetes: a pod runs while it waits for its password, has an address of its own, and its end
is confirmed by its node, late or never
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from spreadpilot_core.ibkr.errors import (
    DeliveryExpiredError,
    GatewayManagerError,
    LaunchError,
    PortTakenError,
    RuntimeUnavailableError,
    UserTakenError,
)
from spreadpilot_core.ibkr.model.figures import ContainerFigures
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import (
    Controller,
    DeliveryTarget,
    Endpoint,
    ForeignGateway,
    Gateway,
    GatewayPhase,
    GatewaySpec,
    LastWords,
)
from spreadpilot_core.ibkr.model.records import NOBODY, ContainerId, Identities
from spreadpilot_core.ibkr.runtimes.create_then_start import create_then_start
from spreadpilot_core.ibkr.runtimes.host_ports import NoHostPorts, PortLeases, endpoint_of
from spreadpilot_core.ibkr.runtimes.in_memory.engine import InMemoryEngine
from spreadpilot_core.ibkr.runtimes.simulator_containers import (
    controller_named,
    foreign_from,
    gateway_from,
    name_taken,
    order_of,
)
from spreadpilot_core.ibkr.seams import CommitLogin, DeliverSecret, HostPorts, unguarded
from spreadpilot_core.ibkr.simulator.engine.container import Container, Order
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused

SENDER: Final = "in_memory"
"""No courier has it: whoever delivers here calls `InMemoryEngine.deliver`."""
_API_PORTS = {TradingMode.LIVE: 4001, TradingMode.PAPER: 4002}
CONFIRMED_WITHIN = 60.0
"""Seconds beyond its grace that a removal waits for a node to confirm the end."""


@contextlib.contextmanager
def _refusals(user: str = "", identities: Identities = NOBODY) -> Iterator[None]:
    """What the simulator's engine refuses, in this package's errors."""
    try:
        yield
    except Refused as refused:
        raise _error(refused, user, identities) from refused


def _error(refused: Refused, user: str, identities: Identities) -> GatewayManagerError:
    facts: dict[str, Any] = refused.facts
    match refused.code:
        case "name_taken":
            return name_taken(refused.sentence, facts.get("other"), identities)
        case "user_taken":
            return UserTakenError(user, foreign_from(facts["other"]))
        case "port_taken":
            return PortTakenError(facts["port"])
        case _:
            return LaunchError(refused.sentence)


class _InMemory:
    """What both shapes do alike."""

    def __init__(self, engine: InMemoryEngine, *, owner: str, identities: Identities = NOBODY) -> None:
        self.engine = engine
        self.owner = owner
        self.identities = identities
        self.foreign: Sequence[ForeignGateway] = ()
        self.guard: Callable[[], None] = unguarded
        self._is_open = False

    async def open(self) -> None:
        """Reach the engine."""
        self._is_open = True
        await self._reach_engine()

    async def close(self) -> None:
        """End streams without touching any gateway."""
        self._is_open = False
        self.engine.wake()

    async def identity(self) -> str:
        """The engine's name."""
        await self._reach_engine()
        return f"in_memory:{self.engine.name}"

    async def prepare(self, spec: GatewaySpec) -> Controller:
        """The image's contract where it is given, else the script's."""
        await self._reach_engine()
        with _refusals():
            return spec.options.image_contract or controller_named(
                self.engine.simulator.scripts.controller(spec.follower_id)
            )

    def reset_hours(self, follower_id: FollowerId) -> str | None:
        """The script's, by default none at all."""
        return self.engine.simulator.scripts.reset_hours(follower_id)

    def waits_for(self, follower_id: FollowerId) -> str | None:  # noqa: ARG002  # the seam's
        """Nothing: nobody says so."""
        return None

    async def inspect(self, container_id: ContainerId) -> Gateway | None:
        """One gateway, or None when it is gone or another manager's."""
        await self._reach_engine()
        container = self._find(container_id)
        return self._gateway(container) if container is not None else None

    async def usage(self, container_id: ContainerId) -> ContainerFigures | None:  # noqa: ARG002  # the seam's
        """It has no figures."""
        await self._reach_engine()
        return None

    async def forget_secret(self, container_id: ContainerId) -> None:
        """Remove the password file."""
        await self._reach_engine()
        if (container := self._find(container_id)) is not None:
            container.forget_secret()

    async def changes(self) -> AsyncIterator[ContainerId | None]:
        """Each change of ours; None first, and when the engine is back."""
        events = self.engine.simulator.events
        while self._is_open:
            if self.engine.is_away:
                await events.changed.wait()
                continue
            number = events.next
            yield None
            while self._reaches_engine:
                changed = events.changed
                for event in events.last(events.next - number):
                    number += 1
                    if event["identity"] in self.identities.all:
                        yield ContainerId(event["container_id"])
                if number == events.next:
                    await changed.wait()

    async def log(self, gateway: Gateway) -> AsyncIterator[str]:
        """The lines of this life."""
        await self._reach_engine()
        container = self._find(gateway.container_id)
        if container is None:
            return
        feed, number = container.log, 0
        while self._reaches_engine:
            changed = feed.changed
            for line in feed.last(feed.next - number):
                number += 1
                yield line
            if feed.closed and number == feed.next:
                return
            if number == feed.next:
                await changed.wait()
        if self._is_open:
            raise RuntimeUnavailableError("The engine in memory went away.")

    async def reach(self, gateway: Gateway) -> Endpoint:
        """Its endpoint: made-up addresses are reached from here."""
        return endpoint_of(gateway)

    async def _list(self) -> list[Gateway]:
        await self._reach_engine()
        self.foreign = [self._foreign(each) for each in self.engine.simulator.others(self.identities.all)]
        return [self._gateway(each) for each in self.engine.simulator.find(self.identities.all)]

    async def _make(self, spec: GatewaySpec, client_id: int, host_port: int, controller: Controller) -> Container:
        order = order_of(
            spec,
            owner=self.owner,
            client_id=client_id,
            host_port=host_port,
            controller=controller,
            reset_hours=self.reset_hours(spec.follower_id),
        )
        self.guard()
        with _refusals(spec.user, self.identities):
            return await self.engine.create(
                Order.from_json({**order, "identity": self.identities.own, "owner": self.owner})
            )

    def _find(self, container_id: ContainerId) -> Container | None:
        with contextlib.suppress(Refused):
            return self.engine.simulator.get(container_id, self.identities.all)
        return None

    def _gateway(self, container: Container) -> Gateway:
        return gateway_from(container.describe())

    def _foreign(self, container: Container) -> ForeignGateway:
        return foreign_from(container.describe_to_others())

    async def _reach_engine(self) -> None:
        await asyncio.sleep(0)
        if not self._reaches_engine:
            raise RuntimeUnavailableError("The engine in memory can't be reached.")

    @property
    def _reaches_engine(self) -> bool:
        return self._is_open and not self.engine.is_away


class InMemoryRuntime(_InMemory):
    """Shaped like Docker."""

    def __init__(
        self,
        engine: InMemoryEngine,
        *,
        owner: str,
        identities: Identities = NOBODY,
        ports: PortLeases | None = None,
    ) -> None:
        """`ports` must ask the engine's network what is free."""
        super().__init__(engine, owner=owner, identities=identities)
        self.ports = ports or PortLeases(is_free=engine.network.is_free)

    async def list(self) -> Sequence[Gateway]:
        """Every container of ours; `foreign` has the others afterwards."""
        before = self.ports.containers
        gateways = await self._list()
        self.ports.listed(gateways, self.foreign, before=before)
        return gateways

    async def launch(self, spec: GatewaySpec, client_id: int, *, secret: DeliverSecret, commit: CommitLogin) -> Gateway:
        """Create it, have its password delivered, commit, start."""
        return await create_then_start(
            self.ports,
            spec.follower_id,
            create=partial(self._create, spec, client_id),
            start=self._start,
            discard=lambda container_id: self.remove(container_id, grace=0),
            secret=secret,
            commit=commit,
        )

    async def _create(self, spec: GatewaySpec, client_id: int, host_port: int) -> DeliveryTarget:
        container = await self._make(spec, client_id, host_port, await self.prepare(spec))
        return DeliveryTarget(SENDER, ContainerId(container.id), {"engine": self.engine.name})

    async def _start(self, container_id: ContainerId) -> Gateway:
        await self._reach_engine()
        self.guard()
        with _refusals():
            container = self.engine.simulator.get(container_id, self.identities.all)
            self.engine.simulator.start(container)
        await asyncio.sleep(0)
        return self._gateway(container)

    async def remove(self, container_id: ContainerId, *, grace: float) -> LastWords:
        """Stop and remove it; returns when it is gone."""
        await self._reach_engine()
        container, words = self._find(container_id), LastWords(None, ())
        if container is not None:
            self.guard()
            left = await self.engine.simulator.remove(container, grace)
            words = LastWords(left.exit_code, tuple(left.lines))
        self.ports.gone(container_id)
        return words


class InMemoryPods(_InMemory):
    """Shaped like Kubernetes."""

    def __init__(
        self,
        engine: InMemoryEngine,
        *,
        owner: str,
        identities: Identities = NOBODY,
        confirmed_after: float = 0.0,
    ) -> None:
        """`confirmed_after`: seconds until a node that answers confirms an end."""
        super().__init__(engine, owner=owner, identities=identities)
        self.ports: HostPorts = NoHostPorts()
        self._confirmed_after = confirmed_after

    async def list(self) -> Sequence[Gateway]:
        """Every pod of ours; `foreign` has the others afterwards."""
        return await self._list()

    async def launch(self, spec: GatewaySpec, client_id: int, *, secret: DeliverSecret, commit: CommitLogin) -> Gateway:
        """Create it, wait until it runs and waits for its password, commit, have that delivered."""
        controller = await self.prepare(spec)
        pod = await self._make(spec, client_id, self.engine.inner_port(), controller)
        container_id = ContainerId(pod.id)
        self.engine.starts_at_delivery.add(pod.id)
        try:
            await self.engine.scheduler.wait()
            self.engine.place(container_id, _API_PORTS[spec.trading_mode])
            await commit(container_id)
            await self._reach_engine()
            self.guard()
        except Exception:
            with contextlib.suppress(GatewayManagerError):  # it can't log in, and is listed again
                await self.remove(container_id, grace=0)
            raise
        self.engine.committed.add(pod.id)
        try:
            await secret(DeliveryTarget(SENDER, container_id, {"engine": self.engine.name}))
        except DeliveryExpiredError:  # nothing was sent
            self.engine.committed.discard(pod.id)
            raise
        if (gateway := await self.inspect(container_id)) is None:
            raise LaunchError(f"The pod {pod.order.name} was removed by somebody else while it started.")
        return gateway

    async def remove(self, container_id: ContainerId, *, grace: float) -> LastWords:
        """Have it ended, and wait until its node confirms that."""
        await self._reach_engine()
        pod = self._find(container_id)
        if pod is None:
            return LastWords(None, ())
        self.guard()
        try:
            async with asyncio.timeout(grace + CONFIRMED_WITHIN):
                await self.engine.nodes.wait()
                await pod.stop(grace)
                await asyncio.sleep(self._confirmed_after)
                await self.engine.nodes.wait()
        except TimeoutError:
            raise RuntimeUnavailableError(
                f"The end of the pod {pod.order.name} is not confirmed: its node does not answer."
            ) from None
        left = await self.engine.simulator.remove(pod, 0)
        self.engine.places.pop(container_id, None)
        return LastWords(left.exit_code, tuple(left.lines))

    def _gateway(self, container: Container) -> Gateway:
        described = gateway_from(container.describe())
        phase, place = described.phase, self.engine.places.get(container.id)
        if phase is GatewayPhase.AWAITING_SECRET and place is None:
            phase = GatewayPhase.PENDING
        elif phase is GatewayPhase.AWAITING_SECRET and container.id in self.engine.committed:
            phase = GatewayPhase.RUNNING
        return replace(described, phase=phase, endpoint=place)

    def _foreign(self, container: Container) -> ForeignGateway:
        return replace(foreign_from(container.describe_to_others()), host_port=None)
