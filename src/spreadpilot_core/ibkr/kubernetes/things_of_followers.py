"""What each follower has of one kind beside its pod, a Service or a claim: there before its gateway logs in, and kept from then on.

Launches that begin at once have it listed together. An account that may not list asks for each by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.naming import FOLLOWER_DIGEST, ROLE, digest, labels_of
from spreadpilot_core.ibkr.kubernetes.pods import name_of
from spreadpilot_core.ibkr.kubernetes.shared_queries import SharedQueries
from spreadpilot_core.ibkr.model.followers import FollowerId

Thing = Mapping[str, Any]


class ThingsOfFollowers:
    """Of one kind, in our namespace."""

    def __init__(self, api: Api, kind: str, role: str, *, called: str) -> None:
        """`role`: what they bear as a label; `called`: one of them, to people."""
        self._api = api
        self._kind = kind
        self._called = called
        self._role = role
        self._may_list = True
        self._listed = SharedQueries[str, Mapping[str, Thing]](kind, self._list)

    async def close(self) -> None:
        """Look for nothing any more."""
        await self._listed.close()

    async def there(self, wanted: Thing, follower_id: FollowerId) -> Thing | None:
        """What is there by this name, whoever's it is; None: it was made now. Raises `RefusedError`."""
        api, name = self._api, name_of(wanted)
        if (found := await self._find(name, follower_id)) is not None:
            return found
        try:
            await api.create(f"create the {self._called} {name}", api.place(self._kind), wanted)
        except RefusedError as refused:
            if not refused.is_conflict:
                raise
            return await self._get(name)  # another launch has just made it, or it bears none of our labels
        return None

    async def _find(self, name: str, follower_id: FollowerId) -> Thing | None:
        if self._may_list:
            try:
                return (await self._listed.at(digest(follower_id))).get(name)
            except RefusedError as refused:
                if not refused.is_denied:
                    raise
                self._may_list = False
        return await self._get(name)

    async def _get(self, name: str) -> Thing | None:
        return await self._api.get(f"read the {self._called} {name}", self._api.place(self._kind, name))

    async def _list(self, followers: Sequence[str]) -> Mapping[str, Mapping[str, Thing]]:
        """By the digests of their followers, and their names."""
        selector = f"{ROLE}={self._role},{FOLLOWER_DIGEST} in ({','.join(followers)})"
        query = {"labelSelector": selector}
        found = await self._api.ask(f"list {self._called}s", self._api.place(self._kind), query=query)
        things: dict[str, dict[str, Thing]] = {each: {} for each in followers}
        for thing in found.get("items") or ():
            things[labels_of(thing)[FOLLOWER_DIGEST]][name_of(thing)] = thing
        return things
