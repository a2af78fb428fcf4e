"""The public API: one healthy, logged-in gateway per enabled follower, and a connected client for whoever asks.

    from spreadpilot_core.ibkr.gateway_manager import GatewayManager

    gateway_manager = GatewayManager()
    await gateway_manager.start()
    ib_client = await gateway_manager.get_client("follower_123")    # a connected IB, or None
    await gateway_manager.stop()

This module is the API and nothing else: `fleet` does the work, `opening` chooses the adapters. Everything here belongs to
the event loop that `start()` was awaited on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from spreadpilot_core.ibkr.deciding.observation import Wanted
from spreadpilot_core.ibkr.deciding.states import GatewayStatus, State
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
)
from spreadpilot_core.ibkr.events import Event, EventBus
from spreadpilot_core.ibkr.fleet import Fleet
from spreadpilot_core.ibkr.opening import Opened, opened_house
from spreadpilot_core.ibkr.protocols import FollowerId
from spreadpilot_core.ibkr.reporting import faulty_snapshot, snapshot
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.supervisor import GatewaySupervisor

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
]

FIRST_LOOK = 8.0
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
        self._opened: Opened | None = None
        self._fleet: Fleet | None = None
        self._ready: dict[str, Any] = {}
        self._was_stopped = False
        self._changing = asyncio.Lock()

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Read the followers, adopt the gateways that run, queue the others; never waits for a login.

        Returns within 10 s even when the follower store is away, and goes on trying. Starting a started manager changes
        nothing.

        Raises:
            AlreadyRunningError: another manager owns the state directory.
            SettingsError: an adapter can't use its settings.

        """
        async with self._changing:
            if self._fleet is not None:
                return
            opened = await opened_house(self.settings, self._ib_factory, self._bus)
            fleet = Fleet(opened.house, opened.followers, self.settings, opened.make_term)
            opened.watched.watch(fleet.view)
            self._opened, self._fleet, self._ready = opened, fleet, fleet.ready
            try:
                fleet.begin()
                await fleet.first_look(FIRST_LOOK)
            except BaseException:
                await self._close()
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
                await self._close()
            if left:
                raise GatewayManagerError(
                    f"The gateways of {', '.join(left)} could not be confirmed gone.",
                    hint="Look at the runtime (`docker ps`); the next start finds and removes what is left.",
                )

    def hurry(self) -> None:
        """While `stop()` waits for gateways to close, kill them instead; at any other time it changes nothing."""
        if self._fleet is not None:
            self._fleet.hurry()

    async def detach(self) -> None:
        """End the manager and leave the gateways as they are, for the next one to adopt."""
        async with self._changing:
            if self._fleet is not None:
                await self._close()

    async def _close(self) -> None:
        fleet, opened = self._fleet, self._opened
        self._fleet, self._opened, self._ready, self._was_stopped = None, None, {}, True
        try:
            if fleet is not None:
                await fleet.close()
        finally:
            if opened is not None:
                await opened.close()
            self._bus.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ------------------------------------------------------------------ clients

    async def get_client(self, follower_id: str, timeout: float | None = None) -> Any | None:  # noqa: ASYNC109  # promised
        """The follower's connected client, or None.

        At once when there is one; else waits while the gateway is becoming ready, also for a phone approval. Callers at
        the same time share one client. Never raises for a gateway that is merely down.

        Args:
            follower_id: the record's id.
            timeout: seconds to wait; None means `max_startup_time`, 0 never waits.

        Returns:
            The connected `IB`; None when the time is over, and at once when the gateway is STOPPED or FAILED.

        Raises:
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        client = self._ready.get(follower_id)
        if client is not None and client.isConnected():
            return client
        return await self._await_client(follower_id, self.settings.max_startup_time if timeout is None else timeout)

    async def _await_client(self, follower_id: str, seconds: float) -> Any | None:
        fleet = self._started("get_client")
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout(seconds):
                await fleet.roster_known.wait()
        except TimeoutError:
            return None
        supervisor = self._supervisor("get_client", follower_id)
        if supervisor is None:
            return None

        def client() -> Any | None:
            ready = self._ready.get(follower_id)
            return ready if ready is not None and ready.isConnected() else None

        def decided() -> bool:
            down = supervisor.state.status in (GatewayStatus.STOPPED, GatewayStatus.FAILED)
            return down or client() is not None

        left = max(0.0, deadline - asyncio.get_running_loop().time())
        await supervisor.requests.answered(0, decided, timeout=left)
        return client()

    def is_healthy(self, follower_id: str) -> bool:
        """Whether the gateway is `ready` now; never waits.

        Raises:
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        supervisor = self._supervisor("is_healthy", follower_id)
        return supervisor is not None and supervisor.state is State.READY

    # ------------------------------------------------------------------ commands

    async def launch_gateway(self, follower_id: str, *, retry_login: bool = False) -> None:
        """Start the follower's gateway; launching what already runs changes nothing.

        Returns when its process runs, or when its login is queued (the snapshot says behind what).

        Args:
            follower_id: the record's id; its record must be enabled.
            retry_login: the operator takes one more login after a rejection or a spent budget.

        Raises:
            LaunchError: it can't start; the sentence says why.
            LoginRefusedError: the login would break a rule that protects the account.
            AuditError: it could not be written down, so it is not done.
            StoreUnavailableError: nobody logs in, or the end of an operator's stop could not be remembered yet.
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        supervisor = await self._operated("launch_gateway", follower_id)
        if supervisor.wanted in (Wanted.DISABLED, Wanted.INVALID):
            raise LaunchError(
                f"{follower_id} can't be launched: {supervisor.wanted_why}", hint="Correct or enable its record."
            )
        if supervisor.is_up and not supervisor.record.stopped_by_operator:
            return
        await supervisor.audit_operator("retry-login" if retry_login else "launch")
        asked = supervisor.ask_launch(operator_login=retry_login)
        self._started("launch_gateway").want_by_record(supervisor)
        await self._until_up(supervisor, asked)
        await self._started("launch_gateway").write_records()  # a stop that it takes back must not come back

    async def stop_gateway(self, follower_id: str) -> None:
        """Stop the follower's gateway; returns when it is gone.

        It is remembered, also over a restart of the manager: only `launch_gateway` starts it again.

        Raises:
            StoreUnavailableError: it is gone, but that could not be remembered yet; it is written when the store returns.
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        supervisor = await self._operated("stop_gateway", follower_id)
        supervisor.stop_by_operator()
        self._started("stop_gateway").want_by_record(supervisor)
        await supervisor.until_gone()
        await self._started("stop_gateway").write_records()

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
        supervisor = await self._operated("restart_gateway", follower_id)
        before = supervisor.presence.gateway
        if before is None or supervisor.wanted is not Wanted.RUN:
            await self.launch_gateway(follower_id)
            return
        await supervisor.audit_operator("restart")
        asked = supervisor.ask_restart()
        await supervisor.requests.answered(asked, lambda: supervisor.requests.restart_asked is None)
        if supervisor.presence.gateway is not None and supervisor.presence.gateway.container_id == before.container_id:
            refusal = supervisor.requests.refused_restart or "Something else was wanted meanwhile."
            raise LoginRefusedError(f"{follower_id} was not restarted: {refusal}", hint="Its gateway keeps running.")
        await self._until_up(supervisor, supervisor.ask())

    async def reconnect(self, follower_id: str) -> bool:
        """Replace the follower's client connection; the gateway stays.

        Returns:
            True once a new client is ready; False when there is no running gateway, or it did not get ready in time.

        Raises:
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        supervisor = await self._operated("reconnect", follower_id)
        if not supervisor.presence.is_running:
            return False
        before = supervisor.presence.connection
        asked = supervisor.ask_reconnect()

        def done() -> bool:
            renewed = supervisor.presence.connection is not before and follower_id in self._ready
            return renewed or not supervisor.presence.is_running or supervisor.state.status is GatewayStatus.FAILED

        limit = self.settings.connect_time + self.settings.heartbeat_timeout
        return await supervisor.requests.answered(asked, done, timeout=limit) and follower_id in self._ready

    async def reload_followers(self) -> None:
        """Read the follower store now. Raises `StoreUnavailableError`; what was known stays in force then."""
        await self._started("reload_followers").reload()

    def get_gateway_status(self, follower_id: str) -> GatewayStatus:
        """The four-value view of one gateway.

        Raises:
            UnknownFollowerError: no record has this id.
            NotStartedError: before `start()` or after `stop()`.

        """
        supervisor = self._supervisor("get_gateway_status", follower_id)
        return supervisor.state.status if supervisor is not None else GatewayStatus.FAILED

    def list_gateways(self) -> tuple[GatewaySnapshot, ...]:
        """All gateways and all records that can't be used, by follower id; immutable.

        Raises:
            NotStartedError: before `start()` or after `stop()`.

        """
        fleet = self._started("list_gateways")
        broken = [faulty_snapshot(each) for each in fleet.faulty.values()]
        named = {each.follower_id for each in broken}
        known = [snapshot(each) for each in fleet.supervisors.values() if each.follower_id not in named]
        return tuple(sorted([*known, *broken], key=lambda each: each.follower_id))

    def events(self) -> AsyncIterator[Event]:
        """Everything that happens from this call on; a reader that is too slow gets an `EventsMissed` in the gap's place.

        Ends when the manager stops. May be called before `start()`, so that nothing is missed.
        """
        return self._bus.subscribe()

    def _started(self, call: str) -> Fleet:
        if self._fleet is None:
            raise NotStartedError(call, stopped=self._was_stopped)
        return self._fleet

    def _supervisor(self, call: str, follower_id: str) -> GatewaySupervisor | None:
        """The supervisor; None for a record that can't be used, or before the followers were read."""
        fleet = self._started(call)
        supervisor = fleet.supervisors.get(FollowerId(follower_id))
        if supervisor is None and follower_id not in fleet.faulty and fleet.roster_known.is_set():
            raise UnknownFollowerError(follower_id, len(fleet.supervisors) + len(fleet.faulty))
        return supervisor

    async def _operated(self, call: str, follower_id: str) -> GatewaySupervisor:
        """The supervisor that a command is for. Commands wait until the followers were read."""
        await self._started(call).roster_known.wait()
        supervisor = self._supervisor(call, follower_id)
        if supervisor is None:
            fault = self._started(call).faulty[follower_id].fault
            raise LaunchError(f"The record of {follower_id} can't be used: {fault}", hint="Correct it.")
        return supervisor

    async def _until_up(self, supervisor: GatewaySupervisor, asked: int) -> None:
        def done() -> bool:
            down = supervisor.state.status in (GatewayStatus.FAILED, GatewayStatus.STOPPED)
            return supervisor.is_up or down or supervisor.obstacle is not None

        await supervisor.requests.answered(asked, done)
        if supervisor.is_up:
            return
        if supervisor.obstacle is not None:
            raise LaunchError(f"{supervisor.follower_id} can't be started now: {supervisor.obstacle}")
        if supervisor.slot.error is not None:
            raise supervisor.slot.error
        decision = supervisor.decision
        reason = decision.reason if decision and decision.reason else "It was stopped meanwhile."
        raise LoginRefusedError(f"{supervisor.follower_id}: {reason}", hint=decision.next_action if decision else None)
