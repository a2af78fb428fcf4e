"""The embedded runtime: simulated gateways in a host process of their own, for the demo, try-outs and tests.

The host (see `simulator.host`) is to this adapter what the Docker Engine is to its sibling: it survives the manager, so
that detaching, adopting and a killed manager mean the same as with containers. It is started on demand, once for each
directory. When it dies its gateways are gone with it, without an event: the next call starts an empty one, `events` says
`GAP`, and whoever lists then finds nothing.

Managers with different owners (`container_prefix`) may share a directory without seeing each other. What is to go wrong
with a follower's gateway is said in the directory's `scripts.json` (see `simulator.engine.script_book`), by `script`, or at
run time by `inject`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import structlog

from spreadpilot_core.ibkr.errors import LaunchError, NameTakenError, PortTakenError, RuntimeUnavailableError
from spreadpilot_core.ibkr.protocols import (
    ContainerId,
    Created,
    Dialect,
    FollowerId,
    Gateway,
    GatewaySpec,
    LastWords,
    Leases,
    RuntimeEvent,
    RuntimeEventKind,
    RuntimeState,
    TradingMode,
    unguarded,
)
from spreadpilot_core.ibkr.runtimes.simulated_host import Answer, HostClient
from spreadpilot_core.ibkr.settings import Settings

log = structlog.get_logger(__name__)

_AFTER_THE_GRACE = 30.0
"""Seconds a removal may take beyond its grace."""
_GUARDED = frozenset({"create", "start", "remove"})
_FIRST_RECONNECT = 0.1
_LAST_RECONNECT = 5.0
"""Seconds between tries to subscribe again: doubling from the first to the last."""


class SimulatedRuntime:
    """Fulfils `protocols.GatewayRuntime` with simulated gateways."""

    def __init__(self, directory: Path, *, owner: str, manager_id: str, may_start: bool = True) -> None:
        self.directory = directory
        """Where its host is."""
        self.owner = owner
        self._host = HostClient(directory, owner=owner, manager_id=manager_id, may_start=may_start)
        self._closing = asyncio.Event()
        self.guard: Callable[[], None] = unguarded

    @classmethod
    def from_settings(cls, settings: Settings, *, manager_id: str) -> SimulatedRuntime:
        """The runtime in `simulated_dir`; its owner is the container prefix. `manager_id` goes into the operations' trail."""
        return cls(settings.simulated_dir, owner=settings.container_prefix, manager_id=manager_id)

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

    async def engine_id(self) -> str:
        """This host and the directory, whose managers share one engine."""
        return f"simulated:{socket.gethostname()}:{await asyncio.to_thread(self.directory.resolve)}"

    async def prepare(self, spec: GatewaySpec) -> Dialect:
        """Say which controller the gateway will have: the image's contract where it is given, else the scripts file's."""
        if spec.options.image_contract is not None:
            return spec.options.image_contract
        return _dialect((await self._ask("prepare", follower_id=spec.follower_id))["dialect"])

    async def find(self) -> Sequence[Gateway]:
        """Every gateway of this owner, whatever its state."""
        return [_gateway(found) for found in (await self._ask("list"))["containers"]]

    async def inspect(self, container_id: ContainerId) -> Gateway | None:
        """One gateway, or None when it is gone."""
        answer = await self._ask("inspect", gone_is_fine=True, container=container_id)
        return _gateway(answer["container"]) if "container" in answer else None

    async def create(self, spec: GatewaySpec, leases: Leases) -> Created:
        """Create the follower's container. Raises `NameTakenError` when the follower has one already."""
        order = {
            "name": f"{self.owner}-{spec.follower_id}",
            "follower_id": spec.follower_id,
            "host_port": leases.host_port,
            "client_id": leases.client_id,
            "trading_mode": spec.trading_mode.value,
            "spec_digest": spec.digest,
            "dialect": await self.prepare(spec),
            "image": spec.options.image or "",
            "user": spec.user,
            "read_only": bool(spec.options.read_only_api),
            "time_zone": spec.options.time_zone or "Etc/UTC",
            "auto_restart_time": spec.options.auto_restart_time,
            "existing_session_action": spec.options.existing_session_action or "primary",
        }
        made = (await self._ask("create", order=order))["container"]
        door = {"kind": "simulated", "socket": self._host.socket, "container": made["id"]}
        return Created(container_id=ContainerId(made["id"]), name=made["name"], door=door)

    async def start(self, container_id: ContainerId) -> Gateway:
        """Start it, once. Raises `PortTakenError` when the host port is not free, `LaunchError` without its secret."""
        return _gateway((await self._ask("start", container=container_id))["container"])

    async def remove(self, container_id: ContainerId, *, grace: float) -> LastWords:
        """Stop it (SIGTERM, after `grace` seconds SIGKILL) and remove it; returns when it is gone. Gone already: fine."""
        answer = await self._ask(
            "remove", gone_is_fine=True, within=grace + _AFTER_THE_GRACE, container=container_id, grace=grace
        )
        return LastWords(answer.get("exit_code"), tuple(answer.get("lines", ())))

    async def forget_secret(self, container_id: ContainerId) -> None:
        """Remove the password file; harmless when repeated, when gone, or when there is none."""
        await self._ask("forget", gone_is_fine=True, container=container_id)

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """All events of our gateways from the first `anext` on, `GAP` first and after each reconnect, until `close`."""
        closing, pause = self._closing, _FIRST_RECONNECT
        while not closing.is_set():
            try:
                async with self._host.connection() as connection:
                    _checked(await connection.ask({"op": "events"}, within=_AFTER_THE_GRACE))
                    yield RuntimeEvent(RuntimeEventKind.GAP)
                    pause = _FIRST_RECONNECT
                    while (told := await connection.read()) is not None:
                        yield _event(told)
            except RuntimeUnavailableError as error:
                log.debug("simulated host away", reason=error.what)
            await _is_set_within(closing, pause)
            pause = min(2 * pause, _LAST_RECONNECT)

    async def kept_lines(self, gateway: Gateway) -> range:
        """The numbers of the lines that the host keeps of this life's log."""
        kept = await self._ask("log_size", gone_is_fine=True, container=gateway.container_id)
        return range(kept.get("first", 0), kept.get("next", 0))

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
                while (told := await connection.read()) is not None:
                    if "line" not in told:
                        return
                    number = told["number"] + 1
                    yield told["line"]
            # Cut in the middle: the host ended, and the gateway with it, or only this connection did.

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

        `choices` are `accounts`, `timings`, `dialect` and `server_version` as in `scripts.json`. Counts from the next
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

    async def ask_host(self, operation: str, /, **arguments: Any) -> Mapping[str, Any]:
        """A request of the host's own, for tests: `answer_late`, `drop_streams`, `shutdown` (see `simulator.engine.language`)."""
        return _checked(await self._host.ask({**arguments, "op": operation}, within=_AFTER_THE_GRACE))

    # ------------------------------------------------------------------

    async def _ask(
        self, operation: str, /, *, gone_is_fine: bool = False, within: float = _AFTER_THE_GRACE, **arguments: Any
    ) -> Answer:
        guard = self.guard if operation in _GUARDED else unguarded
        answer = await self._host.ask({"op": operation, **arguments}, within=within, guard=guard)
        if gone_is_fine and answer.get("error") == "gone":
            return {}
        return _checked(answer)


async def _is_set_within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _checked(answer: Answer) -> Answer:
    match answer.get("error"):
        case None:
            return answer
        case "name_taken":
            raise NameTakenError(answer["sentence"])
        case "port_taken":
            raise PortTakenError(answer["port"])
        case _:
            raise LaunchError(str(answer.get("sentence")))


def _dialect(name: str) -> Dialect:
    for dialect in get_args(Dialect):
        if dialect == name:
            return dialect  # type: ignore[no-any-return]  # get_args gives the literal's values as Any
    raise LaunchError(f"There is no {name!r} gateway.")


def _gateway(found: Mapping[str, Any]) -> Gateway:
    started_at = found["started_at"]
    return Gateway(
        container_id=ContainerId(found["id"]),
        name=found["name"],
        follower_id=FollowerId(found["follower_id"]),
        leases=Leases(host_port=found["host_port"], client_id=found["client_id"]),
        trading_mode=TradingMode(found["trading_mode"]),
        user=found.get("user") or None,
        spec_digest=found["spec_digest"],
        dialect=_dialect(found["dialect"]),
        image=found["image"],
        state=RuntimeState(found["state"]),
        started_at=datetime.fromisoformat(started_at) if started_at is not None else None,
        exit_code=found["exit_code"],
    )


def _event(told: Mapping[str, Any]) -> RuntimeEvent:
    return RuntimeEvent(
        kind=RuntimeEventKind(told["kind"]),
        follower_id=FollowerId(told["follower_id"]),
        container_id=ContainerId(told["container_id"]),
        exit_code=told["exit_code"],
    )
