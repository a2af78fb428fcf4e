"""One follower's client in this process: leased, connected, and connected again for as long as somebody wants it.

lease         a client id, once the gateway is ready; the same one over every restart of gateway and manager
connect       in this process
ready         until the socket closes, the gateway is replaced, or the lease is lost; then from the top
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Protocol

from spreadpilot_core.ibkr.api_client.connector import ConnectError, Connection, Connector
from spreadpilot_core.ibkr.errors import (
    ClientLeaseLostError,
    GatewayDownError,
    GatewayManagerError,
    GatewayNotReadyError,
    UnavailableError,
)
from spreadpilot_core.ibkr.model.client_leases import LeasedClient
from spreadpilot_core.ibkr.remote.lease_renewals import LeaseRenewals, clients_path, lease_path
from spreadpilot_core.ibkr.remote.transport import AsyncLine, ManagerAwayError
from spreadpilot_core.ibkr.tasks import Backoff
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

ASK_FOR = 25.0
"""Seconds that one request waits for a gateway: longer ones are cut by what lies between."""
CONNECT_WITHIN = 20.0
"""Seconds for one try to connect, and again for the state of the account."""
SAME_ID_TRIES = 4
"""Of a client id that was ours a moment ago: a gateway may take a while to see that the old socket is dead."""
DOWN_AGAIN_AFTER = 5.0
"""Seconds before a gateway that is down is asked for again."""
AWAY_LOGGED_AFTER = 5.0
"""Seconds for which a manager may be away without a word of it: one that restarts is back sooner."""
STABLE_AFTER = 10.0
"""Seconds that a connection must have lasted for the next one to be made at once: a gateway that hangs up is no peer to hammer."""


class Listener(Protocol):
    """Who hears what becomes of a client."""

    def ready(self, follower_id: str, connection: Connection, leased: LeasedClient) -> None:
        """It is connected."""

    def stale(self, follower_id: str, ib: Any, why: str) -> None:
        """It is disconnected for good."""


class HeldClient:
    """Of one follower, on one event loop."""

    def __init__(
        self,
        follower_id: str,
        *,
        line: AsyncLine,
        renewals: LeaseRenewals,
        connector: Connector,
        name: str | None,
        listener: Listener,
    ) -> None:
        self._follower_id = follower_id
        self._line = line
        self._renewals = renewals
        self._connector = connector
        self._name = name
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        self._begun = 0
        """Tries that were begun."""
        self._outcomes: dict[int, GatewayManagerError] = {}
        """How the last one failed."""
        self._leased: LeasedClient | None = None
        self._connection: Connection | None = None
        self._was_connected = False
        """With the client id that is leased now."""
        self._serial: str | None = None
        """Of the gateway that the connection goes to."""
        self._away_since: float | None = None
        """Since when no manager answers."""
        self._away_logged = False

    @property
    def ib(self) -> Any | None:
        """The connected client."""
        connection = self._connection
        return connection.ib if connection is not None and connection.is_open else None

    @property
    def leased(self) -> LeasedClient | None:
        """What is held of the manager."""
        return self._leased

    async def wait(self, within: float) -> GatewayManagerError | None:
        """Wait until there is a client, or until waiting is no use or took too long: then why."""
        first = self._begun + 1 if self.ib is None and self._outcomes else self._begun
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self.ib is None:
                    self._tried.clear()
                    last = max(self._outcomes, default=0)
                    why = self._outcomes.get(last)
                    if last >= first and why is not None and is_final(why):
                        return why
                    await self._tried.wait()
        return None if self.ib is not None else self._outcomes.get(max(self._outcomes, default=0))

    # ------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Keep it connected until cancelled."""
        backoff = Backoff(0.2, DOWN_AGAIN_AFTER)
        try:
            while True:
                self._begun += 1
                self._wake.clear()
                begun_at = self._loop.time()
                try:
                    await self._connect()
                except GatewayManagerError as error:
                    self._settle(error)
                    self._log_if_away(error, begun_at)
                    await self._pause(DOWN_AGAIN_AFTER if is_final(error) else backoff.next())
                    continue
                self._settle(None)
                self._away_since, self._away_logged = None, False
                connected_at = self._loop.time()
                await self._until_lost()
                if self._loop.time() - connected_at >= STABLE_AFTER:
                    backoff.reset()
                else:
                    await self._pause(backoff.next())
        finally:
            self._drop("this program let it go")

    async def _pause(self, seconds: float) -> None:
        """Unless somebody wants it sooner."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _settle(self, error: GatewayManagerError | None) -> None:
        self._outcomes = {self._begun: error} if error is not None else {}
        self._tried.set()

    def _log_if_away(self, error: GatewayManagerError, begun_at: float) -> None:
        """Once, after a while: who waits for a client should know for what."""
        if not isinstance(error, ManagerAwayError):
            self._away_since, self._away_logged = None, False
            return
        if self._away_since is None:
            self._away_since = begun_at
        if not self._away_logged and self._loop.time() - self._away_since >= AWAY_LOGGED_AFTER:
            self._away_logged = True
            log.warning("manager away", follower=self._follower_id, sentence=f"{error.what} It is waited for.")

    async def _connect(self) -> None:
        leased = await self._lease()
        assert leased.host is not None and leased.port is not None  # noqa: PT018  # it is ready
        for left in reversed(range(SAME_ID_TRIES if self._was_connected else 1)):
            try:
                connection = await self._connector.connect(
                    leased.host,
                    leased.port,
                    leased.client_id,
                    account=leased.account,
                    read_only=leased.read_only,
                    timeout=CONNECT_WITHIN,
                    on_change=self._wake.set,
                )
                break
            except ConnectError as error:
                if error.kind != "client_id_in_use":
                    raise
                if left == 0:  # the next one; this one is free again once its lease has expired
                    self._forget_lease()
                    raise
                await asyncio.sleep(1.0)
        self._connection, self._serial, self._was_connected = connection, leased.serial, True
        _notice_silence(connection.ib)
        self._listener.ready(self._follower_id, connection, leased)

    async def _lease(self) -> LeasedClient:
        """A client id at a gateway that is ready."""
        if self._leased is None:
            path = f"{clients_path(self._follower_id)}?wait={ASK_FOR:g}"
            body = {"name": self._name} if self._name is not None else None
            leased = LeasedClient.model_validate(await self._line.ask("POST", path, body, within=2 * ASK_FOR))
            self._leased, self._was_connected = leased, False
            self._renewals.keep(leased, self._renewed_elsewhere)
            return leased
        path = f"{lease_path(self._follower_id, self._leased.lease)}?wait={ASK_FOR:g}"
        try:
            leased = LeasedClient.model_validate(await self._line.ask("PUT", path, within=2 * ASK_FOR))
        except ClientLeaseLostError:
            self._forget_lease()
            raise
        if not leased.ready:
            kind = GatewayDownError if leased.is_down else GatewayNotReadyError
            raise kind(self._follower_id, "not ready", leased.reason, None)
        self._leased = leased
        return leased

    def _forget_lease(self) -> None:
        if self._leased is not None:
            self._renewals.let_go(self._leased.lease)
        self._leased, self._was_connected = None, False

    async def _until_lost(self) -> None:
        """Return when the client is of no use any more; it is let go then."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            connection, leased = self._connection, self._leased
            if connection is None or not connection.is_open:
                self._drop((connection.closed_reason if connection is not None else None) or "its socket was closed")
                return
            if leased is not None and leased.serial is not None and leased.serial != self._serial:
                self._drop("its gateway was replaced")
                return

    def _drop(self, why: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._listener.stale(self._follower_id, connection.ib, why)

    # ------------------------------------------------------------------ from the renewing thread

    def _renewed_elsewhere(self, answer: LeasedClient | ClientLeaseLostError) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._renewed, answer)

    def _renewed(self, answer: LeasedClient | ClientLeaseLostError) -> None:
        if isinstance(answer, ClientLeaseLostError):  # its holder may not use it as long as we are connected with it
            log.warning("client id lost", follower=self._follower_id, why=str(answer))
            self._leased, self._was_connected = None, False
        elif self._leased is not None and answer.lease == self._leased.lease and answer.ready:
            self._leased = answer  # of a gateway that is away nothing is told; what was known of ours stays
        self._wake.set()


def is_final(error: GatewayManagerError) -> bool:
    """Whether waiting any longer is no use: the manager said so, and does not merely have to be waited for."""
    return isinstance(error, GatewayDownError) or not isinstance(error, UnavailableError | ClientLeaseLostError)


def _notice_silence(ib: Any) -> None:
    """Have the system look whether the other side still lives; a renewal says whether the gateway does."""
    transport = ib.client.conn.transport
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
