"""The machinery of one simulated container, as its controller sees it: log, time, signals, published port, API.

A controller walks its container's life as one coroutine: it prints scenes of log text, lets time pass, opens and shuts the
API. Whatever happens meanwhile (SIGTERM, a crash, an injected fault) comes to it out of `wait`. This module knows no log
text and no order of events; those are the controllers'.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn
from zoneinfo import ZoneInfo

from spreadpilot_core.ibkr.simulator import notices, reset_hours
from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from spreadpilot_core.ibkr.simulator.faults import Arguments
from spreadpilot_core.ibkr.simulator.outer_port import PublishedPort
from spreadpilot_core.ibkr.simulator.restarts import Restarts
from spreadpilot_core.ibkr.simulator.script import Lap, Script, Timings
from spreadpilot_core.ibkr.simulator.setup import Setup


class Terminated(Exception):  # noqa: N818  # what happened, not an error
    """SIGTERM came."""


class Killed(Exception):  # noqa: N818  # what happened, not an error
    """The whole container is to end at once, with this exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class ProgramEnded(Exception):  # noqa: N818  # what happened, not an error
    """The gateway's program has ended by itself, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Command:
    """A running fault on its way to the controller."""

    fault: str
    arguments: Arguments


class Machine:
    """What a controller acts on."""

    def __init__(
        self,
        *,
        setup: Setup,
        script: Script,
        timings: Timings,
        api: ApiServer,
        port: PublishedPort,
        on_line: Callable[[str], None],
        on_typed: Callable[[], None],
        on_login: Callable[[Lap], None],
    ) -> None:
        self.setup = setup
        self.script = script
        self.timings = timings
        self.api = api
        self.port = port
        self.lap = Lap()
        """The faults of the present start."""
        self.pid = _FIRST_PID
        """Process id of the gateway's program, as the log says it."""
        self.restarts = Restarts(setup)
        self.credentials_given = False
        self.credentials_right = False
        self.usable = asyncio.Event()
        """Set while an API client is served as it should be."""
        self.tell_typed = on_typed
        """Credentials are on their way to IBKR."""
        self._on_line = on_line
        self._on_login = on_login
        self._zone = ZoneInfo(setup.time_zone)
        self._inbox: deque[Command] = deque()
        self._news = asyncio.Event()
        self._running = asyncio.Event()
        self._running.set()
        self._stopping = False
        self._serves = False
        self._timers: set[asyncio.TimerHandle] = set()

    def look_at(self, password: str) -> None:
        """Learn of the password what is needed, and keep nothing of it."""
        self.credentials_given = bool(self.setup.user and password)
        expected = self.setup.password_sha256
        digest = hashlib.sha256(password.encode()).hexdigest()
        self.credentials_right = expected is None or hmac.compare_digest(digest, expected.lower())

    # ------------------------------------------------------------------ log

    def now(self) -> datetime:
        """The time in the container's zone."""
        return datetime.now(self._zone)

    def print_scene(self, scene: str, **values: object) -> None:
        """Print log text, one line at a time; `{name}` is filled in, and lines that a program stamps get its stamp.

        `{blank}` is a blank at the end of a line.
        """
        for line in (scene.format(blank=" ", **values) if values else scene).splitlines():
            self._on_line(stamped(line, self.now()))

    def resets(self) -> bool:
        """Whether its IBKR resets now: a login is dropped without an answer."""
        return reset_hours.are_now(self.setup.reset_hours, self.now())

    def seconds_to_reset(self) -> float | None:
        """Until its IBKR closes it."""
        return reset_hours.seconds_to_next(self.setup.reset_hours, self.now())

    # ------------------------------------------------------------------ time and what happens meanwhile

    def tell(self, fault: str, arguments: Arguments) -> None:
        """Let the controller know of a running fault."""
        self._inbox.append(Command(fault, arguments))
        if fault == "kill":
            self._running.set()
        self._news.set()

    def freeze(self) -> None:
        """Stand still."""
        self._running.clear()
        self.port.pause()
        self.api.behaviour.frozen = True

    def thaw(self) -> None:
        """Go on."""
        self._running.set()
        self.port.resume()
        self.api.behaviour.frozen = False

    async def pause(self, seconds: float) -> None:
        """Let `seconds` pass. Raises what `wait` raises."""
        await self.wait(seconds=seconds)

    async def for_ever(self) -> NoReturn:
        """Let all time pass. Raises what `wait` raises."""
        while True:
            await self.wait()

    async def wait(self, *faults: str, seconds: float | None = None) -> Command | None:
        """Wait until one of these running faults is there and give it, or None after `seconds`.

        Others stay for later. Raises `Terminated`, `ProgramEnded` or `Killed` when that happens meanwhile.
        """
        loop = asyncio.get_running_loop()
        deadline = None if seconds is None else loop.time() + seconds
        while True:
            await self._running.wait()
            if (command := self._take(faults)) is not None:
                return command
            if deadline is not None and loop.time() >= deadline:
                return None
            self._news.clear()
            timer = None if deadline is None else loop.call_at(deadline, self._news.set)
            try:
                await self._news.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _take(self, faults: Sequence[str]) -> Command | None:
        for command in tuple(self._inbox):
            match command.fault:
                case "kill":
                    raise Killed(command.arguments["exit_code"])
                case "terminate" if not self._stopping:
                    self._inbox.remove(command)
                    self._stopping = True
                    raise Terminated
                case "crash" | "out_of_memory" if not self._stopping:
                    self._inbox.remove(command)
                    raise ProgramEnded(command.arguments.get("exit_code", KILLED))
                case fault if fault in faults:
                    self._inbox.remove(command)
                    return command
        return None

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in `seconds` that nobody in the container does, so that it happens to a frozen one too."""

        def do() -> None:
            self._timers.discard(timer)
            action()

        timer = asyncio.get_running_loop().call_later(seconds, do)
        self._timers.add(timer)

    def close(self) -> None:
        """Nothing happens any more."""
        self._running.set()
        self.api.behaviour.frozen = False
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    # ------------------------------------------------------------------ the API

    def begin_lap(self) -> Lap:
        """Take the faults of the start that happens now; a new program has none of the old one's API faults."""
        self.lap = self.script.take()
        self.pid += _PID_STEP
        behaviour = self.api.behaviour
        behaviour.mute_handshake = behaviour.mute_start = behaviour.close_early = False
        behaviour.disclaimer_pending = behaviour.link_lost = False
        return self.lap

    def open_api(self, *, full_login: bool) -> None:
        """The login is complete: let API clients in (a paper login's are told of the disclaimer until it is accepted)."""
        if full_login:
            self.restarts.remember_full_login()
        behaviour = self.api.behaviour
        behaviour.disclaimer_pending = not self.setup.live
        if (mute := self.lap.get("mute")) is not None:
            self.mute(mute["stage"])
        if (early := self.lap.get("close_early")) is not None:
            behaviour.close_early = early["on"]
        self._serves = True
        self.port.is_open = self.lap.get("api_shut") is None
        self._tell_usable()
        self._on_login(self.lap)

    def mute(self, stage: str) -> None:
        """Answer new API connections no more, from the handshake or from their start on."""
        self.api.behaviour.mute_handshake = stage == "handshake"
        self.api.behaviour.mute_start = stage == "start"
        self._tell_usable()

    def unmute(self) -> None:
        """Answer API connections again."""
        self.api.behaviour.mute_handshake = self.api.behaviour.mute_start = False
        self._tell_usable()

    def break_session(self) -> None:
        """IBKR has taken the session away: the socket stays, new API connections get no further than the handshake."""
        notices.send(self.api, 1100)
        self.mute("start")

    def mend_session(self) -> None:
        """The session is back, as if it had never been away."""
        self.unmute()
        notices.send(self.api, 1102)

    def demand_disclaimer(self) -> None:
        """The disclaimer waits to be accepted again: API clients are dropped and told so."""
        self.api.behaviour.disclaimer_pending = True
        self.api.drop_clients()
        self._tell_usable()

    def close_early(self, *, on: bool) -> None:
        """End new API connections when they start, without an error."""
        self.api.behaviour.close_early = on
        self._tell_usable()

    def accept_disclaimer(self) -> None:
        """API clients are served from now on."""
        self.api.behaviour.disclaimer_pending = False
        self._tell_usable()

    def block_api(self) -> None:
        """Let nobody in although the program serves, and end every connection."""
        self.port.is_open = False
        self.api.drop_clients()
        self._tell_usable()

    def unblock_api(self) -> None:
        """Let API clients in again, when the program serves."""
        self.port.is_open = self._serves
        self._tell_usable()

    def shut_api(self) -> None:
        """No program listens behind the published port any more; its clients read the end of the stream."""
        self._serves = False
        self.block_api()

    def _tell_usable(self) -> None:
        behaviour = self.api.behaviour
        broken = behaviour.mute_handshake or behaviour.mute_start or behaviour.close_early
        if self.port.is_open and not behaviour.disclaimer_pending and not broken:
            self.usable.set()
        else:
            self.usable.clear()


KILLED = 137
"""What a shell makes of a program that the kernel killed."""
_FIRST_PID = 1785
_PID_STEP = 173
_IBC = re.compile(r"IBC: ")
_IBCONTROLLER = re.compile(r"[A-Z]+ ibcontroller[.\w]*: ")
_SOCAT = re.compile(r"socat\[")


def stamped(line: str, at: datetime) -> str:
    """Put the time before a line as its program does; lines of scripts and dumps bear none."""
    if _IBC.match(line):
        return f"{at:%Y-%m-%d %H:%M:%S}:{at.microsecond // 1000:03d} {line}"
    if _IBCONTROLLER.match(line):
        return f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03d} {line}"
    if _SOCAT.match(line):
        return f"{at:%Y/%m/%d %H:%M:%S} {line}"
    return line
