"""Which stores there are, by the schemes of `store_url` and `followers_url`. Nothing else asks for these schemes.

A store loads when its URL is chosen, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import import_module
from types import MappingProxyType
from typing import Final, Protocol, cast

from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.model.followers import Roster
from spreadpilot_core.ibkr.model.records import HistoryPage, HistoryQuery, Identities, LoadedRecords
from spreadpilot_core.ibkr.seams import (
    AvailabilityStore,
    FollowerStatuses,
    FollowerStore,
    MakeLease,
    RecordStore,
    SharedDocuments,
)
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import Clock
from spreadpilot_core.ibkr.tasks import Tell

STORES: Final[Mapping[str, str]] = MappingProxyType({"local": "local.store", "mongodb": "mongodb.store"})
"""Scheme -> module below `store` that is a `Store`."""
FOLLOWERS: Final[Mapping[str, str]] = MappingProxyType({"kubernetes": "kubernetes.followers"})
"""Scheme -> module that is a `StoreOfFollowers`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The adapters of one store, not opened."""

    followers: FollowerStore
    records: RecordStore
    availability: AvailabilityStore
    shared: SharedDocuments
    statuses: FollowerStatuses | None = None
    """Where the followers' records show how their gateways stand; None: nowhere."""
    make_lease: MakeLease | None = None
    """The leader lease, where several managers may share the records; None: there is only this one."""


class Store(Protocol):
    """What a store's module offers."""

    def make(self, settings: Settings, *, clock: Clock, tell: Tell, may_act: Callable[[], bool]) -> Stores:
        """The adapters.

        Args:
            settings: name the place.
            clock: what time it is.
            tell: gets notices.
            may_act: whether this manager is the leader now, where several share the records.

        """

    async def read_roster(self, settings: Settings) -> Roster:
        """Every follower's record, beside a running manager. Raises `StoreUnavailableError`."""

    async def read_records(self, settings: Settings) -> LoadedRecords:
        """What earlier managers kept, without making anything. Raises `StoreUnavailableError`."""

    async def read_identities(self, settings: Settings) -> Identities | None:
        """Whose records these are; None: no manager has kept anything yet. Raises `StoreUnavailableError`."""

    async def read_history(self, settings: Settings, query: HistoryQuery) -> HistoryPage | None:
        """One page, newest first; None: no manager has kept anything yet. Raises `StoreUnavailableError`."""

    async def read_availability(self, settings: Settings, month: str) -> Sequence[AvailabilityDay]:
        """The days of a month ("2026-11"), without making anything. Raises `StoreUnavailableError`."""

    async def other_clock(self, settings: Settings) -> tuple[str, datetime] | None:
        """What time it is for the store, and its name; None where it has no clock of its own. Raises `StoreUnavailableError`."""


class ShownFollowers(FollowerStore, FollowerStatuses, Protocol):
    """Followers whose records show how their gateways stand."""


class StoreOfFollowers(Protocol):
    """What the module of a store offers that has followers alone."""

    def make(self, settings: Settings, *, tell: Tell, may_act: Callable[[], bool]) -> ShownFollowers:
        """The adapter; its arguments are those of `Store.make`."""

    async def read_roster(self, settings: Settings) -> Roster:
        """As `Store.read_roster`."""


async def read_days(availability: AvailabilityStore, month: str) -> Sequence[AvailabilityDay]:
    """The days of a month from a store that is opened and closed for it. Raises `StoreUnavailableError`."""
    try:
        await availability.open()
        return await availability.availability(month)
    finally:
        await availability.close()


def store(settings: Settings) -> Store:
    """The store that the settings name."""
    return cast("Store", import_module(f"{__package__}.{STORES[settings.store_scheme]}"))


def stores(settings: Settings, *, clock: Clock, tell: Tell, may_act: Callable[[], bool]) -> Stores:
    """The adapters of what the settings name; arguments as for `Store.make`."""
    made = store(settings).make(settings, clock=clock, tell=tell, may_act=may_act)
    if (elsewhere := _store_of_followers(settings)) is None:
        return made
    followers = elsewhere.make(settings, tell=tell, may_act=may_act)
    return replace(made, followers=followers, statuses=followers)


async def read_roster(settings: Settings) -> Roster:
    """Every follower's record, wherever they are, beside a running manager. Raises `StoreUnavailableError`."""
    return await (_store_of_followers(settings) or store(settings)).read_roster(settings)


def _store_of_followers(settings: Settings) -> StoreOfFollowers | None:
    """Where the followers are if not in the store."""
    if settings.followers_url is None:
        return None
    scheme = settings.followers_url.partition(":")[0]
    return cast("StoreOfFollowers", import_module(f"spreadpilot_core.ibkr.{FOLLOWERS[scheme]}"))
