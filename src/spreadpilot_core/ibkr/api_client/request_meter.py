"""Measures what a program asks of the IB API through one client object: how long, how it ends, how much.

It sits on the object's own seams and touches no class of a library: `client.send`, through which every request goes; the
wrapper's `startReq` and `_endReq`, between which a request is waited for; the decoder's table, for error messages. While
an order or a subscription waits for its first answer, and only then, it looks at each message as well. It works with
ib_async and ib_insync alike and imports neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from spreadpilot_core.ibkr.api_client.request_kinds import (
    ANSWERED_AT,
    CANCELLED_AT,
    ERROR,
    ERROR_CODE,
    ERROR_ID,
    NAMED_AT,
    OWN_HEARTBEAT,
    REQUEST_KINDS,
    WARNINGS,
)
from spreadpilot_core.ibkr.model.figures import ApiFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.seams import Instrumentation

_OTHER = "other"
Clock = Callable[[], float]
_Waiting = tuple[str, float]
"""The kind of a request, and when it was sent."""


class RequestMeter:
    """On one connected client, until it is let go."""

    def __init__(
        self, ib: Any, follower_id: FollowerId, instrumentation: Instrumentation, *, clock: Clock = time.perf_counter
    ) -> None:
        """Take place on the client.

        Args:
            ib: an `IB` of ib_async or ib_insync.
            follower_id: whose it is.
            instrumentation: is told of each request.
            clock: monotonic seconds.

        Raises:
            AttributeError: the client is built otherwise, so that it can't be measured.
        """
        self._client, self._wrapper, self._decoder = ib.client, ib.wrapper, ib.client.decoder
        self._follower_id = follower_id
        self._tell = instrumentation.request_ended
        self._clock = clock
        self._started: object = None
        """What `startReq` has just begun to wait for, until it is sent."""
        self._waiting: dict[object, _Waiting] = {}
        """Requests that are waited for, by the library's own key."""
        self._first: dict[str, _Waiting] = {}
        """Orders and subscriptions whose first answer is waited for, by id."""
        self._error: tuple[str, int] | None = None
        """Request and code of the error message that is being decoded."""
        self._last = ApiFigures()
        self._throttles = 0
        self._send, self._start_request = self._client.send, self._wrapper.startReq
        self._end_request, self._interpret = self._wrapper._endReq, self._decoder.interpret  # noqa: SLF001  # the seam
        self._decode_error = self._decoder.handlers[ERROR]
        self._client.send, self._wrapper.startReq = self._on_send, self._on_start
        self._wrapper._endReq = self._on_end  # noqa: SLF001  # as above
        self._decoder.handlers[ERROR] = self._on_error
        self._client.throttleStart.connect(self._on_throttle)

    # ------------------------------------------------------------------ what the program asks

    def _on_start(self, key: object, *arguments: Any, **named: Any) -> Any:
        self._started = key
        return self._start_request(key, *arguments, **named)

    def _on_send(self, *fields: Any, **named: Any) -> None:
        key, self._started = self._started, None
        number, at = fields[0], self._clock()
        kind = REQUEST_KINDS.get(number, _OTHER)
        try:
            self._send(*fields, **named)
        except ConnectionError:
            self._tell(self._follower_id, kind, self._clock() - at, "disconnected")
            raise
        if key is not None and (not isinstance(key, int) or key in fields[1:4]):
            self._waiting[key] = kind, at
        elif (place := NAMED_AT.get(number)) is not None:
            self._first[str(fields[place])] = kind, at
            self._decoder.interpret = self._on_message
        elif number != OWN_HEARTBEAT:
            self._tell(self._follower_id, kind, None, "sent")
            if (place := CANCELLED_AT.get(number)) is not None:
                self._cancelled(fields[place])

    def _cancelled(self, request_id: object) -> None:
        """The program, or its library for it, waits no longer."""
        for waiting in (self._waiting.pop(request_id, None), self._first.pop(str(request_id), None)):
            if waiting is not None:
                self._ended(waiting, "cancelled")

    # ------------------------------------------------------------------ what is answered

    def _on_end(self, key: object, *arguments: Any, **named: Any) -> None:
        waiting = self._waiting.pop(key, None)
        self._end_request(key, *arguments, **named)
        if waiting is None:
            return
        if self._error is not None and self._error[0] == str(key):
            self._ended(waiting, "error", self._error[1])
        else:
            self._ended(waiting, "ok")

    def _on_error(self, fields: list[str]) -> None:
        request_id, code = fields[ERROR_ID], int(fields[ERROR_CODE])
        self._error = request_id, code
        try:
            self._decode_error(fields)
        finally:
            self._error = None
        if code not in WARNINGS and (waiting := self._first.pop(request_id, None)) is not None:
            self._ended(waiting, "error", code)

    def _on_message(self, fields: list[str]) -> None:
        """Only while an order or a subscription waits for its first answer."""
        place = ANSWERED_AT.get(fields[0]) if fields else None
        answered = place is not None and len(fields) > place
        waiting = self._first.pop(fields[place], None) if place is not None and answered else None
        self._interpret(fields)
        if waiting is not None:
            self._ended(waiting, "ok")
        if not self._first:
            self._decoder.interpret = self._interpret

    def _ended(self, waiting: _Waiting, outcome: str, code: int | None = None) -> None:
        kind, at = waiting
        self._tell(self._follower_id, kind, self._clock() - at, outcome, code)

    def _on_throttle(self) -> None:
        self._throttles += 1

    # ------------------------------------------------------------------ what stands

    def figures(self) -> ApiFigures:
        """Of this client, since it was connected; may be asked for on another thread."""
        client, wrapper = self._client, self._wrapper
        tickers = sum(len(each) for each in list(wrapper.ticker2ReqId.values()))
        others = (wrapper.reqId2Subscriber, wrapper.reqId2PnL, wrapper.reqId2PnlSingle)
        self._last = ApiFigures(  # the library forgets its counts when the socket closes
            sent=max(self._last.sent, client.conn.numMsgSent),
            received=max(self._last.received, client._numMsgRecv),  # noqa: SLF001  # the figure of `connectionStats`
            throttles=self._throttles,
            queued=len(client._msgQ),  # noqa: SLF001  # nowhere else
            subscriptions=tickers + sum(map(len, others)),
        )
        return self._last

    def end(self) -> None:
        """Take everything away again; what still waits was cut off."""
        self._client.send, self._wrapper.startReq = self._send, self._start_request
        self._wrapper._endReq, self._decoder.interpret = self._end_request, self._interpret  # noqa: SLF001  # as above
        self._decoder.handlers[ERROR] = self._decode_error
        self._client.throttleStart.disconnect(self._on_throttle)
        for waiting in (*self._waiting.values(), *self._first.values()):
            self._ended(waiting, "disconnected")
        self._waiting.clear()
        self._first.clear()
