"""What the API server tells without being asked again: which of our pods changed, and the lines that one of them prints.

A log that comes back goes on in the second of its last line; a line that was told is not told again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER
from spreadpilot_core.ibkr.kubernetes.naming import SELECTOR, Naming
from spreadpilot_core.ibkr.kubernetes.phases import Pod, container_state, is_deleted, is_final
from spreadpilot_core.ibkr.kubernetes.pods import gateway_from, uid_of
from spreadpilot_core.ibkr.kubernetes.watching import FIRST_PAUSE, LONGEST_PAUSE, Change, Watch
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.tasks import Backoff
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_REMEMBERED_LINES: Final = 4096
_LONGEST_LINE: Final = 64 * 1024


class PodChanges:
    """One subscription."""

    def __init__(self, api: Api, naming: Naming) -> None:
        self._watch = Watch(api, "pods", selector=SELECTOR)
        self._naming = naming
        self._seen: dict[ContainerId, int] = {}
        """What was last told of each pod: most of what the API server says of one changes nothing for us."""

    async def follow(self) -> AsyncIterator[ContainerId | None]:
        """Each change of a pod that bears an identity of ours; None: some may have been missed. Ends when the API is closed."""
        async with aclosing(self._watch.follow()) as changes:
            async for change in changes:
                if change is None:
                    self._seen.clear()
                    yield None
                elif (changed := self._take(change)) is not None:
                    yield changed

    def _take(self, change: Change) -> ContainerId | None:
        pod = change.thing
        if not self._naming.owns(pod):
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
        self._last = ""
        self._seen: set[int] = set()
        self._order: deque[int] = deque()

    def feed(self, raw: bytes) -> str | None:
        """The line without its stamp, or None for one that was told."""
        mark = hash(raw)
        if mark in self._seen:
            return None
        self._seen.add(mark)
        self._order.append(mark)
        if len(self._order) > _REMEMBERED_LINES:
            self._seen.discard(self._order.popleft())
        stamp, _, line = raw.decode(errors="replace").rstrip("\r\n").partition(" ")
        self._last = stamp
        return line

    @property
    def since(self) -> dict[str, str]:
        """Where to go on, as a query: the second of the last line."""
        return {"sinceTime": f"{self._last[:19]}Z"} if self._last.endswith("Z") else {}


async def log_lines(api: Api, name: str, gateway: Gateway) -> AsyncIterator[str]:
    """The lines of this pod from its start, then live; ends when it has ended."""
    reader, backoff = LineReader(), Backoff(FIRST_PAUSE, LONGEST_PAUSE)
    while True:
        try:
            pod = await api.get(f"read the pod {name}", api.place("pods", name))
            if pod is None or uid_of(pod) != gateway.container_id:
                return
            is_over = _is_over(pod)
            try:
                async with aclosing(printed(api, name, reader, follow=True)) as lines:
                    async for line in lines:
                        backoff.reset()
                        yield line
            except RefusedError:  # its node has none (yet, or any more)
                if is_over or is_deleted(pod):
                    return
            if is_over:
                return
        except RuntimeUnavailableError as fault:
            log.debug("log stream broke", follower=gateway.follower_id, why=str(fault))
        if not api.is_open:
            return
        await asyncio.sleep(backoff.next())


async def printed(
    api: Api, name: str, reader: LineReader, *, follow: bool, last: int | None = None
) -> AsyncGenerator[str, None]:
    """What a pod's container prints, each line once. Raises `RefusedError` where its node has none."""
    query = {"container": CONTAINER, "timestamps": "true", **({"follow": "true"} if follow else {}), **reader.since}
    if last is not None:
        query["tailLines"] = str(last)
    async with api.stream(f"read the log of {name}", f"{api.place('pods', name)}/log", query) as content:
        while raw := await content.readline():
            if (line := reader.feed(raw)) is not None:
                yield line[-_LONGEST_LINE:]


def _is_over(pod: Pod) -> bool:
    return is_final(pod) or "terminated" in container_state(pod)
