"""Chooses the adapters by the settings' URLs and wires them. An adapter loads only when it is chosen."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from spreadpilot_core.ibkr.api_client.connector import Connector
from spreadpilot_core.ibkr.api_client.library import default_ib_factory
from spreadpilot_core.ibkr.audit.auditor import Auditor
from spreadpilot_core.ibkr.audit.trail import AuditTrail, actor
from spreadpilot_core.ibkr.deciding.observation import FleetView
from spreadpilot_core.ibkr.errors import (
    GatewayManagerError,
    IdentityInUseError,
    LeadershipLostError,
    RuntimeUnavailableError,
    SettingsError,
)
from spreadpilot_core.ibkr.instrumentation.dependencies import timed_calls
from spreadpilot_core.ibkr.instrumentation.setup import Exposed, Measuring, measuring
from spreadpilot_core.ibkr.model.events import EventBus
from spreadpilot_core.ibkr.model.records import NOBODY, Identities
from spreadpilot_core.ibkr.notifications.notifier import Notifier
from spreadpilot_core.ibkr.notifications.setup import notifier
from spreadpilot_core.ibkr.reporting.notices import Notices
from spreadpilot_core.ibkr.runtimes.identity import living, read_note
from spreadpilot_core.ibkr.runtimes.registry import managers_lease, reader, runtime
from spreadpilot_core.ibkr.runtimes.screens import screen_address
from spreadpilot_core.ibkr.screens.last_pictures import LastPicturesOnDisk
from spreadpilot_core.ibkr.seams import (
    CredentialBroker,
    FollowerStore,
    Instrumentation,
    LeaderLease,
    RecordStore,
    SharedDocuments,
)
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.state_dir import own
from spreadpilot_core.ibkr.store.outbox import Outbox
from spreadpilot_core.ibkr.store.outboxed_records import OutboxedRecords
from spreadpilot_core.ibkr.store.registry import store, stores
from spreadpilot_core.ibkr.supervision.admission import Admission
from spreadpilot_core.ibkr.supervision.client_leases import ClientLeases
from spreadpilot_core.ibkr.supervision.leases import ClientIdLeases
from spreadpilot_core.ibkr.supervision.ledger import Ledger
from spreadpilot_core.ibkr.supervision.services import Services, limits_of
from spreadpilot_core.ibkr.system.clock import Clock, utc_now
from spreadpilot_core.ibkr.tasks import Tell, to_its_end, untold


class LateBindings:
    """What the services ask of those that are made after it: how the fleet stands, and whether this manager may act."""

    def __init__(self) -> None:
        self._view: Callable[[], FleetView] = FleetView
        self.needs_lease = False
        """Several managers may share the records."""
        self._leader_lease: LeaderLease | None = None

    def watch(self, view: Callable[[], FleetView]) -> None:
        """From now on this is the fleet."""
        self._view = view

    def acting_by(self, make: Callable[[str], LeaderLease] | None) -> Callable[[str], LeaderLease] | None:
        """The same, but that the lease which it makes decides from then on who acts."""
        self.needs_lease = make is not None
        if make is None:
            return None

        def make_and_obey(engine_id: str) -> LeaderLease:
            self._leader_lease = make(engine_id)
            return self._leader_lease

        return make_and_obey

    def view(self) -> FleetView:
        """The whole, for evidence."""
        return self._view()

    def may_act(self) -> bool:
        """Whether this manager may create, start and remove now."""
        return not self.needs_lease if self._leader_lease is None else self._leader_lease.held

    def must_act(self) -> None:
        """Raise `LeadershipLostError` where it may not."""
        if not self.may_act():
            raise LeadershipLostError


@dataclass(slots=True)
class Wired:
    """Everything one started manager holds."""

    services: Services
    followers: FollowerStore
    make_lease: Callable[[str], LeaderLease] | None
    """The leader lease for this engine id, where several managers may share the records; None: there is only this one."""
    shared: SharedDocuments
    """What it shares with other managers of its store and with commands; opened by whoever needs it first."""
    notifier: Notifier
    bindings: LateBindings
    exposition: Exposed | None
    """What is scraped at `metrics_address`."""
    held: AsyncExitStack
    """What is let go at the end: the last one first, and none skipped when another fails."""

    async def close(self) -> None:
        """Let go of everything, the state directory last."""
        await self.held.aclose()


async def open_services_in_thread(
    settings: Settings, ib_factory: Callable[[], Any] | None, bus: EventBus, clock: Clock = utc_now
) -> Wired:
    """`open_services` off the event loop; whoever is cancelled meanwhile owns nothing afterwards."""
    await _refuse_to_adopt_nobody(settings)
    in_thread = asyncio.get_running_loop().run_in_executor(None, open_services, settings, ib_factory, bus, clock)
    try:
        return await asyncio.shield(in_thread)
    except asyncio.CancelledError:
        with suppress(GatewayManagerError):
            await to_its_end((await in_thread).close())
        raise


def open_services(settings: Settings, ib_factory: Callable[[], Any] | None, bus: EventBus, clock: Clock) -> Wired:
    """Own the state directory and make the adapters; nothing is connected yet.

    Raises:
        AlreadyRunningError: another manager owns the state directory.
        IdentityInUseError: the manager whose identity is to be adopted lives.
        SettingsError: a setting can't be used.

    """
    _refuse_to_adopt_the_living(settings)
    with ExitStack() as owning:
        owning.enter_context(own(settings.state_dir, serves=settings.control_socket))
        bindings, notices = LateBindings(), Notices(bus, clock)
        made = stores(settings, clock=clock, tell=notices.tell, may_act=bindings.may_act)
        auditor = Auditor(AuditTrail(settings.state_dir), who=actor("manager"), tell=notices.tell)
        measured = _measuring(settings, owning)
        timed = partial(timed_calls, instrumentation=measured.instrumentation)
        shared = timed(made.shared, "store")
        services = Services(
            runtime=timed(runtime(settings, manager_id=f"{socket.gethostname()}:{os.getpid()}"), "runtime"),
            broker=timed(_broker(settings, measured.instrumentation), "credentials"),
            ledger=_ledger(timed(made.records, "store"), settings, auditor, tell=notices.tell, clock=clock),
            auditor=auditor,
            availability=made.availability,
            pictures=LastPicturesOnDisk(settings.state_dir, partial(screen_address, settings), clock),
            statuses=None if made.statuses is None else timed(made.statuses, "followers"),
            instrumentation=measured.instrumentation,
            connector=Connector(ib_factory=ib_factory or default_ib_factory(), clock=clock),
            admission=Admission(parallel_starts=settings.parallel_starts),
            client_ids=ClientIdLeases(settings.client_id_range_start, settings.client_id_range_end),
            client_leases=_client_leases(settings, shared, clock, bindings),
            bus=bus,
            notices=notices,
            limits=limits_of(settings),
            options=settings.gateway_options,
            clock=clock,
            fleet_view=bindings.view,
        )
        services.runtime.guard = bindings.must_act
        return Wired(
            services=services,
            followers=timed(made.followers, "followers"),
            make_lease=bindings.acting_by(managers_lease(settings, made.make_lease)),
            shared=shared,
            notifier=notifier(settings, bus=bus, notices=notices, shared=shared, may_act=bindings.may_act, clock=clock),
            bindings=bindings,
            exposition=measured.exposition,
            held=_closing(services, shared, owning.pop_all()),
        )


def _ledger(records: RecordStore, settings: Settings, auditor: Auditor, *, tell: Tell, clock: Clock) -> Ledger:
    first = partial(auditor.must_be_first_start, accepted=settings.accept_lost_records)
    outboxed = OutboxedRecords(records, Outbox.of(settings), tell=tell, must_be_first_start=first)
    return Ledger(outboxed, clock=clock, tell=tell)


def _client_leases(settings: Settings, shared: SharedDocuments, clock: Clock, bindings: LateBindings) -> ClientLeases:
    first, last = settings.shared_client_id_range_start, settings.shared_client_id_range_end
    return ClientLeases(shared, first, last, clock=clock, may_act=bindings.may_act)


def _measuring(settings: Settings, owning: ExitStack) -> Measuring:
    measured = measuring(settings.metrics_address)
    owning.callback(measured.close)
    return measured


def _refuse_to_adopt_the_living(settings: Settings) -> None:
    if (adopted := settings.adopt_from) and (lives := living([adopted])):
        raise IdentityInUseError(adopted, lives[0])


async def _refuse_to_adopt_nobody(settings: Settings) -> None:
    """An identity is adopted for good, so a slip in it is told; one that was adopted already may have no gateway left."""
    adopted = settings.adopt_from
    if adopted is None or adopted in (await known_identities(settings) or NOBODY):
        return
    try:
        async with reader(settings) as runtime_reader:
            there = await runtime_reader.identities()
    except RuntimeUnavailableError as error:
        why = f"whether anything here bears that identity can't be known: {str(error).rstrip('.')}"
        raise SettingsError("adopt_from", adopted, why) from error
    if adopted not in there:
        found = f"there are {', '.join(sorted(there))}" if there else "there is none at all"
        raise SettingsError("adopt_from", adopted, f"nothing here bears that identity; {found}")


async def known_identities(settings: Settings) -> Identities | None:
    """The manager's own, by its state directory's note, else by the records; None: neither says so, or can."""
    noted = await asyncio.to_thread(read_note, settings)
    if noted is None:
        with suppress(GatewayManagerError):
            return await store(settings).read_identities(settings)
    return noted


def _closing(services: Services, shared: SharedDocuments, owning: ExitStack) -> AsyncExitStack:
    """Ends couriers, writes what waits, lets go of the runtime, and then of the directory."""
    held = AsyncExitStack()
    held.push_async_callback(_disown, owning)
    held.push_async_callback(shared.close)
    held.push_async_callback(services.runtime.close)
    held.push_async_callback(services.ledger.close)
    held.push_async_callback(services.broker.close)
    return held


async def _disown(owning: ExitStack) -> None:
    """Off the event loop; whoever is cancelled meanwhile owns it no more."""
    await to_its_end(asyncio.to_thread(owning.close))


def open_records(settings: Settings) -> RecordStore:
    """The record store that the settings name, not opened, for commands that only read it."""
    return store(settings).make(settings, clock=utc_now, tell=untold, may_act=lambda: True).records


def open_shared(settings: Settings) -> SharedDocuments:
    """What managers and commands share, not opened."""
    return store(settings).make(settings, clock=utc_now, tell=untold, may_act=lambda: True).shared


def _broker(settings: Settings, instrumentation: Instrumentation) -> CredentialBroker:
    from spreadpilot_core.ibkr.credentials.broker import CourierBroker

    broker = CourierBroker.from_settings(settings)
    broker.instrumentation = instrumentation
    return broker
