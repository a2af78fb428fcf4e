"""The manager as a caller sees it who knows some followers only: nothing of the others, whatever is asked.

Others are left out of lists, streams and sums, and asking for one is answered as asking for a name that nobody has. Sentences
are another matter: why a gateway waits may name the follower for whom it waits. So a reason that is about others is given in
general words, and in every sentence what names another follower is replaced.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from spreadpilot_core.ibkr.errors import (
    ClientIdsExhaustedError,
    GatewayManagerError,
    NameTakenError,
    PinnedPortError,
    PortsExhaustedError,
    UnknownFollowerError,
    UserTakenError,
)
from spreadpilot_core.ibkr.http_api.scoped_details import SOMEBODY, ScopedDetails
from spreadpilot_core.ibkr.http_api.served_manager import ServedClients, ServedDetails, ServedManager
from spreadpilot_core.ibkr.model.availability import Availability
from spreadpilot_core.ibkr.model.client_leases import ClientPlace, GatewayEndpoint, LeasedClient, LeaseView
from spreadpilot_core.ibkr.model.events import Event, EventsMissed, StateChanged
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.reasons import Fact, ReasonCode
from spreadpilot_core.ibkr.model.records import HistoryEntry, HistoryPage, HistoryQuery, history_page
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.settings import Settings

E = TypeVar("E", bound=GatewayEndpoint)

_NAMES_FOR = 1.0
"""Seconds for which the names of the others are remembered."""

IN_GENERAL: Mapping[ReasonCode, str] = {
    ReasonCode.WAITING_FOR_PERMIT: "It waits until it may log in: others come first.",
    ReasonCode.USER_LOGGED_IN_ELSEWHERE: "Its IBKR user is logged in elsewhere.",
    ReasonCode.RANGE_EXHAUSTED: "No host port, or no client id, is free for it.",
    ReasonCode.PORT_TAKEN: "Its host port is not free.",
    ReasonCode.LAUNCH_FAILED: "Its container could not be created or started.",
    ReasonCode.GATEWAY_UNCLAIMED: "A container that may be its gateway is left alone.",
}
"""What is said of a reason that may be about others."""
_ABOUT_OTHERS = (
    ClientIdsExhaustedError,
    NameTakenError,
    PinnedPortError,
    PortsExhaustedError,
    UserTakenError,
)
_IN_GENERAL = "It can't be done now."
_OPERATOR_KNOWS = "An operator sees why."


class Redaction:
    """Replaces what names other followers in sentences for callers who know these followers."""

    def __init__(
        self, manager: ServedManager, followers: frozenset[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._manager = manager
        self._followers = followers
        self._clock = clock
        self._read_at = float("-inf")
        self._pattern: re.Pattern[str] | None = None
        self._own: frozenset[str] = frozenset()

    def text(self, sentence: str) -> str:
        """The sentence without the others."""
        self._read_names()
        if self._pattern is None:
            return sentence
        return self._pattern.sub(lambda found: found[0] if found[0] in self._own else SOMEBODY, sentence)

    def perhaps(self, sentence: str | None) -> str | None:
        """The same for one that need not be there."""
        return None if sentence is None else self.text(sentence)

    def _read_names(self) -> None:
        if self._clock() - self._read_at < _NAMES_FOR:
            return
        try:
            snapshots = self._manager.list_gateways()
        except GatewayManagerError:  # it ends; what was known before is all there is
            return
        self._read_at = self._clock()
        own = {name for each in snapshots if each.follower_id in self._followers for name in _names(each)}
        others = {name for each in snapshots if each.follower_id not in self._followers for name in _names(each)}
        self._own = frozenset(own | self._followers)
        longest_first = sorted((others | self._own) - {""}, key=len, reverse=True)
        either = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(rf"(?<![0-9A-Za-z])(?:{either})(?![0-9A-Za-z])") if others else None

    def facts(self, facts: Mapping[str, Fact]) -> dict[str, Fact]:
        """Those of a reason."""
        return {name: self.text(value) if isinstance(value, str) else value for name, value in facts.items()}

    def snapshot(self, found: GatewaySnapshot) -> GatewaySnapshot:
        """One of the caller's own."""
        general = IN_GENERAL.get(found.reason_code) if found.reason_code is not None else None
        changes = {
            "reason": general or self.perhaps(found.reason),
            "next_action": self.perhaps(found.next_action),
            "facts": {} if general else self.facts(found.facts),
            "notices": tuple(self.text(each) for each in found.notices),
        }
        return found.model_copy(update=changes)

    def event(self, event: Event) -> Event:
        """One that is about the caller's own."""
        general = IN_GENERAL.get(event.reason_code) if event.reason_code is not None else None
        event = replace(event, sentence=general or self.text(event.sentence))
        if not isinstance(event, StateChanged):
            return event
        return replace(
            event,
            reason=general or self.perhaps(event.reason),
            next_action=self.perhaps(event.next_action),
            facts={} if general else self.facts(event.facts),
        )

    def entry(self, entry: HistoryEntry) -> HistoryEntry:
        """One line of the history."""
        general = next((said for code, said in IN_GENERAL.items() if entry.reason_code == code.value), None)
        return replace(entry, sentence=general or self.text(entry.sentence))

    def error(self, error: GatewayManagerError) -> tuple[str, str | None]:
        """What it says, and what to do."""
        if isinstance(error, UnknownFollowerError):  # with the name as it was asked for: replacing it would tell
            error = unknown(error.follower_id, self._followers)
            return error.what, error.hint
        if isinstance(error, _ABOUT_OTHERS):
            return _IN_GENERAL, _OPERATOR_KNOWS
        return self.text(error.what), self.perhaps(error.hint)


def _names(snapshot: GatewaySnapshot) -> set[str]:
    """What a sentence may call it."""
    endpoint = snapshot.endpoint or ""
    port = endpoint.rpartition(":")[2]
    return {snapshot.follower_id, snapshot.container or "", endpoint, port, *snapshot.accounts} - {""}


def unknown(follower_id: str, own: Collection[str]) -> UnknownFollowerError:
    """The same for one that is somebody else's and for one that is not there."""
    return UnknownFollowerError(follower_id, own)


def must_be_own(follower_id: str, own: frozenset[str]) -> None:
    """Raise `UnknownFollowerError` for one that is not."""
    if follower_id not in own:
        raise unknown(follower_id, own)


class ScopedClients:
    """Clients of the caller's own gateways."""

    def __init__(self, clients: ServedClients, followers: frozenset[str], redaction: Redaction) -> None:
        self._clients = clients
        self._followers = followers
        self._redaction = redaction

    async def lease(
        self,
        follower_id: str,
        place: ClientPlace,
        *,
        name: str | None = None,
        wait: float = 0,
        require: TradingMode | None = None,
    ) -> LeasedClient:
        """Of one of the caller's own."""
        must_be_own(follower_id, self._followers)
        return self._shown(await self._clients.lease(follower_id, place, name=name, wait=wait, require=require))

    async def endpoint(self, follower_id: str, place: ClientPlace, *, wait: float = 0) -> GatewayEndpoint:
        """Of one of the caller's own."""
        must_be_own(follower_id, self._followers)
        return self._shown(await self._clients.endpoint(follower_id, place, wait=wait))

    async def renew(self, follower_id: str, lease_id: str, place: ClientPlace, *, wait: float = 0) -> LeasedClient:
        """Of one of the caller's own."""
        must_be_own(follower_id, self._followers)
        return self._shown(await self._clients.renew(follower_id, lease_id, place, wait=wait))

    async def give_back(self, follower_id: str, lease_id: str) -> bool:
        """Of one of the caller's own."""
        must_be_own(follower_id, self._followers)
        return await self._clients.give_back(follower_id, lease_id)

    async def list(self) -> tuple[LeaseView, ...]:
        """Of the caller's own."""
        return tuple(each for each in await self._clients.list() if each.follower_id in self._followers)

    def _shown(self, leased: E) -> E:
        general = IN_GENERAL.get(leased.reason_code) if leased.reason_code is not None else None
        return leased.model_copy(update={"reason": general or self._redaction.perhaps(leased.reason)})


class ScopedManager:
    """A `ServedManager` that has the caller's followers only."""

    def __init__(self, manager: ServedManager, followers: frozenset[str], redaction: Redaction) -> None:
        self._manager = manager
        self._followers = followers
        self._redaction = redaction

    @property
    def clients(self) -> ServedClients:
        """Of the caller's own."""
        return ScopedClients(self._manager.clients, self._followers, self._redaction)

    @property
    def details(self) -> ServedDetails:
        """Of the caller's own."""
        return ScopedDetails(self._manager.details, self._followers, self._redaction.text)

    def _must_be_own(self, follower_id: str) -> None:
        must_be_own(follower_id, self._followers)

    # ------------------------------------------------------------------ what is seen

    @property
    def settings(self) -> Settings:
        """The whole manager's."""
        return self._manager.settings

    @property
    def is_leader(self) -> bool:
        """Whether the manager acts."""
        return self._manager.is_leader

    @property
    def identity(self) -> str | None:
        """The whole manager's."""
        return self._manager.identity

    @property
    def adopted_identities(self) -> tuple[str, ...]:
        """What was adopted were others' gateways, too."""
        return ()

    def left_alone(self) -> tuple[str, ...]:
        """Nobody says whose they are."""
        return ()

    def list_notices(self) -> tuple[str, ...]:
        """They concern the whole manager."""
        return ()

    def missing_followers(self) -> tuple[str, ...]:
        """Of the caller's own."""
        return tuple(each for each in self._manager.missing_followers() if each in self._followers)

    def list_gateways(self) -> tuple[GatewaySnapshot, ...]:
        """The caller's own."""
        found = self._manager.list_gateways()
        return tuple(self._redaction.snapshot(each) for each in found if each.follower_id in self._followers)

    def get_gateway(self, follower_id: str) -> GatewaySnapshot:
        """One of the caller's own."""
        self._must_be_own(follower_id)
        return self._redaction.snapshot(self._manager.get_gateway(follower_id))

    async def availability(self, month: str) -> tuple[Availability, ...]:
        """Of the caller's own."""
        return tuple(each for each in await self._manager.availability(month) if each.follower_id in self._followers)

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        """Of the caller's own, merged; nothing of what concerns the whole manager."""
        if query.follower_id is not None:
            self._must_be_own(query.follower_id)
            page = await self._manager.read_history(query)
            return replace(page, entries=[self._redaction.entry(each) for each in page.entries])
        pages = [
            await self._manager.read_history(replace(query, follower_id=FollowerId(each)))
            for each in sorted(self._followers)
        ]
        return self._merged(pages, query)

    def _merged(self, pages: Sequence[HistoryPage], query: HistoryQuery) -> HistoryPage:
        entries = sorted((entry for page in pages for entry in page.entries), key=lambda each: each.id, reverse=True)
        entries.sort(key=lambda each: each.at, reverse=True)
        merged = history_page([self._redaction.entry(each) for each in entries], query)
        there_is_more = any(page.older is not None for page in pages)
        if merged.older is None and there_is_more:  # no page is longer than what is wanted, so this one is full
            merged = history_page([*merged.entries, merged.entries[-1]], query)
        return merged

    async def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """About the caller's own; of a gap nobody says how many of them are in it."""
        events = self._manager.events(after=after)
        try:
            async for event in events:
                if isinstance(event, EventsMissed):
                    yield replace(event, count=None, sentence="Events may have been missed here.")
                elif event.follower_id is not None and event.follower_id in self._followers:
                    yield self._redaction.event(event)
        finally:
            if (close := getattr(events, "aclose", None)) is not None:
                await close()

    # ------------------------------------------------------------------ what is done

    async def launch_gateway(
        self,
        follower_id: str,
        *,
        retry_login: bool = False,
        override_account_lock: str | None = None,
        live: bool = False,
    ) -> None:
        """One of the caller's own."""
        self._must_be_own(follower_id)
        await self._manager.launch_gateway(
            follower_id, retry_login=retry_login, override_account_lock=override_account_lock, live=live
        )

    async def stop_gateway(self, follower_id: str) -> None:
        """One of the caller's own."""
        self._must_be_own(follower_id)
        await self._manager.stop_gateway(follower_id)

    async def restart_gateway(self, follower_id: str) -> None:
        """One of the caller's own."""
        self._must_be_own(follower_id)
        await self._manager.restart_gateway(follower_id)

    async def reconnect(self, follower_id: str) -> bool:
        """One of the caller's own."""
        self._must_be_own(follower_id)
        return await self._manager.reconnect(follower_id)

    async def confirm_removals(self, follower_ids: Collection[str] | None = None) -> tuple[str, ...]:
        """Of the caller's own."""
        own = self.missing_followers() if follower_ids is None else follower_ids
        return await self._manager.confirm_removals([each for each in own if each in self._followers])

    async def reload_followers(self) -> None:
        """Of all: it changes nothing by itself."""
        await self._manager.reload_followers()

    async def leave_logins(self) -> tuple[str, ...]:
        """Only an operator ends the manager, and an operator knows all followers."""
        raise UnknownFollowerError("", self._followers)
