"""One container: an order that became a simulated gateway, from its creation to its exit code.

    created --attach--> created, with its secret --start--> running <--> paused
                                                               |            |
                                                               +--> exited <+

It starts once: its secret is used up by then, as standard input is. It knows its gateway, and nothing of sockets, of other
containers and of who asks.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from spreadpilot_core.ibkr.simulator.engine.feed import Feed
from spreadpilot_core.ibkr.simulator.engine.guard import LOGIN_LOOP, LoginGuard
from spreadpilot_core.ibkr.simulator.engine.refusals import Code, Refused
from spreadpilot_core.ibkr.simulator.engine.script_book import CONTROLLERS, Part
from spreadpilot_core.ibkr.simulator.gateway import SimulatedGateway
from spreadpilot_core.ibkr.simulator.image_rules import filled, java_properties
from spreadpilot_core.ibkr.simulator.outer_port import PublishedPort

KILLED = 137
"""Exit code of a killed container."""
_LINES_KEPT = 2_000
_LONGEST_LINE = 4_096
_PROGRAM_FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a container is made from. All but `user` and the gateway's own options come back as labels."""

    identity: str = ""
    """Of the manager that has it made; a caller that names none is known by its owner's name."""
    launch_id: str = ""
    user_digest: str = ""
    """What other managers are told of its user."""

    owner: str
    name: str
    follower_id: str
    host_port: int
    client_id: int
    trading_mode: str
    spec_digest: str
    controller: str
    image: str
    user: str = ""
    read_only: bool = False
    time_zone: str = "Etc/UTC"
    auto_restart_time: str | None = None
    existing_session_action: str = "primary"
    reset_hours: str = ""
    logins_left: int = 2
    """How many of its logins may fail before its guard ends it."""

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Order:
        """Check what came over the wire. Raises `Refused`."""
        known = {field.name for field in fields(cls)}
        try:
            order = cls(**{name: value for name, value in found.items() if name in known})
        except TypeError as error:
            raise Refused("bad_request", f"The order is incomplete: {error}.") from error
        if order.identity == "":
            order = replace(order, identity=str(order.owner))
        for name, kind in _KINDS.items():
            if type(value := getattr(order, name)) is not kind:
                raise Refused("bad_request", f"The order's {name} is {value!r}, but must be a {kind.__name__}.")
        if order.controller not in CONTROLLERS or order.trading_mode not in ("paper", "live"):
            raise Refused(
                "bad_request", f"There is no {order.controller!r} gateway for {order.trading_mode!r} trading."
            )
        return order

    @property
    def labels(self) -> dict[str, Any]:
        """What lists and inspections tell of it."""
        return {name: getattr(self, name) for name in _LABELS}


_LABELS = (
    *("identity", "launch_id", "user_digest"),
    *("owner", "name", "follower_id", "host_port", "client_id", "trading_mode", "spec_digest", "controller", "image"),
    "reset_hours",
)
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(_LABELS, str),
    **dict.fromkeys(("host_port", "client_id", "logins_left"), int),
    **dict.fromkeys(("user", "time_zone", "existing_session_action"), str),
    "read_only": bool,
}


MakePort = Callable[[ApiServer, Callable[[], None]], PublishedPort]
"""Makes the published port of a gateway, as `SimulatedGateway` takes it."""


class Logins(Protocol):
    """IBKR's side of the count."""

    def note(self, user: str, **facts: str) -> None:
        """Credentials of this user were typed, now."""


class Container:
    """One container; its engine is told of every change of its state."""

    def __init__(
        self, order: Order, changed: Callable[[Container, str], None], logins: Logins, make_port: MakePort
    ) -> None:
        self.id = secrets.token_hex(32)
        self.order = order
        self.state = "created"
        self.started_at: datetime | None = None
        self.exit_code: int | None = None
        self.is_restarted = False
        """It was started again, without a secret."""
        self.log: Feed[str] = Feed(keep=_LINES_KEPT)
        self.has_secret_file = False
        self._changed = changed
        self._logins = logins
        self._make_port = make_port
        self._guard = LoginGuard(order.controller, order.logins_left)
        self._looped = False
        self._secret: bytes | None = None
        self._door_used = False
        self._gateway: SimulatedGateway | None = None
        self._life: asyncio.Task[None] | None = None
        self._terminated = False
        self._killed = False

    # ------------------------------------------------------------------ its secret

    def open_door(self) -> None:
        """Let one deliverer in: standard input is attached once. Raises `Refused`."""
        if self.state != "created" or self._door_used:
            raise Refused("wrong_state", f"The container {self.order.name} takes no secret any more.")
        self._door_used = True

    def take_secret(self, secret: bytes) -> None:
        """What came through the door, whole."""
        self._secret = secret

    def forget_secret(self) -> None:
        """Remove the password file; harmless when repeated."""
        self.has_secret_file = False

    # ------------------------------------------------------------------ its life

    def start(self, part: Part) -> None:
        """Start the gateway as `part` says; running already: fine. Raises `Refused`, also when the port is taken."""
        if self.state in ("running", "paused"):
            return
        if self.state != "created":
            raise Refused("wrong_state", f"The container {self.order.name} has ended; it starts once.")
        if self._secret is None:
            raise Refused("no_secret", f"The container {self.order.name} waits for its secret and can't start without.")
        self._gateway = self._make_gateway(part)
        password, self._secret = _as_typed(self._secret, self.order), None
        self.has_secret_file = True
        self.state = "running"
        self.started_at = datetime.now(UTC)
        self._life = asyncio.create_task(self._live(self._gateway, password), name=f"container {self.order.name}")
        self._changed(self, "started")

    async def restart(self) -> None:
        """End it and start it again, as `docker restart` does: it waits for a secret that never comes again."""
        if self.state == "created":
            raise Refused("wrong_state", f"The container {self.order.name} never ran.")
        await self.stop(1)
        self.state, self.exit_code, self.is_restarted = "running", None, True
        self.started_at, self._gateway, self.has_secret_file = datetime.now(UTC), None, False
        self.log = Feed(keep=_LINES_KEPT)
        self._terminated = self._killed = False
        self._life = asyncio.create_task(self._wait_for_secret(), name=f"container {self.order.name}")
        self._changed(self, "started")

    def pause(self) -> None:
        """Freeze it (SIGSTOP-like): nothing moves until `unpause`. Raises `Refused`."""
        self.gateway("running").inject("freeze")
        self.state = "paused"
        self._changed(self, "paused")

    def unpause(self) -> None:
        """Let it go on. Raises `Refused`."""
        self.gateway("paused").inject("thaw")
        self.state = "running"
        self._changed(self, "resumed")

    def gateway(self, *states: str) -> SimulatedGateway:
        """The gateway in it, which is in one of `states`. Raises `Refused`."""
        if self._gateway is None or self.state not in states:
            raise Refused("wrong_state", f"The container {self.order.name} is {self.state}.")
        return self._gateway

    @property
    def runs_gateway(self) -> bool:
        """Whether a gateway runs in it, frozen or not."""
        return self._gateway is not None and self.state in ("running", "paused")

    def kill(self) -> None:
        """SIGKILL; ended already: fine."""
        if self._life is not None and not self._killed:
            self._killed = True
            # After the life's first step: a task cancelled before it would leave the port open and no exit code.
            asyncio.get_running_loop().call_soon(self._life.cancel)

    async def stop(self, grace: float) -> None:
        """SIGTERM, after `grace` seconds SIGKILL; returns when it has ended. Of several callers the hastiest wins."""
        if self._life is None or self.state == "exited":
            return
        if grace > 0 and not (self._terminated or self._killed):
            self._terminated = True
            if self.state == "paused":  # as a container engine does: what is paused could not obey
                self.unpause()
            if self._gateway is None:
                self.kill()
            else:
                self.gateway("running").terminate()
        kill = asyncio.get_running_loop().call_later(grace, self.kill)
        try:
            await asyncio.wait([self._life])
        finally:
            kill.cancel()

    def describe(self) -> dict[str, Any]:
        """Labels, user and state, as plain data; no secret."""
        return {
            "id": self.id,
            **self.order.labels,
            "user": self.order.user,
            "state": self.state,
            "started_at": self.started_at.isoformat() if self.started_at is not None else None,
            "exit_code": self.exit_code,
            "restarted": self.is_restarted and self.state != "exited",
            "secret_file": self.has_secret_file,
        }

    def describe_to_others(self) -> dict[str, Any]:
        """What other managers are told of it."""
        told = ("name", "identity", "follower_id", "host_port", "user_digest")
        return {"id": self.id, "state": self.state, **{name: getattr(self.order, name) for name in told}}

    def _make_gateway(self, part: Part) -> SimulatedGateway:
        order = self.order
        try:
            gateway = SimulatedGateway(
                user=order.user,
                trading_mode=order.trading_mode,
                controller=order.controller,
                port=order.host_port,
                read_only=order.read_only,
                time_zone=order.time_zone,
                auto_restart_time=order.auto_restart_time,
                existing_session_action=order.existing_session_action,
                reset_hours=order.reset_hours,
                accounts=part.accounts,
                script=part.script,
                timings=part.timings,
                server_version=part.server_version,
                password_sha256=part.password_sha256,
                on_line=self._take_line,
                on_typed=self._note_login,
                make_port=self._make_port,
            )
            gateway.api.exchange = part.open_books(gateway.api.exchange)
            gateway.bind()
        except ValueError as error:
            raise Refused("failed", f"The gateway can't be made: {error}.") from error
        except OSError as error:
            code: Code = "port_taken" if error.errno == errno.EADDRINUSE else "failed"
            sentence = f"Host port {order.host_port} can't be published: {error.strerror}."
            raise Refused(code, sentence, port=order.host_port) from error
        return gateway

    async def _live(self, gateway: SimulatedGateway, password: str) -> None:
        await self._end_with(gateway.run(password))

    async def _wait_for_secret(self) -> None:
        await self._end_with(asyncio.Event().wait())

    async def _end_with(self, life: Coroutine[Any, Any, int]) -> None:
        try:
            self.exit_code = await life
        except asyncio.CancelledError:
            self.exit_code = self._killed_code()
        except Exception as error:  # noqa: BLE001  # the boundary of one gateway: the others go on
            self._take_line(f"the simulated gateway failed: {error!r}")
            self.exit_code = _PROGRAM_FAILED
        self.state = "exited"
        self.log.close()
        self._changed(self, "died")

    def _take_line(self, line: str) -> None:
        self.log.append(line[:_LONGEST_LINE])
        if self._guard.sees_loop(line) and self._gateway is not None and not self._gateway.api_is_open:
            self._looped = True
            self.kill()

    def _killed_code(self) -> int:
        if not self._looped:
            return KILLED
        typed = self._guard.typed
        were = "login was" if typed == 1 else "logins were"
        self.log.append(f"gateway-manager: {typed} {were} typed, none completed: the container is ended")
        return LOGIN_LOOP

    def _note_login(self) -> None:
        self._logins.note(self.order.user, container=self.id, follower=self.order.follower_id, owner=self.order.owner)


def _as_typed(secret: bytes, order: Order) -> str:
    """What reaches IBKR's login form of what was delivered: each controller reads its file by rules of its own."""
    if order.controller == "ibc":
        return java_properties(b"IbPassword=" + secret)["IbPassword"]
    settings = {"program": "gateway", "trading_mode": order.trading_mode, "userid": order.user}
    return filled(secret.decode(errors="replace").strip(), settings)
