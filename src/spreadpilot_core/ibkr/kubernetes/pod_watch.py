"""All of our pods by one watch, for whoever follows one of them and for whoever hears of all.

Launches and removals follow their pods here: a watch for each would cost each a connection, and the API server every event once more.
What may have been missed, since the watch broke or began anew, each of them asks for itself; while it is away they ask now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Final

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.phases import Pod
from spreadpilot_core.ibkr.kubernetes.pods import name_of, uid_of
from spreadpilot_core.ibkr.kubernetes.watching import FIRST_PAUSE, LONGEST_PAUSE, Change, Watch
from spreadpilot_core.ibkr.tasks import Backoff, Tasks, keep_running, wait_for

_ENDED: Final = "ended"
_QUIET, _LONGEST_QUIET = 5.0, 60.0
"""Seconds without a word of a pod that somebody waits for, after which it is asked for: a connection may be dead, and nobody says so."""
News = asyncio.Queue[Change | str | None]


class PodWatch:
    """One subscription of one runtime; `begin` it before anything is to be heard of at once."""

    def __init__(self, api: Api, selector: str) -> None:
        """`selector`: the labels of the pods that are meant."""
        self.api = api
        self.watch = Watch(api, "pods", selector=selector)
        self._tasks = Tasks("pods")
        self._followed: dict[str, set[FollowedPod]] = {}
        self._heard: set[News] = set()

    def begin(self) -> None:
        """From now on, until it is closed; begun already: nothing changes."""
        if len(self._tasks) == 0:
            self._tasks.begin("watch", keep_running("watch the pods", self._run, may_end=True))

    async def close(self) -> None:
        """Hear of nothing any more."""
        self._tell(_ENDED)
        await self._tasks.cancel()

    @contextmanager
    def follow(self, name: str) -> Iterator[FollowedPod]:
        """The pods of this name, one after the other: what is told of them from now on is not missed."""
        self.begin()
        followed = FollowedPod(self, name)
        self._followed.setdefault(name, set()).add(followed)
        try:
            yield followed
        finally:
            self._followed[name].discard(followed)
            if not self._followed[name]:
                del self._followed[name]

    async def changes(self) -> AsyncGenerator[Change | None, None]:
        """Each change of all of them; None first, and whenever some may have been missed. Ends when the API is closed."""
        news: News = asyncio.Queue()
        self.begin()
        self._heard.add(news)
        if self.watch.is_live:
            news.put_nowait(None)
        try:
            while not isinstance(change := await news.get(), str):
                yield change
        finally:
            self._heard.discard(news)

    async def _run(self) -> None:
        try:
            async with aclosing(self.watch.follow()) as changes:
                async for change in changes:
                    self._tell(change)
        finally:
            self._tell(None if self.api.is_open else _ENDED)

    def _tell(self, change: Change | str | None) -> None:
        for news in self._heard:
            news.put_nowait(change)
        if isinstance(change, Change):
            for followed in self._followed.get(name_of(change.thing), ()):
                followed.hear(change)
            return
        for each in self._followed.values():
            for followed in each:
                followed.doubt()


class FollowedPod:
    """What is told of the pods of one name, as long as somebody follows them."""

    def __init__(self, watch: PodWatch, name: str) -> None:
        self._watch = watch
        self._name = name
        self._latest: dict[str, Pod] = {}
        """The newest of each pod, by its id, that nobody has taken."""
        self._newest: Pod = {}
        self._in_doubt = False
        self._woken = asyncio.Event()
        self._quiet = Backoff(_QUIET, _LONGEST_QUIET)

    def hear(self, change: Change) -> None:
        """The watch tells of one of them. An end is asked for: whose labels are changed leaves the watch too."""
        self._quiet.reset()
        self._woken.set()
        if change.is_end:
            self._in_doubt = True
        else:
            self._latest[uid_of(change.thing)] = change.thing

    def doubt(self) -> None:
        """Something may have been missed, so that it is asked for."""
        self._in_doubt = True
        self._woken.set()

    async def states(self, pod: Pod) -> AsyncGenerator[Pod | None, None]:
        """This pod, and again each time it changes; None as the last, when it is gone. Never ends by itself otherwise.

        `pod` was asked for after the following had begun; where it was not, `doubt` first.

        Raises:
            RefusedError: it may not be looked at.
            RuntimeUnavailableError: the API was closed.
        """
        self._newest = pod
        seen: Pod | None = pod if not self._in_doubt else await self._next(uid_of(pod))
        while seen is not None:
            yield seen
            seen = await self._next(uid_of(pod))
        yield None

    async def now(self, pod: Pod) -> Pod | None:
        """This pod as the watch has told it so far, but not before `pod`; asked for where something may have been missed."""
        if self._in_doubt or not self._watch.watch.is_live:
            return await self._ask(uid_of(pod))
        latest = self._latest.get(uid_of(pod), self._newest)
        return latest if _is_newer(latest, pod) else pod

    async def _next(self, uid: str) -> Pod | None:
        """The next state that is another one."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            self._woken.clear()
            if self._in_doubt:
                try:
                    return await self._ask(uid)
                except RuntimeUnavailableError:
                    if not self._watch.api.is_open:
                        raise
                    self._in_doubt = True
                    await asyncio.sleep(backoff.next())
                    continue
            if uid in self._latest:
                latest = self._latest.pop(uid)
                if _is_newer(latest, self._newest):
                    self._newest = latest
                    return latest
                continue
            await self._news(backoff)

    async def _news(self, backoff: Backoff) -> None:
        """Wait until there may be some."""
        watch = self._watch.watch
        if watch.refused is not None:
            raise watch.refused
        if not self._watch.api.is_open:
            raise RuntimeUnavailableError("The Kubernetes runtime was closed meanwhile.")
        pause = self._quiet if watch.is_live else backoff
        if not await wait_for(self._woken, within=pause.next()):
            self._in_doubt = True

    async def _ask(self, uid: str) -> Pod | None:
        api = self._watch.api
        if not api.is_open:
            raise RuntimeUnavailableError("The Kubernetes runtime was closed meanwhile.")
        self._in_doubt = False
        found = await api.get(f"read the pod {self._name}", api.place("pods", self._name))
        if found is None or uid_of(found) != uid:
            return None
        self._newest = found
        return found


def _is_newer(pod: Pod, other: Pod) -> bool:
    """Whether it is a later state of the same pod. Versions are numbers wherever anybody has seen them; who can't tell takes it for one."""
    ours, theirs = (str(_metadata(each).get("resourceVersion", "")) for each in (pod, other))
    return int(ours) > int(theirs) if ours.isdecimal() and theirs.isdecimal() else ours != theirs


def _metadata(pod: Pod) -> Mapping[str, Any]:
    found: Mapping[str, Any] = pod.get("metadata") or {}
    return found
