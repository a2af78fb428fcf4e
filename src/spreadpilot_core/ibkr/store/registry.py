"""Which stores there are, by the scheme of `store_url`. Nothing else asks for that scheme.

A store loads when its URL is chosen, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from types import MappingProxyType
from typing import Final, Protocol, cast

from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.model.followers import Roster
from spreadpilot_core.ibkr.model.records import HistoryPage, HistoryQuery, LoadedRecords
from spreadpilot_core.ibkr.seams import AvailabilityStore, FollowerStore, MakeLease, RecordStore, SharedDocuments
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import Clock
from spreadpilot_core.ibkr.tasks import Tell

STORES: Final[Mapping[str, str]] = MappingProxyType({"local": "local.store", "mongodb": "mongodb.store"})
"""Scheme -> module below `store` that is a `Store`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The adapters of one store, not opened."""

    followers: FollowerStore
    records: RecordStore
    availability: AvailabilityStore
    shared: SharedDocuments
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

    async def read_history(self, settings: Settings, query: HistoryQuery) -> HistoryPage | None:
        """One page, newest first; None: no manager has kept anything yet. Raises `StoreUnavailableError`."""

    async def read_availability(self, settings: Settings, month: str) -> Sequence[AvailabilityDay]:
        """The days of a month ("2026-11"), without making anything. Raises `StoreUnavailableError`."""

    async def other_clock(self, settings: Settings) -> tuple[str, datetime] | None:
        """What time it is for the store, and its name; None where it has no clock of its own. Raises `StoreUnavailableError`."""


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
