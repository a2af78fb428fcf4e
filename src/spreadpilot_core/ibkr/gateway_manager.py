"""The public API: one healthy, logged-in gateway per enabled follower, and a connected client for whoever asks.

    from spreadpilot_core.ibkr.gateway_manager import GatewayManager

    gateway_manager = GatewayManager()
    await gateway_manager.start()
    ib_client = await gateway_manager.get_client("follower_123")    # a connected IB, or None
    await gateway_manager.stop()

This module is the API and nothing else: `fleet` and `operator_commands` do the work, `wiring` chooses the adapters. Everything here belongs to
the event loop that `start()` was awaited on. So does the control socket, which a started manager serves for the commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Literal, Self

from spreadpilot_core.ibkr.errors import (
    AlreadyRunningError,
    ClientIdsExhaustedError,
    GatewayManagerError,
    LaunchError,
    LoginRefusedError,
    NotStartedError,
    PortsExhaustedError,
    SettingsError,
    StoreUnavailableError,
    UnknownFollowerError,
    WrongTradingModeError,
)
from spreadpilot_core.ibkr.http_api.on_demand import Part
from spreadpilot_core.ibkr.http_api.parts import parts
from spreadpilot_core.ibkr.model.availability import Availability, summed
from spreadpilot_core.ibkr.model.events import Event, EventBus
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.readiness import Readiness
from spreadpilot_core.ibkr.model.records import HistoryPage, HistoryQuery
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.settings_sources import ignored
from spreadpilot_core.ibkr.supervision import operator_commands
from spreadpilot_core.ibkr.supervision.fleet import Fleet
from spreadpilot_core.ibkr.supervision.gateway_details import GatewayDetails
from spreadpilot_core.ibkr.supervision.notified import NotifiedFleet
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.supervision.shared_clients import (
    SharedClients,
    await_ready,
    known_supervisor,
    must_be_in,
    ready_client,
)
from spreadpilot_core.ibkr.supervision.snapshots import snapshot_of
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor
from spreadpilot_core.ibkr.tasks import Tasks, to_its_end
from spreadpilot_core.ibkr.telemetry import get_logger
from spreadpilot_core.ibkr.wiring import Wired, open_services_in_thread

log = get_logger(__name__)

__all__ = [
    "AlreadyRunningError",
    "ClientIdsExhaustedError",
    "GatewayManager",
    "GatewayManagerError",
    "GatewaySnapshot",
    "GatewayStatus",
    "LaunchError",
    "LoginRefusedError",
    "NotStartedError",
    "PortsExhaustedError",
    "SettingsError",
    "State",
    "StoreUnavailableError",
    "UnknownFollowerError",
    "WrongTradingModeError",
]

FIRST_LIST_WITHIN = 8.0
"""Seconds that `start()` waits for stores and runtime before it returns all the same (it promises 10)."""


class GatewayManager:
    """Keeps the gateways of all followers, and hands out connected clients."""

    def __init__(self, *, ib_factory: Callable[[], Any] | None = None, **settings: Any) -> None:
        """Read the settings; nothing is touched before `start()`.

        Args:
            ib_factory: makes the client objects; `ib_async.IB` by default, `ib_insync.IB` works as well.
            **settings: any setting by name; each wins over its environment variable.

        Raises:
            SettingsError: names the setting, the value and what is allowed.

        """
        self.settings = Settings.read(**settings)
        self._ib_factory = ib_factory
        self._bus = EventBus()
        self._wired: Wired | None = None
        self._fleet: Fleet | None = None
        self._servers: list[Part] = []
        self._ready: dict[str, Any] = {}
        self._was_stopped = False
        self._changing = asyncio.Lock()
        self._held = AsyncExitStack()
        self._ended = asyncio.Event()
        self._tasks = Tasks("gateway manager")

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Read the followers, adopt the gateways that run, queue the others; never waits for a login.

        Returns within 10 s even when the follower store is away, and goes on trying. Starting a started manager changes
        nothing.

        Raises:
            AlreadyRunningError: another manager owns the state directory.
            SettingsError: an adapter can't use its settings, or no gateway bears the identity that is to be adopted.

        """
        async with self._changing:
            if self._fleet is not None:
                return
            self._ended.clear()
            for sentence in ignored(Settings):
                log.warning("variable not obeyed", sentence=sentence)
            held = AsyncExitStack()  # the last one ends first, and none is skipped when another fails
            try:
                wired = await open_services_in_thread(self.settings, self._ib_factory, self._bus)
                held.callback(self._ended.set)
                held.push_async_callback(wired.close)
                fleet = Fleet(wired.services, wired.followers, self.settings, wired.make_lease)
                wired.bindings.watch(fleet.view)
                held.push_async_callback(self._close_servers)  # before another manager may own its directory
                held.callback(self._bus.close)  # so that the control socket has nothing more to tell
                held.push_async_callback(fleet.close)
                held.push_async_callback(wired.notifier.close)  # before another manager may be the leader
                held.callback(self._forget)
                wired.notifier.watch(NotifiedFleet(fleet, startup_time=self.settings.max_startup_time))
                wired.notifier.begin()
                fleet.leadership.beside = wired.notifier
                self._wired, self._fleet, self._ready = wired, fleet, fleet.ready
                await self._serve(wired)  # an address that is not free must not cost a login first
                fleet.begin()
                await fleet.wait_until_listed(FIRST_LIST_WITHIN)
                self._held = held
            except BaseException:  # also cancelled it leaves nothing that the next one would take for one that lives
                await to_its_end(held.aclose())
                raise

    async def stop(self) -> None:
        """Disconnect, stop and remove every gateway, and end; stopping a stopped manager changes nothing.

        Raises:
            GatewayManagerError: some gateways could not be confirmed gone; the others are, and the manager has ended.

        """
        async with self._changing:
            if self._fleet is None:
                return
            try:
                left = await self._fleet.stop_all()
            finally:
                await to_its_end(self._held.aclose())
            if left:
                raise GatewayManagerError(
                    f"The gateways of {', '.join(left)} could not be confirmed gone.",
                    hint="Look at the runtime (`docker ps`); the next start finds and removes what is left.",
                )

    def hurry(self) -> None:
        """While `stop()` waits for gateways to close, kill them instead; at any other time it changes nothing."""
        if self._fleet is not None:
            self._fleet.hurry()

    async def detach(self, *, wait: float | None = None) -> tuple[str, ...]:
        """End the manager, leave the gateways for the next one; gives a sentence for each login that did not succeed meanwhile.

        A manager that stands by on the same store takes over at once. Else nothing new is begun, and logins under way
        have `wait` seconds (None: `detach_wait`): afterwards only their containers' own guards watch them.
        """
        async with self._changing:
            if self._fleet is None:
                return ()
            try:
                return await self.leave_logins(wait)
            finally:
                await to_its_end(self._held.aclose())

    async def leave_logins(self, wait: float | None = None) -> tuple[str, ...]:
        """What `detach()` waits for, and no more. Raises `NotStartedError` before `start()` or after `stop()`."""
        return tuple(await self._started("leave_logins").leave_logins(wait))

    async def until_ended(self) -> None:
        """Wait until the manager has ended: by `stop()`, by `detach()`, or because `gateway-manager detach` asked for it."""
        await self._ended.wait()

    def detach_soon(self) -> None:
        """What `gateway-manager detach` does: `detach()` begins, and this call returns at once."""
        self._tasks.begin("detach", self.detach())

    def _forget(self) -> None:
        """From here on it is stopped, whatever still has to end."""
        self._fleet, self._wired, self._ready, self._was_stopped = None, None, {}, True

    async def _serve(self, wired: Wired) -> None:
        made = partial(
            parts,
            self,
            detach=self.detach_soon,
            exposition=wired.exposition,
            shared=wired.shared,
            auditor=wired.services.auditor,
            tell=wired.services.notices.tell,
        )
        for part in await asyncio.to_thread(made):
            self._servers.append(part)
            await part.start()

    async def _close_servers(self) -> None:
        while self._servers:
            await self._servers.pop().close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do what the setting `on_exit` says."""
        await (self.stop() if self.settings.on_exit == "stop" else self.detach())

    # ------------------------------------------------------------------ clients

    async def get_client(
        self,
        follower_id: str,
        timeout: float | None = None,  # noqa: ASYNC109  # promised
        require: TradingMode | Literal["paper", "live"] | None = None,
    ) -> Any | None:
        """The follower's connected client, or None.

        At once when there is one; else waits while the gateway is becoming ready, also for a phone approval. Callers at
        the same time share one client. Never raises for a gateway that is merely down.

        Args:
            follower_id: the record's id.
            timeout: seconds to wait; None means `max_startup_time`, 0 never waits.
            require: "paper" or "live": no client of a gateway in the other trading mode is handed out.

        Returns:
            The connected `IB`; None when the time is over, and at once when the gateway is STOPPED or FAILED, or
            waits for the end of IBKR's reset hours.

        Raises:
            WrongTradingModeError: the follower's gateway, or without one its record, is in the other mode than required.
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        try:  # awaited before each order: `.get`, and a parameter by keyword alone, cost as much again as `isConnected`
            client = self._ready[follower_id]
        except KeyError:
            client = None
        if client is not None and require is None and client.isConnected():
            return client
        required = TradingMode(require) if require is not None else None
        must_be_in(self._fleet, follower_id, required)  # what is known now need not be waited for
        if client is None or not client.isConnected():
            seconds = self.settings.max_startup_time if timeout is None else timeout
            await await_ready(fleet := self._started("get_client"), follower_id, seconds)
            client = ready_client(fleet, follower_id)
        must_be_in(self._fleet, follower_id, required)
        return client

    @property
    def clients(self) -> SharedClients:
        """Clients in other programs: leases of client ids. Raises `NotStartedError`."""
        return SharedClients(self._started("clients"), self._services("clients"))

    @property
    def details(self) -> GatewayDetails:
        """What a page shows besides. Raises `NotStartedError`."""
        return GatewayDetails(self._started("details"), self._services("details"), self.settings)

    def is_healthy(self, follower_id: str) -> bool:
        """Whether the gateway is `ready` now; never waits. Raises `UnknownFollowerError`, `NotStartedError`."""
        supervisor = self._supervisor("is_healthy", follower_id)
        return supervisor is not None and supervisor.state is State.READY

    # ------------------------------------------------------------------ commands

    async def launch_gateway(
        self,
        follower_id: str,
        *,
        retry_login: bool = False,
        override_account_lock: str | None = None,
        live: bool = False,
    ) -> None:
        """Start the follower's gateway; launching what already runs changes nothing.

        Returns when its process runs, or when its login is queued (the snapshot says behind what).

        Args:
            follower_id: the record's id; its record must be enabled.
            retry_login: the operator takes one more login after a rejection or a spent limit, or inside IBKR's reset hours.
                Refused within 60 s of the last one, and once eight logins of the user failed within 24 h (IBKR locks a
                user at ten).
            override_account_lock: the IBKR user whose account may be locked for this one login, which passes those two
                rules as well. Only a wait that IBKR itself stated still holds.
            live: the operator confirms that a follower who was paper trades live from now on, as its record asks; a
                paper gateway that runs is restarted, by the same rules as `restart_gateway`.

        Raises:
            LaunchError: it can't start, or its record does not ask for live; the sentence says why.
            LoginRefusedError: the login would break a rule that protects the account.
            AuditError: it could not be written down, so it is not done.
            StoreUnavailableError: nobody logs in, or the end of an operator's stop could not be remembered yet.
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        fleet, supervisor = await self._operated("launch_gateway", follower_id)
        launch = operator_commands.launch_live if live else operator_commands.launch
        await launch(fleet, supervisor, retry_login=retry_login, override_account_lock=override_account_lock)

    async def stop_gateway(self, follower_id: str) -> None:
        """Stop the follower's gateway; returns when it is gone.

        It is remembered, also over a restart of the manager: only `launch_gateway` starts it again.

        Raises:
            GatewayManagerError: it was launched again before it was gone, or can't be stopped now: the records can't be read,
                another manager leads, or no record says that what runs is this follower's.
            StoreUnavailableError: it is gone, but that could not be remembered yet; it is written when the store returns.
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        await operator_commands.stop(*await self._operated("stop_gateway", follower_id))

    async def restart_gateway(self, follower_id: str) -> None:
        """Stop the gateway and start it with the newest spec and secret; costs a login.

        Every rule that protects the account is asked before anything is stopped.

        Raises:
            LoginRefusedError: a rule refuses the login; the gateway keeps running.
            LaunchError: it could not be started again.
            AuditError: it could not be written down, so it is not done.
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        await operator_commands.restart(*await self._operated("restart_gateway", follower_id))

    async def reconnect(self, follower_id: str) -> bool:
        """Replace the follower's client connection; the gateway stays. Raises `UnknownFollowerError`, `NotStartedError`.

        Returns:
            True once a new client is ready; False when there is no running gateway, or it did not get ready in time.

        """
        limit = self.settings.connect_time + self.settings.heartbeat_timeout
        return await operator_commands.reconnect(*await self._operated("reconnect", follower_id), within=limit)

    async def reload_followers(self) -> None:
        """Read the follower store now. Raises `StoreUnavailableError`; what was known stays in force then."""
        await self._started("reload_followers").roster.reload()

    def missing_followers(self) -> tuple[str, ...]:
        """Whose records are gone while they have gateways, and nobody has said that they should be. Raises `NotStartedError`."""
        return self._started("missing_followers").roster.missing()

    async def confirm_removals(self, follower_ids: Collection[str] | None = None) -> tuple[str, ...]:
        """Say that records are gone on purpose: the gateways of these followers are stopped.

        Args:
            follower_ids: whom to let go, as `missing_followers` names them; None for all of those. Who is not among
                them, or whose record is back, keeps its gateway.

        Returns:
            Who is let go.

        Raises:
            AuditError: it could not be written down, so it is not done.
            NotStartedError: before `start()` or after `stop()`.

        """
        roster = self._started("confirm_removals").roster
        return await roster.confirm_removals(roster.missing() if follower_ids is None else follower_ids)

    def get_gateway_status(self, follower_id: str) -> GatewayStatus:
        """The four-value view of one gateway. Raises `UnknownFollowerError`, and `NotStartedError` while not started."""
        supervisor = self._supervisor("get_gateway_status", follower_id)
        return supervisor.state.status if supervisor is not None else GatewayStatus.FAILED

    def list_gateways(self) -> tuple[GatewaySnapshot, ...]:
        """All gateways and all records that can't be used, by follower id; immutable. Raises `NotStartedError`."""
        fleet = self._started("list_gateways")
        named = {*fleet.supervisors, *map(FollowerId, fleet.roster.faulty)}
        return tuple(snapshot_of(each, fleet.supervisors, fleet.roster.faulty) for each in sorted(named))

    def get_gateway(self, follower_id: str) -> GatewaySnapshot:
        """One snapshot, at the same cost in any fleet. Raises `UnknownFollowerError`, `NotStartedError`."""
        fleet = self._started("get_gateway")
        return snapshot_of(follower_id, fleet.supervisors, fleet.roster.faulty)

    def list_notices(self) -> tuple[str, ...]:
        """What concerns the whole manager now, a sentence each: a store that is away, work that fails. Raises `NotStartedError`."""
        return self._services("list_notices").notices.sentences

    @property
    def identity(self) -> str | None:
        """What this manager's containers bear, the same for all managers on one record store; None until it is known."""
        return self._wired.services.runtime.identities.own or None if self._wired is not None else None

    @property
    def adopted_identities(self) -> tuple[str, ...]:
        """Of managers whose gateways were taken over (`run --adopt-from`)."""
        return self._wired.services.runtime.identities.adopted if self._wired is not None else ()

    def readiness(self) -> Readiness:
        """Whether the manager does its work, as `/readyz` says it; never raises."""
        unknown = Readiness("not_ready", "The manager is not started.")
        return self._fleet.readiness() if self._fleet is not None else unknown

    @property
    def is_leader(self) -> bool:
        """Whether this manager acts; False while another one on the same store does, and before `start()`."""
        return self._fleet is not None and self._fleet.is_leader

    async def availability(self, month: str) -> tuple[Availability, ...]:
        """How long each gateway was ready in this month, as "2026-11". Raises `StoreUnavailableError`, `NotStartedError`."""
        return summed(await self._started("availability").measurements.availability(month), month)

    def left_alone(self) -> tuple[str, ...]:
        """A sentence about each container on the engine that looks like a gateway and is not this manager's."""
        return self._started("left_alone").elsewhere.left_alone

    def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """Everything that happens from this call on, or after the event with the id `after`.

        A reader that is too slow, or was away for too long, gets an `EventsMissed` in the gap's place. Ends when the
        manager stops. May be called before `start()`, so that nothing is missed.
        """
        return self._bus.subscribe(after=after)

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        """What happened, newest first, as the record store keeps it. Raises `StoreUnavailableError`, `NotStartedError`."""
        return await self._services("read_history").ledger.read_history(query)

    def find_client(self, follower_id: str, client_serial: int) -> Any | None:
        """The client that an event names by its number; None once nobody holds it. Raises `UnknownFollowerError`, `NotStartedError`."""
        supervisor = self._supervisor("find_client", follower_id)
        return supervisor.find_client(client_serial) if supervisor is not None else None

    def _started(self, call: str) -> Fleet:
        if self._fleet is None:
            raise NotStartedError(call, stopped=self._was_stopped)
        return self._fleet

    def _services(self, call: str) -> Services:
        self._started(call)
        assert self._wired is not None  # it is started
        return self._wired.services

    def _supervisor(self, call: str, follower_id: str) -> GatewaySupervisor | None:
        """The supervisor; None for a record that can't be used, or before the followers were read."""
        return known_supervisor(self._started(call), follower_id)

    async def _operated(self, call: str, follower_id: str) -> tuple[Fleet, GatewaySupervisor]:
        """The fleet, and the supervisor that a command is for. Commands wait until the followers were read."""
        await self._started(call).roster.known.wait()
        supervisor = self._supervisor(call, follower_id)
        if supervisor is None:
            fault = self._started(call).roster.faulty[follower_id].fault
            raise LaunchError(f"The record of {follower_id} can't be used: {fault}", hint="Correct it.")
        return self._started(call), supervisor
