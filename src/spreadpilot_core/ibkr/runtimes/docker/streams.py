"""What the engine tells without being asked again: which of our containers changed, and the lines that one of them prints.

Both streams break when the engine restarts, and both come back by themselves. The stream of changes says None
when it breaks and when it is back, for what dies while the engine is away gives no event, ever. A log that comes back
goes on at the last line seen; a line that the engine repeats (it does so when it rotates the file) is told once.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.runtimes.docker.containers import parse_time
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine, EngineRefusedError, gone_is_fine
from spreadpilot_core.ibkr.runtimes.docker.naming import OWNER, Naming
from spreadpilot_core.ibkr.tasks import Backoff
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_EVENTS: Final = ("start", "die", "pause", "unpause", "destroy", "oom", "health_status", "rename", "update")
"""Named to the engine too: each health check alone would send three events that nobody wants."""

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
"""Seconds between two tries to reach an engine that is away."""


async def container_changes(engine: Engine, naming: Naming) -> AsyncIterator[ContainerId | None]:
    """Each change of a container that bears an identity of ours, None first, at each break and after it; ends when the engine is closed."""
    backoff, away = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), False
    while engine.is_open:
        try:
            if away:
                await engine.open()  # another version of it may have come back
            async with aclosing(_changes_once(engine, naming)) as changes:
                async for changed in changes:
                    if away:
                        log.info("docker engine is back", engine=engine.version)
                    backoff.reset()
                    away = False
                    yield changed
        except (RuntimeUnavailableError, EngineRefusedError) as fault:
            _tell(engine, fault, again=away)
        if not away and engine.is_open:
            yield None  # whoever lists now is told why it broke
        away = True
        await asyncio.sleep(backoff.next())


def _tell(engine: Engine, fault: Exception, *, again: bool) -> None:
    if engine.is_open and not again:  # closing breaks the stream too
        log.warning("docker event stream broke", why=str(fault))


async def _changes_once(engine: Engine, naming: Naming) -> AsyncGenerator[ContainerId | None, None]:
    filters = {"type": ["container"], "label": [OWNER], "event": _EVENTS}
    # The engine answers before it subscribes; what happens in between comes from its memory, by `since`.
    since = f"{time.time():.9f}"
    async with engine.stream("events", filters=json.dumps(filters), since=since) as lines:
        yield None
        async for line in lines:
            message = json.loads(line)
            marks = (message.get("Actor") or {}).get("Attributes")
            if naming.owns(marks) and (changed := changed_by(message)) is not None:
                yield changed


def changed_by(message: Mapping[str, Any]) -> ContainerId | None:
    """Whom one line of the engine's event stream is about; None for one that says nothing to us."""
    action, _, _ = str(message.get("Action", "")).partition(":")
    actor = message.get("Actor") or {}
    return ContainerId(actor["ID"]) if action in _EVENTS and "ID" in actor else None


# ---------------------------------------------------------------------------------------------- logs

_HEADER = struct.Struct(">BxxxL")
_LONGEST_LINE = 64 * 1024
_REMEMBERED_PIECES = 2048
"""More than a rotation repeats; the engine repeats up to some hundred lines, of two pieces or more."""
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT[\d:.]+Z) ")
_OVERLAP = timedelta(seconds=0.5)
"""A log that comes back is read from this much before its last line: the two channels are stamped apart."""


class LogReader:
    """Turns the engine's multiplexed, time-stamped log into lines, each told once."""

    def __init__(self) -> None:
        self._last_stamp = ""
        self._newest_stamps: dict[int, str] = {}
        """The newest stamp of each channel."""
        self._resumes_at: dict[int, str] = {}
        """Where each channel goes on after a reconnect, until it has: what the engine shows before that place is history."""
        self._parts: dict[int, bytearray] = {}
        self._seen: set[int] = set()
        self._order: deque[int] = deque()

    def feed(self, channel: int, data: bytes) -> list[str]:
        """Take what came on one channel (1 standard output, 2 standard error); gives the lines that it ends.

        The engine keeps a long line in several pieces, and each comes with the stamp of the line.
        """
        part, lines = self._parts.setdefault(channel, bytearray()), []
        for piece in data.splitlines(keepends=True):
            stamp = _STAMP.match(piece)
            if stamp is not None and (self._is_history(channel, stamp[1].decode()) or not self._is_new(piece)):
                continue
            if stamp is not None:
                self._last_stamp = self._newest_stamps[channel] = stamp[1].decode()
            part += piece[stamp.end() if stamp is not None else 0 :]
            del part[:-_LONGEST_LINE]
            if part.endswith(b"\n"):
                lines.append(part.decode(errors="replace").rstrip("\r\n"))
                part.clear()
        return lines

    def reconnect(self, otherwise: str) -> str:
        """Forget half lines, for the engine begins anew; gives where to go on, as the engine wants it."""
        self._parts.clear()
        self._resumes_at = dict(self._newest_stamps)
        return engine_time(self._last_stamp, earlier=_OVERLAP) or otherwise

    def _is_history(self, channel: int, stamp: str) -> bool:
        """Whether it lies before the place at which this channel goes on.

        It was told already, or the engine had lost it to rotation and finds it now: told late, it would stand in the wrong order.
        """
        place = self._resumes_at.get(channel)
        if place is None:
            return False
        shown, last = parse_time(stamp), parse_time(place)
        if shown is not None and last is not None and shown < last:
            return True
        del self._resumes_at[channel]
        return False

    def _is_new(self, piece: bytes) -> bool:
        mark = hash(piece)  # some thousand pieces themselves would be many megabytes for each gateway
        if mark in self._seen:
            return False
        self._seen.add(mark)
        self._order.append(mark)
        if len(self._order) > _REMEMBERED_PIECES:
            self._seen.discard(self._order.popleft())
        return True


async def log_lines(engine: Engine, gateway: Gateway) -> AsyncIterator[str]:
    """The lines of this gateway's life from its start, then live; ends when this life has ended."""
    reader, backoff = LogReader(), Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    while True:
        try:
            if (life := await _life(engine, gateway)) is None:
                return
            with gone_is_fine():
                since = reader.reconnect(otherwise=life.begin)
                async with aclosing(_follow(engine, gateway.container_id, reader, since=since)) as lines:
                    async for line in lines:
                        backoff.reset()
                        yield line
            if life.is_over:
                return
        except RuntimeUnavailableError as fault:
            log.debug("log stream broke", follower=gateway.follower_id, why=str(fault))
        if not engine.is_open:
            return
        await asyncio.sleep(backoff.next())


async def last_lines(engine: Engine, container_id: ContainerId, count: int) -> list[str]:
    """The newest lines that a container printed, oldest first; none when it is gone."""
    lines = deque[str](maxlen=count)
    with gone_is_fine():
        async with aclosing(_follow(engine, container_id, LogReader(), follow="0", tail=str(count))) as found:
            async for line in found:
                lines.append(line)
    return list(lines)


async def recent_lines(
    engine: Engine, container_id: ContainerId, count: int, *, follow: bool
) -> AsyncGenerator[str, None]:
    """The newest lines that a container printed, oldest first, and with `follow` those that come until it ends.

    Raises:
        RuntimeUnavailableError: the engine went away; nothing is tried again.
    """
    with gone_is_fine():
        choices = {"follow": "1" if follow else "0", "tail": str(count)}
        async with aclosing(_follow(engine, container_id, LogReader(), **choices)) as found:
            async for line in found:
                yield line


async def _follow(
    engine: Engine, container_id: ContainerId, reader: LogReader, **parameters: str
) -> AsyncGenerator[str, None]:
    wanted = {"follow": "1", "stdout": "1", "stderr": "1", "timestamps": "1"} | parameters
    async with engine.stream(f"containers/{container_id}/logs", **wanted) as content:
        while True:
            try:
                channel, length = _HEADER.unpack(await content.readexactly(_HEADER.size))
                while length:  # an engine says a line's length; it need not fit into memory
                    data = await content.readexactly(min(length, _LONGEST_LINE))
                    length -= len(data)
                    for line in reader.feed(channel, data):
                        yield line
            except asyncio.IncompleteReadError:
                return


@dataclass(frozen=True, slots=True)
class _Life:
    begin: str
    """Where its lines begin, as the engine wants it."""
    is_over: bool


async def _life(engine: Engine, gateway: Gateway) -> _Life | None:
    """Where this life stands; None when it is gone, or another has begun."""
    found = await engine.inspect_container(gateway.container_id)
    if found is None or parse_time(found["State"].get("StartedAt")) != gateway.started_at:
        return None
    is_over = not found["State"]["Running"]
    # Its lines begin where the life before it ended, not at its start: the engine notes that after the first lines.
    finished = "" if is_over else found["State"].get("FinishedAt", "")
    return _Life(begin=engine_time(finished) or "0", is_over=is_over)


def engine_time(stamp: str, *, earlier: timedelta = timedelta(0)) -> str | None:
    """A time of the engine's as its queries want it, in seconds; None for its "never"."""
    moment = parse_time(stamp)
    return None if moment is None else f"{(moment - earlier).timestamp():.6f}"
