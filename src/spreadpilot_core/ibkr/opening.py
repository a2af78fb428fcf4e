"""Chooses the adapters by the settings' URLs and puts the house together. An adapter loads only when it is chosen."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from spreadpilot_core.ibkr.admission import Admission
from spreadpilot_core.ibkr.audit import AuditTrail, actor
from spreadpilot_core.ibkr.auditing import Auditor
from spreadpilot_core.ibkr.connections import Connector
from spreadpilot_core.ibkr.deciding.observation import FleetView
from spreadpilot_core.ibkr.errors import GatewayManagerError, TermLostError
from spreadpilot_core.ibkr.events import EventBus
from spreadpilot_core.ibkr.house import House, limits_of, utc_now
from spreadpilot_core.ibkr.leases import ClientIdLeases, PortLeases
from spreadpilot_core.ibkr.ledger import Ledger
from spreadpilot_core.ibkr.protocols import CredentialDesk, FollowerStore, GatewayRuntime, RecordStore, Term
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.state_dir import own


class Watched:
    """What the house asks of those that are made after it: how the fleet stands, and whether this manager may act."""

    def __init__(self, *, needs_term: bool) -> None:
        self._view: Callable[[], FleetView] = FleetView
        self._needs_term = needs_term
        self._term: Term | None = None

    def watch(self, view: Callable[[], FleetView]) -> None:
        """From now on this is the fleet."""
        self._view = view

    def act_by(self, term: Term) -> None:
        """From now on this term decides who acts."""
        self._term = term

    def view(self) -> FleetView:
        """The whole, for evidence."""
        return self._view()

    def may_act(self) -> bool:
        """Whether this manager may create, start and remove now."""
        return not self._needs_term if self._term is None else self._term.held

    def must_act(self) -> None:
        """Raise `TermLostError` where it may not."""
        if not self.may_act():
            raise TermLostError


@dataclass(slots=True)
class Opened:
    """Everything one started manager holds."""

    house: House
    followers: FollowerStore
    make_term: Callable[[str], Term] | None
    """The term for this engine id, where several managers may share the records; None: there is only this one."""
    watched: Watched
    _held: ExitStack

    async def close(self) -> None:
        """Let go of everything, the state directory last; whoever is cancelled meanwhile owns it no more."""
        try:
            await self.house.desk.close()
            await self.house.ledger.close()
            await self.house.runtime.close()
        finally:
            letting_go = asyncio.ensure_future(asyncio.to_thread(self._held.close))
            try:
                await asyncio.shield(letting_go)
            except asyncio.CancelledError:
                await letting_go
                raise


async def opened_house(settings: Settings, ib_factory: Callable[[], Any] | None, bus: EventBus) -> Opened:
    """`open_house` off the event loop; whoever is cancelled meanwhile owns nothing afterwards."""
    opening = asyncio.get_running_loop().run_in_executor(None, open_house, settings, ib_factory, bus)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        with suppress(GatewayManagerError):
            await (await opening).close()
        raise


def open_house(settings: Settings, ib_factory: Callable[[], Any] | None, bus: EventBus) -> Opened:
    """Own the state directory and make the adapters; nothing is connected yet.

    Raises:
        AlreadyRunningError: another manager owns the state directory.
        SettingsError: a setting can't be used.

    """
    held = ExitStack()
    try:
        held.enter_context(own(settings.state_dir))
        watched = Watched(needs_term=settings.store.startswith("mongodb:"))
        followers, records, make_term = _stores(settings, watched)
        house = House(
            runtime=_runtime(settings, f"{socket.gethostname()}:{os.getpid()}"),
            desk=_desk(settings),
            ledger=Ledger(records, clock=utc_now),
            auditor=Auditor(AuditTrail(settings.state_dir), who=actor("manager")),
            connector=Connector(ib_factory=ib_factory or _default_ib_factory()),
            admission=Admission(parallel_starts=settings.parallel_starts),
            ports=PortLeases(settings.port_range_start, settings.port_range_end),
            client_ids=ClientIdLeases(settings.client_id_range_start, settings.client_id_range_end),
            bus=bus,
            limits=limits_of(settings),
            options=settings.gateway_options,
            fleet_view=watched.view,
        )
        house.runtime.guard = watched.must_act
    except BaseException:
        held.close()
        raise
    return Opened(house=house, followers=followers, make_term=make_term, watched=watched, _held=held)


def open_records(settings: Settings) -> RecordStore:
    """The record store that the settings name, not opened, for commands that only read it."""
    return _stores(settings, Watched(needs_term=False))[1]


def _stores(settings: Settings, watched: Watched) -> tuple[FollowerStore, RecordStore, Callable[[str], Term] | None]:
    if not settings.store.startswith("mongodb:"):
        from spreadpilot_core.ibkr.store.local import LocalFollowers, LocalRecords

        return LocalFollowers.from_settings(settings), LocalRecords.from_settings(settings), None
    from spreadpilot_core.ibkr.store.mongodb import MongoFollowers, MongoRecords, MongoTerm

    records = MongoRecords.from_settings(settings)
    records.holds_term = watched.may_act

    def make_term(engine_id: str) -> Term:
        holder = f"{socket.gethostname()}:{settings.state_dir.absolute()}"
        term = MongoTerm.from_settings(settings, holder=holder, engine_id=engine_id)
        watched.act_by(term)
        return term

    return MongoFollowers.from_settings(settings), records, make_term


def _runtime(settings: Settings, manager_id: str) -> GatewayRuntime:
    if settings.runtime_url.startswith("simulated:"):
        from spreadpilot_core.ibkr.runtimes.simulated import SimulatedRuntime

        return SimulatedRuntime.from_settings(settings, manager_id=manager_id)
    from spreadpilot_core.ibkr.runtimes.docker import DockerRuntime

    return DockerRuntime.from_settings(settings, manager_id=manager_id)


def _desk(settings: Settings) -> CredentialDesk:
    from spreadpilot_core.ibkr.credentials.couriers import Couriers

    return Couriers.from_settings(settings)


def _default_ib_factory() -> Callable[[], Any]:
    """Loaded now, off the event loop, and not with the first connect."""
    from ib_async import IB

    return IB
