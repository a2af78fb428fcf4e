"""One connected client: what it says about its gateway, and how it is asked whether it still lives.

Made by `connector.Connector`, held by a supervisor. It works with the client of ib_async and ib_insync alike and
imports neither. It knows what API codes mean for the connection and nothing of what is done about them: whoever made it
is told that something changed and looks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from spreadpilot_core.ibkr.api_client.frames import FrameGuard
from spreadpilot_core.ibkr.api_client.request_meter import RequestMeter
from spreadpilot_core.ibkr.errors import UnavailableError
from spreadpilot_core.ibkr.model.figures import ApiFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.seams import Instrumentation
from spreadpilot_core.ibkr.system.clock import Clock

REPEAT_AFTER = 1.5
"""Seconds: a gateway ignores a second request for the time within a second, whoever sent the first."""
ANSWER_FOR_USER_AFTER = 1.1
MOST_CODES = 50
LONGEST_TEXT = 200

LINK_LOST = frozenset({1100, 2110})
LINK_BACK = frozenset({1101, 1102})
DATA_LOST = 1101
CLOSING = {
    326: "its client id is in use",
    1300: "its API port changed",
    10141: "the paper trading disclaimer was not accepted",
}
"""Codes a gateway sends before it closes."""
_SYSTEM = frozenset({-1, 2147483647})
"""Request ids of notices that belong to no request."""


class HeartbeatError(UnavailableError):
    """The gateway did not answer a heartbeat, or its connection is closed."""


@dataclass(frozen=True, slots=True)
class ApiCode:
    """One notice of the gateway."""

    at: datetime
    code: int
    text: str


def remember_code(codes: deque[ApiCode], request_id: int, code: int, text: str, *, at: datetime) -> bool:
    """Keep a notice that belongs to no request; False for the others, which are the user's business."""
    if request_id not in _SYSTEM and code not in CLOSING:
        return False
    codes.append(ApiCode(at, code, str(text)[:LONGEST_TEXT]))
    return True


def let_go(ib: Any) -> None:
    """Disconnect a client, whatever state it is in: no socket is left, and whoever waits for an answer is told.

    A library's own `disconnect` leaves pending requests waiting for ever, and a socket whose peer reads no more open.
    """
    transport = ib.client.conn.transport
    for future in list(getattr(ib.wrapper, "_futures", {}).values()):
        if not future.done():
            future.set_exception(ConnectionError("The gateway manager let this client go."))
            future.exception()  # nobody may be waiting
    with contextlib.suppress(Exception):  # a user's subclass, and states in which the libraries raise
        ib.disconnect()
    with contextlib.suppress(Exception):
        ib.client.disconnect()
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()


class Connection:
    """A connected, synchronised client of one gateway."""

    def __init__(
        self,
        ib: Any,
        *,
        guard: FrameGuard,
        accounts: Iterable[str],
        codes: Iterable[ApiCode] = (),
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self.ib = ib
        self._guard = guard
        self.accounts = tuple(accounts)
        self.closed_reason: str | None = None
        """A sentence, once it is closed."""
        self.link_lost_since: datetime | None = None
        """Since when the gateway itself has lost IBKR (1100, 2110)."""
        self.data_lost = 0
        """How often the link came back with its subscriptions lost (1101)."""
        self.codes: deque[ApiCode] = deque(codes, maxlen=MOST_CODES)
        self.last_heartbeat: datetime | None = None
        self.round_trip: float | None = None
        """Seconds of the last heartbeat."""
        self._clock = clock
        self._on_change = on_change
        self._waiting: set[asyncio.Future[float]] = set()
        self._meter: RequestMeter | None = None
        self._answer_for_user: asyncio.TimerHandle | None = None
        for heard in self.codes:  # a gateway tells a new client at once that it has lost IBKR
            self._heed(heard.code)
        ib.errorEvent.connect(self._on_code)
        ib.disconnectedEvent.connect(self._on_disconnected)
        ib.client.conn.disconnected.connect(self._on_socket_closed)

    @property
    def is_open(self) -> bool:
        """Whether the socket is open and the client ready; true also while the gateway has lost IBKR."""
        return self.closed_reason is None and bool(self.ib.isConnected())

    def measure(self, follower_id: FollowerId, instrumentation: Instrumentation) -> None:
        """From now on what is asked through this client is measured; a client that is built otherwise is not."""
        with contextlib.suppress(AttributeError):
            self._meter = RequestMeter(self.ib, follower_id, instrumentation)

    @property
    def api_figures(self) -> ApiFigures | None:
        """What went through this client; None where that is not measured."""
        return self._meter.figures() if self._meter is not None else None

    async def heartbeat(self, *, timeout: float) -> float:  # noqa: ASYNC109  # the error names the figure
        """Ask for the time; any message that is decoded afterwards is the answer.

        Raw, not by `reqCurrentTimeAsync`: the libraries keep one future for it, and a user's call at the same time would
        orphan ours and theirs.

        Args:
            timeout: seconds to wait.

        Returns:
            Seconds from the request to the answer.

        Raises:
            HeartbeatError: no answer in time, or the connection is closed.
        """
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[float] = loop.create_future()

        def on_message() -> None:
            if not arrived.done():
                arrived.set_result(loop.time())

        self._guard.heard.add(on_message)
        self._waiting.add(arrived)
        try:
            sent = await self._ask_until(arrived, loop.time() + timeout)
            if not arrived.done():
                raise HeartbeatError(f"The gateway did not answer a heartbeat within {timeout:g} s.")
            round_trip = arrived.result() - sent
        finally:
            self._waiting.discard(arrived)
            self._guard.heard.discard(on_message)
        self.last_heartbeat = self._clock()
        self.round_trip = round_trip
        self._answer_user_later(loop, sent)
        return round_trip

    async def _ask_until(self, arrived: asyncio.Future[float], deadline: float) -> float:
        """Ask, and again while unanswered; gives the time of the last request."""
        loop = asyncio.get_running_loop()
        while True:
            sent = loop.time()
            self._request_time()
            await asyncio.wait([arrived], timeout=min(REPEAT_AFTER, deadline - sent))
            if arrived.done() or loop.time() >= deadline:
                return sent

    def _request_time(self) -> None:
        if not self.is_open:
            raise HeartbeatError(self.closed_reason or "The connection is closed.")
        try:
            self.ib.client.reqCurrentTime()
        except ConnectionError as error:
            raise HeartbeatError(f"The connection is closed: {error}.") from error

    def _answer_user_later(self, loop: asyncio.AbstractEventLoop, sent: float) -> None:
        """A user's request for the time that came within a second of ours was ignored: ask once more for them."""
        if self._answer_for_user is not None:
            self._answer_for_user.cancel()
        self._answer_for_user = loop.call_at(sent + ANSWER_FOR_USER_AFTER, self._ask_for_user)

    def _ask_for_user(self) -> None:
        self._answer_for_user = None
        pending = getattr(self.ib.wrapper, "_futures", {}).get("currentTime")
        if pending is not None and not pending.done():
            with contextlib.suppress(HeartbeatError):
                self._request_time()

    def disconnect(self) -> None:
        """Close it and take our handlers away; may be called again, and from any callback."""
        self._end("It was let go.")
        let_go(self.ib)

    # --- what the gateway tells

    def _on_code(self, request_id: int, code: int, text: str, *_contract: Any) -> None:
        if remember_code(self.codes, request_id, code, text, at=self._clock()) and (
            self._heed(code) or code in CLOSING
        ):
            self._on_change()

    def _heed(self, code: int) -> bool:
        """What a code says of the gateway's link to IBKR; False when it says nothing of it."""
        if code in LINK_LOST:
            self.link_lost_since = self.link_lost_since or self._clock()
        elif code in LINK_BACK:
            self.link_lost_since = None
            self.data_lost += code == DATA_LOST
        return code in LINK_LOST | LINK_BACK

    def _on_disconnected(self) -> None:
        if self.ib.client.conn.transport is None:
            self._on_socket_closed()
        else:
            self._closed("The client was disconnected by the program that uses it.")

    def _on_socket_closed(self, message: str = "") -> None:
        if self._guard.fault is not None:
            self._closed(f"The connection was closed: what answers as the gateway {self._guard.fault}.")
            return
        recent = self._clock() - timedelta(seconds=5)
        why = next((CLOSING[seen.code] for seen in self.codes if seen.code in CLOSING and seen.at > recent), message)
        self._closed(f"The gateway closed the connection: {why}." if why else "The gateway closed the connection.")

    def _closed(self, reason: str) -> None:
        if self.closed_reason is None:
            self._end(reason)
            self._on_change()

    def _end(self, reason: str) -> None:
        """From here on nothing of ours is attached to the client."""
        if self.closed_reason is not None:
            return
        self.closed_reason = reason
        if self._meter is not None:
            self._meter.end()
        self.ib.errorEvent.disconnect(self._on_code)
        self.ib.disconnectedEvent.disconnect(self._on_disconnected)
        self.ib.client.conn.disconnected.disconnect(self._on_socket_closed)
        if self._answer_for_user is not None:
            self._answer_for_user.cancel()
            self._answer_for_user = None
        for waiting in list(self._waiting):
            if not waiting.done():
                waiting.set_exception(HeartbeatError(reason))
                waiting.exception()  # the heartbeat may have been cancelled in the same moment
