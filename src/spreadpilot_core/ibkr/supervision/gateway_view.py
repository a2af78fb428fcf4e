"""One gateway as it is there now: its container, its log, its connection. Facts only; deciding is elsewhere.

Facts belong to one life of one container (id and start time). When another life is seen, log and connection start anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from spreadpilot_core.ibkr.api_client.connection import Connection
from spreadpilot_core.ibkr.controller_log.reader import LoginLog, LoginView
from spreadpilot_core.ibkr.deciding.observation import ConnectionView
from spreadpilot_core.ibkr.errors import UnavailableError
from spreadpilot_core.ibkr.model.figures import ApiFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase, LastWords
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.reporting.announcer import Announcer
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.tasks import Tasks, is_being_cancelled
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

LOG_AGAIN = 2.0
"""Seconds before a log that broke off is followed again."""
LOG_ENDS_WITHIN = 5.0
"""Seconds that the log of a container that ended may take to end too: a stream that hangs must hide no death."""
LOG_TRIES = 3
"""How often the log of a container that ended is tried: what it said last is worth a few seconds, and no more."""


class GatewayView:
    """What is known about one gateway that is there, or that none is."""

    def __init__(
        self, follower_id: FollowerId, services: Services, tasks: Tasks, announcer: Announcer, wake: Callable[[], None]
    ) -> None:
        self._follower_id = follower_id
        self._services = services
        self._tasks = tasks
        self._announcer = announcer
        self._wake = wake
        self.gateway: Gateway | None = None
        self.stale = False
        """An event said that the container changed, or an action left it open what is there."""
        self.connection: Connection | None = None
        self.secret_forgotten = True
        self.log_ended = True
        self._login_log: LoginLog | None = None
        self._last: tuple[ContainerId, LoginLog] | None = None
        """The container that is gone, and what it had logged."""
        self._log_task: asyncio.Task[None] | None = None
        self._log_end_task: asyncio.Task[None] | None = None
        self._api_before: ApiFigures | None = None
        """Of the clients before this one."""

    @property
    def login_view(self) -> LoginView | None:
        """What the log of this life says."""
        return self._login_log.view if self._login_log is not None else None

    @property
    def last_login_view(self) -> LoginView | None:
        """What the log of the container that is gone said, its last words included; None once it is forgotten."""
        return self._last[1].view if self._last is not None else None

    @property
    def container_id(self) -> ContainerId | None:
        """The container that is there, or the one that is gone and not forgotten."""
        if self.gateway is not None:
            return self.gateway.container_id
        return self._last[0] if self._last is not None else None

    def forget_last(self) -> None:
        """Nothing is left to be done about the container that is gone."""
        self._last = None

    @property
    def connection_view(self) -> ConnectionView | None:
        """The connection as deciding sees it."""
        connection = self.connection
        if connection is None:
            return None
        return ConnectionView(
            is_open=connection.is_open,
            accounts=connection.accounts,
            last_heartbeat=connection.last_heartbeat,
            link_lost_since=connection.link_lost_since,
            data_lost=connection.data_lost,
            closed_reason=connection.closed_reason,
        )

    @property
    def api_figures(self) -> ApiFigures | None:
        """What went through this follower's clients; None where that is not measured. May be asked for on another thread."""
        connection, before = self.connection, self._api_before
        now = connection.api_figures if connection is not None else None
        return before if now is None else now.after(before or ApiFigures())

    @property
    def endpoint(self) -> str | None:
        """Where the API answers, as "host:port"."""
        return str(self.gateway.endpoint) if self.gateway is not None and self.gateway.endpoint is not None else None

    @property
    def is_running(self) -> bool:
        """Whether the runtime says that its process runs."""
        return self.gateway is not None and self.gateway.phase is GatewayPhase.RUNNING

    def see(self, gateway: Gateway | None) -> bool:
        """The container as the runtime says it is now (None: confirmed gone); True when one went."""
        before, self.gateway = self.gateway, gateway
        self.stale = False
        if gateway is None:
            self.drop_connection("its container is gone", ReasonCode.CONTAINER_ENDED)
            if before is not None and self._login_log is not None:
                self._last = before.container_id, self._login_log
            self._stop_log()
        elif before is None or _life(before) != _life(gateway):
            self._stop_log()
            self.drop_connection("its container began another life", ReasonCode.CONTAINER_RESTARTED)
            self._last = None
            if not gateway.phase.precedes_login:
                self.log_ended, self._login_log = False, LoginLog(gateway.controller)
                self._log_task = self._tasks.begin("follow the log", self._follow_log(gateway, self._login_log))
        if gateway is not None and gateway.phase is GatewayPhase.EXITED and self._log_end_task is None:
            self._log_end_task = self._tasks.begin("see the log's end", self._see_log_end(gateway, self._login_log))
        self._wake()
        return before is not None and gateway is None

    def hear_last_words(self, words: LastWords) -> None:
        """The end of its log may come with its removal before the stream brings it; lines that came already say nothing."""
        if self._login_log is not None:
            for line in words.lines:
                self._login_log.read(line)

    def connected(self, connection: Connection, gateway: Gateway | None) -> None:
        """A client of this gateway is connected; one of another life is let go."""
        if gateway is None or self.gateway is None or _life(gateway) != _life(self.gateway):
            connection.disconnect()
        else:
            self.connection = connection

    def drop_connection(self, why: str, code: ReasonCode | None = ReasonCode.CONNECTION_CLOSED) -> None:
        """Disconnect the client, if there is one; `code` says what for."""
        if (figures := self.api_figures) is not None:
            self._api_before = replace(figures, queued=0, subscriptions=0)
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.disconnect()
            self._announcer.connection_dropped(connection, why, code or ReasonCode.CONNECTION_CLOSED)

    def drop_closed_connection(self, code: ReasonCode | None) -> None:
        """Let a connection go that was closed under us; `code` says what was decided on that."""
        if self.connection is not None and not self.connection.is_open:
            self.drop_connection(self.connection.closed_reason or "the socket was closed", code)

    def _stop_log(self) -> None:
        for task in (self._log_task, self._log_end_task):
            if task is not None:
                task.cancel()
        self._log_task, self._log_end_task, self._login_log, self.log_ended = None, None, None, True

    async def _see_log_end(self, gateway: Gateway, login_log: LoginLog | None) -> None:
        """Read the log again when it does not end with its container, and in the end go without its last lines."""
        for _ in range(LOG_TRIES):
            await asyncio.sleep(LOG_ENDS_WITHIN)
            if self.log_ended or login_log is None or self._log_task is None:
                return
            log.warning("log did not end with its container", follower=self._follower_id)
            self._log_task.cancel()
            self._log_task = self._tasks.begin("follow the log", self._follow_log(gateway, login_log))
        await asyncio.sleep(LOG_ENDS_WITHIN)
        self.log_ended = True
        self._wake()

    async def _follow_log(self, gateway: Gateway, login_log: LoginLog) -> None:
        """Read the log of this life to its end; one that breaks off is followed again (it knows lines that come twice)."""
        failures = 0
        while True:
            try:
                async for line in self._services.runtime.log(gateway):
                    if login_log.read(line):
                        self._wake()
            except (
                Exception,
                asyncio.CancelledError,
            ) as error:  # an outage, a refusal, a line that nobody foresaw: all the same here
                if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                    raise
                level = "debug" if isinstance(error, UnavailableError) else "warning"
                getattr(log, level)("log broke off", follower=self._follower_id, error=repr(error))
                failures += not self.is_running
                if failures < LOG_TRIES:
                    await asyncio.sleep(LOG_AGAIN)
                    continue
            self.log_ended = True
            self.stale = self.is_running  # a log ends with its container: ask the runtime
            self._wake()
            await asyncio.sleep(LOG_AGAIN)
            if not self.is_running:
                return
            log.warning("log ended before its container", follower=self._follower_id)
            self.log_ended = False


def _life(gateway: Gateway) -> tuple[str, object]:
    return gateway.container_id, gateway.started_at
