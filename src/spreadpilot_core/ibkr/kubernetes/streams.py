"""What the API server tells without being asked again: which of our pods changed, and the lines that one of them prints.

A log that comes back goes on shortly before its last line; a line that was told is not told again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Final

import aiohttp

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER
from spreadpilot_core.ibkr.kubernetes.naming import Naming
from spreadpilot_core.ibkr.kubernetes.phases import Pod, container_state, is_deleted, is_final
from spreadpilot_core.ibkr.kubernetes.pod_watch import PodWatch
from spreadpilot_core.ibkr.kubernetes.pods import gateway_from, is_gateway, name_of, parse_time, uid_of
from spreadpilot_core.ibkr.kubernetes.watching import FIRST_PAUSE, LONGEST_PAUSE, Change
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.tasks import Backoff
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_REMEMBERED_LINES: Final = 4096
_LONGEST_LINE: Final = 64 * 1024
_OVERLAP: Final = timedelta(seconds=0.5)
"""A log that comes back is read from this much before its last line: the two channels of a container are stamped apart."""


class PodChanges:
    """One subscription; pods whose names are in `untold` at the moment are left out."""

    def __init__(self, watch: PodWatch, naming: Naming, untold: Collection[str] = ()) -> None:
        self._watch = watch
        self._naming = naming
        self._untold = untold
        self._seen: dict[ContainerId, int] = {}
        """What was last told of each pod: most of what the API server says of one changes nothing for us."""

    async def follow(self) -> AsyncIterator[ContainerId | None]:
        """Each change of a pod that bears an identity of ours; None: some may have been missed. Ends when the API is closed."""
        async with aclosing(self._watch.changes()) as changes:
            async for change in changes:
                if change is None:
                    self._seen.clear()
                    yield None
                elif (changed := self._take(change)) is not None:
                    yield changed

    def _take(self, change: Change) -> ContainerId | None:
        pod = change.thing
        if not is_gateway(pod) or not self._naming.owns(pod) or name_of(pod) in self._untold:
            return None
        uid = uid_of(pod)
        if change.is_end:
            self._seen.pop(uid, None)
            return uid
        mark = hash((gateway_from(pod, naming=self._naming), is_deleted(pod)))
        if self._seen.get(uid) == mark:
            return None
        self._seen[uid] = mark
        return uid


# ---------------------------------------------------------------------------------------------- logs


class LineReader:
    """Tells each time-stamped line once."""

    def __init__(self) -> None:
        self._seen: dict[int, datetime | None] = {}
        """The marks of the lines told last, in order, and when each was printed."""
        self._forgotten: datetime | None = None
        """When the newest line was printed that is not among them any more."""
        self._last: datetime | None = None
        self._resumes_at: datetime | None = None
        """Where it goes on after a break, until it has: what was told, and comes again, stands before that."""

    def feed(self, raw: bytes) -> str | None:
        """The line without its stamp, or None for one that was told."""
        stamp, _, line = raw.decode(errors="replace").rstrip("\r\n").partition(" ")
        at, mark = parse_time(stamp), hash(raw)
        if mark in self._seen or self._is_history(at):
            return None
        self._seen[mark] = at
        if len(self._seen) > _REMEMBERED_LINES:
            self._forgotten = self._seen.pop(next(iter(self._seen)))
        self._last = at or self._last
        return line

    def resume(self) -> dict[str, str]:
        """Where to go on, as a query; the API server takes whole seconds."""
        self._resumes_at = self._last
        return {} if self._last is None else {"sinceTime": f"{self._last - _OVERLAP:%Y-%m-%dT%H:%M:%SZ}"}

    def _is_history(self, at: datetime | None) -> bool:
        """Whether it came before the lines that are remembered one by one."""
        if self._resumes_at is None or at is None:
            return False
        if at >= self._resumes_at:
            self._resumes_at = None
            return False
        return self._forgotten is not None and at <= self._forgotten


async def log_lines(api: Api, name: str, gateway: Gateway) -> AsyncIterator[str]:
    """The lines of this pod from its start, then live; ends when it has ended.

    One that was just found to run is read at once; whether it is still there, and has ended, is asked whenever its log ends.
    """
    reader, backoff = LineReader(), Backoff(FIRST_PAUSE, LONGEST_PAUSE)
    is_known = gateway.phase is GatewayPhase.RUNNING
    while True:
        try:
            pod = None if is_known else await api.get(f"read the pod {name}", api.place("pods", name))
            if not is_known and (pod is None or uid_of(pod) != gateway.container_id):
                return
            is_known, is_over = False, pod is not None and _is_over(pod)
            try:
                async with aclosing(printed(api, name, reader, follow=True, whole=not is_over)) as lines:
                    async for line in lines:
                        backoff.reset()
                        yield line
            except RefusedError:  # its node has none (yet, or any more)
                if is_over or (pod is not None and is_deleted(pod)):
                    return
            if is_over:
                return
        except RuntimeUnavailableError as fault:
            log.debug("log stream broke", follower=gateway.follower_id, why=str(fault))
        if not api.is_open:
            return
        await asyncio.sleep(backoff.next())


async def printed(
    api: Api, name: str, reader: LineReader, *, follow: bool, last: int | None = None, whole: bool = False
) -> AsyncGenerator[str, None]:
    """What a pod's container prints, each line once. Raises `RefusedError` where its node has none.

    Args:
        api: the API server.
        name: the pod's.
        reader: what was told.
        follow: until it ends.
        last: so many lines of what there is.
        whole: no line that the stream's end cuts in two: who goes on later gets it then.
    """
    query = {"container": CONTAINER, "timestamps": "true", **({"follow": "true"} if follow else {}), **reader.resume()}
    if last is not None:
        query["tailLines"] = str(last)
    async with (
        api.stream(f"read the log of {name}", f"{api.place('pods', name)}/log", query) as content,
        aclosing(_lines_of(content)) as lines,
    ):
        async for raw in lines:
            if (raw.endswith(b"\n") or not whole) and (line := reader.feed(raw)) is not None:
                yield line


async def _lines_of(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Each with its newline, but for what the end leaves; the beginning of one that is too long."""
    line = bytearray()
    while piece := await content.readany():
        for part in piece.splitlines(keepends=True):
            line += part[: max(0, _LONGEST_LINE - len(line))]
            if part.endswith(b"\n"):
                yield bytes(line.rstrip(b"\r\n")) + b"\n"
                line.clear()
    if line:
        yield bytes(line)


def _is_over(pod: Pod) -> bool:
    return is_final(pod) or "terminated" in container_state(pod)
