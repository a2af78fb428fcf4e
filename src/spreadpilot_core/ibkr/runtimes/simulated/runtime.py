"""The embedded runtime: simulated gateways in a host process of their own, for the demo, try-outs and tests.

The host (see `simulator.host`) is to this adapter what the Docker Engine is to its sibling: it survives the manager, so
that detaching, adopting and a killed manager mean the same as with containers. It is started on demand, once for each
directory. When it dies its gateways are gone with it, without an event: the next call starts an empty one, `changes` says
None, and whoever lists then finds nothing.

Managers with different identities may share a directory as they may share an engine. What is to go wrong
with a follower's gateway is said in the directory's `scripts.json` (see `simulator.engine.script_book`), by `script`, or at
run time by `inject`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.errors import (
    LaunchError,
    PortTakenError,
    RuntimeUnavailableError,
    UserTakenError,
)
from spreadpilot_core.ibkr.model.figures import ContainerFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import (
    Controller,
    DeliveryTarget,
    Endpoint,
    ForeignGateway,
    Gateway,
    GatewaySpec,
    LastWords,
)
from spreadpilot_core.ibkr.model.records import NOBODY, ContainerId, Identities
from spreadpilot_core.ibkr.runtimes.create_then_start import create_then_start
from spreadpilot_core.ibkr.runtimes.host_ports import PortLeases, endpoint_of
from spreadpilot_core.ibkr.runtimes.identity import read_note
from spreadpilot_core.ibkr.runtimes.simulated import answers
from spreadpilot_core.ibkr.runtimes.simulated.host import Answer, HostClient
from spreadpilot_core.ibkr.runtimes.simulator_containers import (
    checked,
    controller_named,
    foreign_from,
    gateway_from,
    name_taken,
    order_of,
)
from spreadpilot_core.ibkr.seams import CommitLogin, DeliverSecret, unguarded
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.tasks import Backoff
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_AFTER_THE_GRACE = 30.0
"""Seconds a removal may take beyond its grace."""
_GUARDED = frozenset({"create", "start", "remove"})
_FIRST_RECONNECT = 0.1
_LAST_RECONNECT = 5.0
"""Seconds between tries to subscribe again: doubling from the first to the last."""


class SimulatedRuntime:
    """Fulfils `seams.GatewayRuntime` with simulated gateways."""

    def __init__(
        self,
        directory: Path,
        *,
        owner: str,
        manager_id: str,
        may_start: bool = True,
        identities: Identities = NOBODY,
        ports: PortLeases | None = None,
    ) -> None:
        self.ports = ports or PortLeases()
        self.directory = directory
        """Where its host is."""
        self.owner = owner
        """How the names of its containers begin; without an identity it is known by this."""
        self._host = HostClient(directory, owner=owner, manager_id=manager_id, may_start=may_start)
        self.identities = identities
        self._settings: Settings | None = None
        """Whose state directory notes the identity, while nobody has checked it."""
        self.foreign: Sequence[ForeignGateway] = ()
        self._closing = asyncio.Event()
        self._reset_hours: dict[FollowerId, str] = {}
        self.guard: Callable[[], None] = unguarded

    @classmethod
    def from_settings(cls, settings: Settings, *, manager_id: str, may_start: bool = True) -> SimulatedRuntime:
        """The runtime in `simulated_dir` of the manager that `state_dir` belongs to, whose identity that notes.

        `manager_id` goes into the operations' trail.
        """
        made = cls(
            settings.simulated_dir,
            owner=settings.container_prefix,
            manager_id=manager_id,
            may_start=may_start,
            ports=PortLeases(settings.port_range_start, settings.port_range_end),
        )
        made._settings = settings
        return made

    @property
    def identities(self) -> Identities:
        """Whose containers these are."""
        return self._identities

    @identities.setter
    def identities(self, identities: Identities) -> None:
        self._identities, self._host.identities = identities, identities.all

    async def open(self) -> None:
        """Reach the host, or start it; raises `RuntimeUnavailableError`. May be called again."""
        if self._closing.is_set():  # a new one: streams of before the closing must see that it happened
            self._closing = asyncio.Event()
        self._host.open()
        await self._ask("list")

    async def close(self) -> None:
        """End streams and waiting calls without touching any gateway; safe to call twice and when never opened."""
        self._closing.set()
        self._host.close()

    async def identity(self) -> str:
        """This host and the directory, whose managers share one engine."""
        return f"simulated:{socket.gethostname()}:{await asyncio.to_thread(self.directory.resolve)}"

    async def prepare(self, spec: GatewaySpec) -> Controller:
        """Say which controller the gateway will have: the image's contract where it is given, else the scripts file's."""
        found = checked(answers.PreparedAnswer, await self._ask("prepare", follower_id=spec.follower_id))
        self._reset_hours[spec.follower_id] = found.reset_hours
        return spec.options.image_contract or controller_named(found.controller)

    def waits_for(self, follower_id: FollowerId) -> str | None:  # noqa: ARG002  # the seam's
        """Nothing: a container has its place at once."""
        return None

    def reset_hours(self, follower_id: FollowerId) -> str | None:
        """Those of the scripts file, by default none at all."""
        return self._reset_hours.get(follower_id, "")

    async def list(self) -> Sequence[Gateway]:
        """Every container with an identity of ours, whatever its phase; `foreign` has the others afterwards."""
        before = self.ports.containers
        answer = await self._ask("list")
        self.foreign = answers.foreigners(answers.listed(answer, "foreign"))
        gateways = answers.gateways(answers.listed(answer, "containers"))
        self.ports.listed(gateways, self.foreign, before=before)
        return gateways

    async def inspect(self, container_id: ContainerId) -> Gateway | None:
        """One gateway, or None when it is gone."""
        answer = await self._ask("inspect", fine=("gone",), container=container_id)
        if "error" in answer:
            self.ports.gone(container_id)
            return None
        return gateway_from(answer.get("container"))

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
        """Raises `NameTakenError` when the follower has one already."""
        order = order_of(
            spec,
            owner=self.owner,
            client_id=client_id,
            host_port=host_port,
            controller=await self.prepare(spec),
            reset_hours=self.reset_hours(spec.follower_id),
        )
        answer = await self._ask("create", fine=("user_taken", "name_taken"), order=order)
        match answer.get("error"):
            case "user_taken":
                raise UserTakenError(spec.user, foreign_from(answer.get("other")))
            case "name_taken":
                raise name_taken(str(answer.get("sentence")), answer.get("other"), self.identities)
        made = checked(answers.MadeAnswer, answer.get("container"))
        return DeliveryTarget("simulated", ContainerId(made.id), {"socket": self._host.socket})

    async def _start(self, container_id: ContainerId) -> Gateway:
        """Start it, once. Raises `PortTakenError` when the host port is not free, `LaunchError` without its secret."""
        return gateway_from((await self._ask("start", container=container_id)).get("container"))

    async def remove(self, container_id: ContainerId, *, grace: float) -> LastWords:
        """Stop it (SIGTERM, after `grace` seconds SIGKILL) and remove it; returns when it is gone. Gone already: fine."""
        answer = await self._ask(
            "remove", fine=("gone",), within=grace + _AFTER_THE_GRACE, container=container_id, grace=grace
        )
        self.ports.gone(container_id)
        return answers.last_words(answer)

    async def usage(self, container_id: ContainerId) -> ContainerFigures | None:  # noqa: ARG002  # the seam's
        """Nothing: all simulated gateways are one process."""
        return None

    async def forget_secret(self, container_id: ContainerId) -> None:
        """Remove the password file; harmless when repeated, when gone, or when there is none."""
        await self._ask("forget", fine=("gone",), container=container_id)

    async def changes(self) -> AsyncIterator[ContainerId | None]:
        """Each change of our gateways from the first `anext` on, None first and after each reconnect, until `close`."""
        closing, backoff = self._closing, Backoff(_FIRST_RECONNECT, _LAST_RECONNECT)
        while not closing.is_set():
            try:
                async with self._host.connection() as connection:
                    _checked(await connection.ask({"op": "events"}, within=_AFTER_THE_GRACE))
                    yield None
                    backoff.reset()
                    while (sent := await connection.read()) is not None:
                        yield answers.changed(sent)
            except RuntimeUnavailableError as error:
                log.debug("simulated host away", reason=error.what)
            await _is_set_within(closing, backoff.next())

    async def stored_lines(self, gateway: Gateway) -> range:
        """The numbers of the lines that the host keeps of this life's log."""
        size = await self._ask("log_size", fine=("gone",), container=gateway.container_id)
        there = checked(answers.LogSizeAnswer, size)
        return range(there.first, there.next)

    async def log(self, gateway: Gateway, *, since: int = 0) -> AsyncGenerator[str, None]:
        """The log lines of this life from its start (or number `since`), then live; ends with it, or when closed."""
        closing, number = self._closing, since
        while not closing.is_set():
            async with self._host.connection() as connection:
                request = {"op": "log", "container": gateway.container_id, "from": number}
                answer = await connection.ask(request, within=_AFTER_THE_GRACE)
                if answer.get("error") == "gone":
                    return
                _checked(answer)
                while (sent := await connection.read()) is not None:
                    if "line" not in sent:
                        return
                    said = checked(answers.LineAnswer, sent)
                    number = said.number + 1
                    yield said.line
            # Cut in the middle: the host ended, and the gateway with it, or only this connection did.

    async def reach(self, gateway: Gateway) -> Endpoint:
        """Its endpoint: it is published on this host."""
        return endpoint_of(gateway)

    # ------------------------------------------------------------------ what only a simulation can do

    async def inject(self, follower_id: FollowerId, fault: str, **arguments: Any) -> None:
        """Make a fault happen now in the follower's gateway; while none runs, a fault of the login at its next start.

        Raises `LaunchError` with the known names and arguments (see `simulator.faults`).
        """
        await self._ask("inject", follower_id=follower_id, fault=fault, arguments=arguments)

    async def script(
        self, follower_id: FollowerId, laps: Sequence[Mapping[str, Any]] | None = None, **choices: Any
    ) -> None:
        """Say what is to go wrong in the follower's next starts, one mapping of faults for each (`simulator.script`).

        `choices` are `accounts`, `timings`, `controller` and `server_version` as in `scripts.json`. Counts from the next
        start on, until the host ends.
        """
        entry = {**choices, **({} if laps is None else {"laps": [dict(lap) for lap in laps]})}
        await self._ask("script", follower_id=follower_id, entry=entry)

    async def pause(self, follower_id: FollowerId) -> None:
        """Freeze the follower's gateway, as `docker pause` does."""
        await self._ask("pause", follower_id=follower_id)

    async def resume(self, follower_id: FollowerId) -> None:
        """Let a paused gateway go on."""
        await self._ask("resume", follower_id=follower_id)

    async def kill(self, follower_id: FollowerId) -> None:
        """Kill the follower's gateway; its container stays, exited with 137."""
        await self._ask("kill", follower_id=follower_id)

    async def restart(self, follower_id: FollowerId) -> None:
        """End the follower's container and start it again, as `docker restart` does; it waits for a secret then."""
        await self._ask("restart", follower_id=follower_id)

    async def ask_host(self, operation: str, /, **arguments: Any) -> Mapping[str, Any]:
        """A request of the host's own, for tests: `answer_late`, `drop_streams`, `shutdown` (see `simulator.engine.language`)."""
        return _checked(await self._host.ask({**arguments, "op": operation}, within=_AFTER_THE_GRACE))

    # ------------------------------------------------------------------

    async def _ask(
        self, operation: str, /, *, fine: Sequence[str] = (), within: float = _AFTER_THE_GRACE, **arguments: Any
    ) -> Answer:
        if self._settings is not None and not self.identities.own:
            noted = await asyncio.to_thread(read_note, self._settings)
            self.identities = self.identities if noted is None else noted
        guard = self.guard if operation in _GUARDED else unguarded
        answer = await self._host.ask({"op": operation, **arguments}, within=within, guard=guard)
        return answer if answer.get("error") in fine else _checked(answer)


async def _is_set_within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _checked(answer: Answer) -> Answer:
    match answer.get("error"):
        case None:
            return answer
        case "port_taken" if isinstance(port := answer.get("port"), int):
            raise PortTakenError(port)
        case _:
            raise LaunchError(str(answer.get("sentence")))
