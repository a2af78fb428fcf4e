"""`RemoteGatewayManager`: the manager of another process, with the clients connected in this one."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import weakref
from collections.abc import AsyncIterator, Callable, Collection
from datetime import UTC, datetime
from os import PathLike
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode

from spreadpilot_core.ibkr.api_client.connection import Connection
from spreadpilot_core.ibkr.api_client.connector import Connector
from spreadpilot_core.ibkr.api_client.library import default_ib_factory
from spreadpilot_core.ibkr.errors import (
    GatewayDownError,
    GatewayManagerError,
    GatewayNotReadyError,
    UnavailableError,
    UnknownFollowerError,
    WrongTradingModeError,
)
from spreadpilot_core.ibkr.model.client_leases import LeasedClient, LeaseView
from spreadpilot_core.ibkr.model.events import ClientStale, Event, EventBus, GatewayReady
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.remote.blocking import loop_of_this_thread
from spreadpilot_core.ibkr.remote.followed_events import event_of
from spreadpilot_core.ibkr.remote.held_client import HeldClient
from spreadpilot_core.ibkr.remote.lease_renewals import LeaseRenewals, gateway_path
from spreadpilot_core.ibkr.remote.transport import AsyncLine, ManagerAwayError, Route, Target
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import utc_now
from spreadpilot_core.ibkr.tasks import Backoff, Tasks

WAIT = 120.0
"""Seconds that `get_client` waits by itself: `max_startup_time` as it is by default."""
_REASON_WITHIN = 2.0
"""Seconds that a manager has to say why a gateway is not ready, once the time for it is over."""


class RemoteGatewayManager:
    """Asks a running manager, and hands out clients that are connected in this process.

    It has the methods of `GatewayManager` by the same names. Those that look (`list_gateways`, `is_healthy`, …) have to ask,
    so they are awaited here. `stop()` ends this object and nothing else: gateways are the manager's. All calls belong to one
    event loop; `connect()` is for programs without one.
    """

    def __init__(
        self,
        url: str | Collection[str] | None = None,
        token: str | None = None,
        *,
        ib_factory: Callable[[], Any] | None = None,
        name: str | None = None,
        ca_file: str | PathLike[str] | None = None,
    ) -> None:
        """Nothing is asked before the first call.

        Args:
            url: "unix:PATH" (of the control socket, or of its state directory), "http://…", "https://…", or several of these, of
                managers that share a store; None: the state directory of the settings.
            token: a token of that manager; over the Unix socket none is needed.
            ib_factory: makes the client objects; `ib_async.IB` by default, `ib_insync.IB` works as well.
            name: what this program calls itself. It gets the same client ids when it comes back, while they are free, and so
                sees its own orders; no two programs should have the same.
            ca_file: certificates to trust beside the system's.

        Raises:
            SettingsError: an address is none of these.
            ClientLibraryError: ib_async can't be imported, and there is no `ib_factory`.

        """
        if url is None:
            url = f"unix:{Settings.read().state_dir}"
        urls = (url,) if isinstance(url, str) else tuple(url)
        self._route = Route(tuple(Target.of(each, token=token, ca_file=ca_file) for each in urls))
        self._connector = Connector(ib_factory=ib_factory or default_ib_factory())
        self._name = name
        self._line: AsyncLine | None = None
        self._renewals: LeaseRenewals | None = None
        self._tasks = Tasks("remote gateway manager")
        self._held: dict[str, HeldClient] = {}
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._bus = EventBus()
        self._following: asyncio.Task[None] | None = None
        self._clients: weakref.WeakValueDictionary[tuple[str, int], Any] = weakref.WeakValueDictionary()
        self._serials: dict[str, int] = {}
        self._ends_with_program = False

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Look whether a manager answers; other calls need no start.

        Raises:
            ManagerAwayError: none does.

        """
        await self._ask("GET", "/manager")

    async def stop(self) -> None:
        """Disconnect the clients, give their ids back, and end; the gateways stay. May be called again, and used again."""
        renewals = await self._disconnect()
        if renewals is not None:
            await asyncio.to_thread(renewals.close)

    async def _disconnect(self) -> LeaseRenewals | None:
        """End everything but the leases; gives who keeps them."""
        await self._tasks.cancel()
        self._held, self._keeping, self._following = {}, {}, None
        renewals, self._renewals = self._renewals, None
        line, self._line = self._line, None
        if line is not None:
            await line.close()
        self._bus.close()
        return renewals

    async def detach(self) -> None:
        """The same as `stop()`."""
        await self.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ------------------------------------------------------------------ clients

    async def get_client(
        self,
        follower_id: str,
        timeout: float | None = None,  # noqa: ASYNC109  # as GatewayManager has it
        *,
        require: TradingMode | Literal["paper", "live"] | None = None,
    ) -> Any | None:
        """The follower's client, connected in this process, or None; it waits and refuses as `GatewayManager.get_client` does.

        From the first call on the follower's client is kept connected: when its gateway was replaced, or the manager
        restarted, the next call gives the new one, and `events()` tells.

        Args:
            follower_id: the record's id.
            timeout: seconds to wait; None means 120, 0 gives what is connected now.
            require: "paper" or "live": no client of a gateway in the other trading mode is handed out.

        Returns:
            The connected `IB`; None when the time is over, and at once when the gateway is STOPPED or FAILED, or
            waits for the end of IBKR's reset hours.

        Raises:
            ManagerAwayError: no manager answered in that time.
            WrongTradingModeError: the follower is in the other mode than required.
            UnknownFollowerError: no record has this id.

        """
        try:
            return await self._client(follower_id, timeout, require)
        except ManagerAwayError:
            raise
        except (GatewayDownError, UnavailableError):
            return None

    def connect(
        self,
        follower_id: str,
        timeout: float | None = None,
        *,
        require: TradingMode | Literal["paper", "live"] | None = None,
    ) -> Any:
        """The same for a program without `async`: blocks until the client is connected. Call it again when it is not any more.

        Raises:
            GatewayDownError: the gateway is STOPPED or FAILED, or waits for the end of IBKR's reset hours; the sentence says why.
            GatewayNotReadyError: it was not ready in time.
            ManagerAwayError: no manager answered in that time.
            WrongTradingModeError: the follower is in the other mode than required.
            UnknownFollowerError: no record has this id.

        """
        loop = loop_of_this_thread(instead=f"await manager.get_client({follower_id!r})")
        if not self._ends_with_program:
            self._ends_with_program = True
            atexit.register(_end_with_program, weakref.ref(self), loop)
        return loop.run_until_complete(self._client_or_reason(follower_id, timeout, require))

    def close(self) -> None:
        """`stop()` for a program without `async`."""
        loop_of_this_thread(instead="await manager.stop()").run_until_complete(self.stop())

    async def _client_or_reason(self, follower_id: str, seconds: float | None, require: str | None) -> Any:
        """Where the time was over before the manager has said why there is no client, it is asked how the gateway stands."""
        try:
            return await self._client(follower_id, seconds, require)
        except GatewayNotReadyError as late:
            seen = None
            with contextlib.suppress(TimeoutError, GatewayManagerError):
                async with asyncio.timeout(_REASON_WITHIN):
                    seen = await self.get_gateway(follower_id)
            if seen is None or seen.state is State.READY:
                raise
            raise GatewayNotReadyError(follower_id, seen.state.value, seen.reason, seen.next_action) from late

    async def _client(self, follower_id: str, seconds: float | None, require: str | None) -> Any:
        required = TradingMode(require) if require is not None else None
        held = self._held.get(follower_id)
        if held is None or held.ib is None:
            await self._must_be_known(follower_id, required, WAIT if seconds is None else seconds)
            held = self._hold(follower_id)
            why = await held.wait(WAIT if seconds is None else seconds)
            if isinstance(why, UnknownFollowerError):
                self._let_go(follower_id)
            if why is not None:
                raise why
        mode = held.leased.trading_mode if held.leased is not None else None
        if required is not None and mode not in (None, required):
            assert mode is not None
            raise WrongTradingModeError(follower_id, required=required.value, is_in=mode.value)
        if held.ib is None:
            raise GatewayNotReadyError(follower_id, "not ready", "It was not ready in time.", None)
        return held.ib

    async def _must_be_known(self, follower_id: str, required: TradingMode | None, seconds: float) -> None:
        """Refuse what need not be waited for; a manager that is away is waited for."""
        if required is None:
            return
        with contextlib.suppress(TimeoutError, UnavailableError):
            async with asyncio.timeout(seconds):
                mode = (await self.get_gateway(follower_id)).trading_mode
                if mode not in (None, required):
                    assert mode is not None
                    raise WrongTradingModeError(follower_id, required=required.value, is_in=mode.value)

    def _hold(self, follower_id: str) -> HeldClient:
        if follower_id not in self._held:
            if self._renewals is None:
                self._renewals = LeaseRenewals(self._route)
            held = self._held[follower_id] = HeldClient(
                follower_id,
                line=self._connected_line(),
                renewals=self._renewals,
                connector=self._connector,
                name=self._name,
                listener=self,
            )
            self._keeping[follower_id] = self._tasks.begin(f"keep {follower_id}", held.run())
        return self._held[follower_id]

    def _let_go(self, follower_id: str) -> None:
        self._held.pop(follower_id, None)
        if (keeping := self._keeping.pop(follower_id, None)) is not None:
            keeping.cancel()

    def find_client(self, follower_id: str, client_serial: int) -> Any | None:
        """The client that an event names by its number; None once nobody holds it."""
        return self._clients.get((follower_id, client_serial))

    def ready(self, follower_id: str, connection: Connection, leased: LeasedClient) -> None:
        """Tell that a client of this process is connected."""
        serial = self._serials[follower_id] = self._serials.get(follower_id, 0) + 1
        self._clients[follower_id, serial] = connection.ib
        self._bus.publish(
            GatewayReady(
                at=utc_now(),
                follower_id=follower_id,
                sentence=f"Connected in this process: {leased.host}:{leased.port}, client id {leased.client_id}.",
                endpoint=f"{leased.host}:{leased.port}",
                client_id=leased.client_id,
                accounts=connection.accounts,
            )
        )

    def stale(self, follower_id: str, ib: Any, why: str) -> None:
        """Tell that it is disconnected for good."""
        del ib
        serial = self._serials[follower_id]
        sentence = f"Client {serial} of this follower is disconnected ({why.rstrip('.')}); get_client gives a new one."
        self._bus.publish(ClientStale(at=utc_now(), follower_id=follower_id, sentence=sentence, client_serial=serial))

    # ------------------------------------------------------------------ commands

    async def launch_gateway(
        self,
        follower_id: str,
        *,
        retry_login: bool = False,
        override_account_lock: str | None = None,
        live: bool = False,
    ) -> None:
        """As `GatewayManager.launch_gateway`."""
        words: dict[str, Any] = {
            "retry_login": retry_login,
            "override_account_lock": override_account_lock,
            "live": live,
        }
        await self._act(follower_id, "launch", {name: said for name, said in words.items() if said})

    async def stop_gateway(self, follower_id: str) -> None:
        """As `GatewayManager.stop_gateway`."""
        await self._act(follower_id, "stop")

    async def restart_gateway(self, follower_id: str) -> None:
        """As `GatewayManager.restart_gateway`."""
        await self._act(follower_id, "restart")

    async def reconnect(self, follower_id: str) -> bool:
        """Replace the manager's own client, as `GatewayManager.reconnect`; the one of this process stays."""
        return bool((await self._act(follower_id, "reconnect"))["reconnected"])

    async def _act(self, follower_id: str, what: str, body: dict[str, Any] | None = None) -> Any:
        return await self._ask("POST", f"{gateway_path(follower_id)}/{what}", body or None, within=None)

    async def reload_followers(self) -> None:
        """As `GatewayManager.reload_followers`."""
        await self._ask("POST", "/followers/reload")

    async def missing_followers(self) -> tuple[str, ...]:
        """As `GatewayManager.missing_followers`."""
        return tuple(await self._ask("GET", "/followers/missing"))

    async def confirm_removals(self, follower_ids: Collection[str] | None = None) -> tuple[str, ...]:
        """As `GatewayManager.confirm_removals`."""
        body = {"follower_ids": list(follower_ids)} if follower_ids is not None else None
        return tuple(await self._ask("POST", "/followers/confirm-removals", body))

    # ------------------------------------------------------------------ what there is

    async def list_gateways(self) -> tuple[GatewaySnapshot, ...]:
        """Every snapshot, by follower id."""
        return tuple(GatewaySnapshot.model_validate(each) for each in await self._ask("GET", "/gateways"))

    async def get_gateway(self, follower_id: str) -> GatewaySnapshot:
        """One snapshot. Raises `UnknownFollowerError`."""
        return GatewaySnapshot.model_validate(await self._ask("GET", gateway_path(follower_id)))

    async def get_gateway_status(self, follower_id: str) -> GatewayStatus:
        """The four-value view of one gateway. Raises `UnknownFollowerError`."""
        return (await self.get_gateway(follower_id)).status

    async def is_healthy(self, follower_id: str) -> bool:
        """Whether the gateway is `ready` now. Raises `UnknownFollowerError`."""
        return (await self.get_gateway(follower_id)).state is State.READY

    async def list_notices(self) -> tuple[str, ...]:
        """What concerns the whole manager now, a sentence each."""
        return tuple((await self._ask("GET", "/manager"))["notices"])

    async def list_clients(self) -> tuple[LeaseView, ...]:
        """Who holds which client id."""
        return tuple(LeaseView.model_validate(each) for each in await self._ask("GET", "/clients"))

    async def availability(self, month: str) -> list[dict[str, Any]]:
        """How long each gateway was ready in this month, as the JSON of `gateway-manager availability`."""
        return list(await self._ask("GET", f"/availability?month={quote(month)}"))

    async def read_history(
        self,
        follower_id: str | None = None,
        *,
        since: datetime | None = None,
        before: str | None = None,
        limit: int = 200,
    ) -> dict[str, Any]:
        """A page of what happened, newest first: its `entries`, and what `before` says for the next (`older`)."""
        stated = {
            "follower_id": follower_id,
            "since": since.astimezone(UTC).isoformat() if since is not None else None,
            "before": before,
            "limit": limit,
        }
        query = urlencode({name: value for name, value in stated.items() if value is not None})
        return dict(await self._ask("GET", f"/history?{query}"))

    # ------------------------------------------------------------------ events

    def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """Everything that happens from this call on: the manager's events, and `GatewayReady` and `ClientStale` of the
        clients of this process in the place of the manager's own. The ids are this object's.

        It goes on over restarts of the manager, with an `EventsMissed` where some were missed; ends with `stop()`.
        """
        subscription = self._bus.subscribe(after=after)
        if self._following is None:
            self._following = self._tasks.begin("follow the events", self._follow())
        return subscription

    async def _follow(self) -> None:
        last: int | None = None
        backoff = Backoff(0.2, 5.0)
        while True:
            headers = {"Accept": "application/x-ndjson", **({"Last-Event-ID": str(last)} if last is not None else {})}
            with contextlib.suppress(GatewayManagerError):
                async with self._connected_line().lines("/events", headers) as lines:
                    async for line in lines:
                        document = json.loads(line)
                        last = document["id"]
                        backoff.reset()
                        if (event := event_of(document)) is not None:
                            self._bus.publish(event)
            if self._renewals is not None:  # a manager that went may have taken gateways with it
                self._renewals.hurry()
            await asyncio.sleep(backoff.next())

    # ------------------------------------------------------------------

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, **limits: Any) -> Any:
        return await self._connected_line().ask(method, path, body, **limits)

    def _connected_line(self) -> AsyncLine:
        if self._line is None:
            self._line = AsyncLine(self._route)
        return self._line


def _end_with_program(known: weakref.ref[RemoteGatewayManager], loop: asyncio.AbstractEventLoop) -> None:
    """A script that just ends has nothing left running; a thread can't be begun any more."""
    manager = known()
    if manager is None or loop.is_closed() or loop.is_running():
        return
    renewals = loop.run_until_complete(manager._disconnect())  # noqa: SLF001  # part of it
    if renewals is not None:
        renewals.close()
