"""Followers from `IBGateway` objects of one namespace, and how their gateways stand written below each one's `status`.

Every hint means "load again", so nothing depends on what a watch says of a change. What can't be listed is away and never empty:
an API server that does not answer, a definition (CRD) that somebody deleted, an account that may not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from spreadpilot_core.ibkr.errors import LeadershipLostError, RuntimeUnavailableError, StoreUnavailableError
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.connecting import access_from
from spreadpilot_core.ibkr.kubernetes.follower_objects import (
    GROUP,
    KIND,
    PLURAL,
    Mark,
    is_written,
    name_of,
    roster_of,
    status_of,
)
from spreadpilot_core.ibkr.kubernetes.watching import Watch
from spreadpilot_core.ibkr.model.followers import Roster
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.hints import Hints
from spreadpilot_core.ibkr.tasks import Tasks, Tell, keep_running, untold

_PATIENCE: Final = 20.0
"""Seconds for an answer; whoever asked asks again."""
_VERSION: Final = "v1"


class KubernetesFollowers:
    """Who should have a gateway, by the objects of one namespace. Fulfils `seams.FollowerStore` and `seams.FollowerStatuses`."""

    def __init__(self, api: Api, *, ports: range | None = None, group: str = GROUP) -> None:
        """`group`: of the objects' kind."""
        self._api = api
        self._ports = ports
        self._group = f"{group}/{_VERSION}"
        self._marks: dict[str, Mark] = {}
        self._hints = Hints()
        self._tasks = Tasks(f"followers as {KIND} objects")
        self.tell: Tell = untold

    async def open(self) -> None:
        """Reach the API server. Raises `StoreUnavailableError`; may be called again."""
        try:
            await self._api.open()
        except RuntimeUnavailableError as away:
            raise StoreUnavailableError(away.what, hint=away.hint) from away
        self._hints.open()
        if len(self._tasks) == 0:
            for name, work in (
                ("watch the followers", self._watch),
                ("tell of changed followers", self._hints.tell_when_quiet),
            ):
                self._tasks.begin(name, keep_running(name, work, tell=self.tell))

    async def close(self) -> None:
        """End the watch and every `hints()`, and let go of the API server."""
        self._hints.close()
        await self._tasks.cancel()
        await self._api.close()

    async def load(self) -> Roster:
        """Read all objects. Raises `StoreUnavailableError`."""
        try:
            found = await self._api.ask("list the followers", self._api.place(PLURAL, group=self._group))
        except RefusedError as refused:
            raise _not_listed(refused, self._api) from refused
        except RuntimeUnavailableError as away:
            raise StoreUnavailableError(away.what, hint=away.hint) from away
        objects = found.get("items") or ()
        roster = await asyncio.to_thread(roster_of, objects, ports=self._ports)
        self._marks = {name_of(each): Mark.of(each) for each in objects}
        return roster

    def hints(self) -> AsyncIterator[None]:
        """Yield once at the beginning, and whenever the objects may have changed since."""
        return self._hints.listen()

    async def _watch(self) -> None:
        async with aclosing(Watch(self._api, PLURAL, group=self._group).follow()) as changes:
            async for change in changes:
                if change is None or change.is_end or self._asks_anew(change.thing):
                    self._hints.stir()

    def _asks_anew(self, thing: Mapping[str, Any]) -> bool:
        """Whether it is not only its status that changed."""
        known = self._marks.get(name_of(thing))
        return known is None or not known.is_same_spec(Mark.of(thing))

    # ------------------------------------------------------------------ status

    async def write_status(self, snapshot: GatewaySnapshot) -> None:
        """Write it, unless it is there, or there is no such object. Raises `StoreUnavailableError`."""
        name = snapshot.follower_id
        if (mark := self._marks.get(name)) is None:
            return
        status = status_of(snapshot, mark)
        if is_written(status, mark):
            return
        place = f"{self._api.place(PLURAL, name, group=self._group)}/status"
        try:
            written = await self._api.ask(f"write the status of {name}", place, method="PATCH", body={"status": status})
        except LeadershipLostError:
            return
        except RefusedError as refused:
            if not refused.is_gone:
                raise _not_written(refused) from refused
        except RuntimeUnavailableError as away:
            raise StoreUnavailableError(away.what, hint=away.hint) from away
        else:
            if self._marks.get(name) is mark:
                self._marks[name] = Mark(mark.uid, mark.generation, written.get("status") or {})


def _not_listed(refused: RefusedError, api: Api) -> StoreUnavailableError:
    if refused.is_gone:
        return StoreUnavailableError(
            f"The Kubernetes API server at {api.server} knows no {KIND} objects: their definition (CRD) is not there.",
            hint="`kubectl apply -f deploy/helm/gateway-manager/crds/` brings it.",
        )
    return StoreUnavailableError(
        f"The followers can't be listed in the namespace {api.namespace}: {refused.said.rstrip('.')}.",
        hint=f"The manager's account needs list and watch on {PLURAL} there.",
    )


def _not_written(refused: RefusedError) -> StoreUnavailableError:
    return StoreUnavailableError(refused.what, hint=f"The manager's account needs patch on {PLURAL}/status.")


# ---------------------------------------------------------------------------------------------- by the settings


def make(settings: Settings, *, tell: Tell, may_act: Callable[[], bool]) -> KubernetesFollowers:
    """Those that `followers_url` names, not opened; `may_act` says whether this manager may write now."""

    def guard() -> None:
        if not may_act():
            raise LeadershipLostError

    api = api_of_followers(settings)
    api.guard = guard
    followers = KubernetesFollowers(api, ports=settings.host_ports)
    followers.tell = tell
    return followers


def api_of_followers(settings: Settings) -> Api:
    """In their namespace: the one that is named, else the gateways' own where these are in a cluster, else the context's."""
    url = settings.followers_url or ""
    if url == f"{settings.runtime_scheme}:":
        url = settings.runtime_url
    return Api(access_from(settings, url=url), patience=_PATIENCE)


async def read_roster(settings: Settings) -> Roster:
    """Every follower's record, beside a running manager. Raises `StoreUnavailableError`."""
    api = api_of_followers(settings)
    try:
        await api.open()
        return await KubernetesFollowers(api, ports=settings.host_ports).load()
    except RuntimeUnavailableError as away:
        raise StoreUnavailableError(away.what, hint=away.hint) from away
    finally:
        await api.close()
