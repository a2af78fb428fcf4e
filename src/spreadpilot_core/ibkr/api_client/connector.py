"""From an endpoint to a live client: the raw probe, then one try with the client library, all or nothing.

One `Connector` serves the whole process and lets only a few clients connect at a time, since a connecting client keeps
the event loop busy. It tries once and says exactly what went wrong, by IBKR's codes and not by the libraries' guesses;
whether and when to try again is decided elsewhere. It works with any `IB` class of ib_async or ib_insync that
`ib_factory` makes, and imports neither.

The libraries log every failed try at ERROR, with advice that is often wrong here. While it connects, a client's own
loggers are turned down to DEBUG, for this client alone: logging itself is the user's to configure, and the error says more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

from spreadpilot_core.ibkr.api_client import handshake
from spreadpilot_core.ibkr.api_client.connection import (
    CLOSING,
    MOST_CODES,
    ApiCode,
    Connection,
    HeartbeatError,
    let_go,
    remember_code,
)
from spreadpilot_core.ibkr.api_client.frames import FrameGuard
from spreadpilot_core.ibkr.api_client.handshake import ProbeError, ProbeTrouble
from spreadpilot_core.ibkr.errors import UnavailableError
from spreadpilot_core.ibkr.system.clock import Clock, utc_now
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import traced

__all__ = ["ApiCode", "ConnectError", "Connection", "Connector", "HeartbeatError", "ProbeError"]

LONGEST_PLACE = 1.0
"""Seconds: a gateway that keeps a client waiting for longer keeps no other client waiting."""
STAGE_SHARE = 2 / 3
"""Of the timeout, for one stage (ready, synchronised, executions): a gateway that never answers one may still be used."""

MOST_ACCOUNTS = 1000
"""Of one login; an advisor's has some hundred."""
_NAMED_ACCOUNTS = 10
"""Of a wrong login, in the sentence."""
_ACCOUNT = re.compile(r"[A-Za-z0-9._-]{1,32}")

ConnectTrouble = (
    ProbeTrouble | Literal["client_id_in_use", "disclaimer", "mute", "unsynchronised", "wrong_account", "failed"]
)
_REFUSALS: dict[int, ConnectTrouble] = {326: "client_id_in_use", 10141: "disclaimer"}
"""Codes after which a gateway closes: nobody need wait for that."""


class ConnectError(UnavailableError):
    """One try to connect failed.

    `kind` says in which way, `codes` what the gateway sent meanwhile, oldest first.
    """

    def __init__(self, sentence: str, codes: tuple[int, ...], kind: ConnectTrouble) -> None:
        self.codes = codes
        self.kind: ConnectTrouble = kind
        super().__init__(sentence)


class Connector:
    """Makes connections; one per process."""

    def __init__(self, *, ib_factory: Callable[[], Any], clock: Clock = utc_now, parallel: int = 8) -> None:
        """Make a connector.

        Args:
            ib_factory: makes a new, unconnected client, such as `ib_async.IB`.
            clock: now, in UTC.
            parallel: clients that connect at a time.
        """
        self._ib_factory = ib_factory
        self._clock = clock
        self._places = asyncio.Semaphore(parallel)

    async def probe(self, host: str, port: int, *, timeout: float) -> int:  # noqa: ASYNC109  # as `handshake.probe`
        """Shake hands raw; see `handshake.probe`."""
        return await handshake.probe(host, port, timeout=timeout)

    async def connect(
        self,
        host: str,
        port: int,
        client_id: int,
        *,
        account: str | None,
        read_only: bool,
        timeout: float,  # noqa: ASYNC109  # the error names the figure
        on_change: Callable[[], None],
    ) -> Connection:
        """Try once: raw probe, then a client that is ready, synchronised and manages the right account.

        Args:
            host: address of the gateway's API.
            port: its port.
            client_id: the client id to use.
            account: must be among the managed accounts; None accepts any.
            read_only: the gateway's API is read-only, so orders are not asked for.
            timeout: seconds for the probe, and again for the client; the wait for its turn is not counted.
            on_change: called when the connection closes, or loses or regains IBKR.

        Returns:
            The open connection.

        Raises:
            ConnectError: it failed; nothing is left of the try.
        """
        place: dict[str, str | int] = {"server.address": host, "server.port": port}
        try:
            with traced("api handshake", place):
                await self.probe(host, port, timeout=timeout)
        except ProbeError as error:
            raise ConnectError(str(error), (), error.trouble) from error
        attempt = _Attempt(self._make_ib(), f"{host}:{port}", account, self._clock)
        arguments = {"clientId": client_id, "readonly": read_only, "account": account or ""}
        async with self._place():
            with traced("api session", place):
                return await attempt.connect(host, port, arguments, timeout=timeout, on_change=on_change)

    def _make_ib(self) -> Any:
        try:
            return self._ib_factory()
        except Exception as error:
            raise ConnectError(f"ib_factory made no client: {error!r}.", (), "failed") from error

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        await self._places.acquire()
        place = _Place(self._places)
        try:
            yield
        finally:
            place.end()


class _Place:
    """One of the few places to connect; given back once, at the end or when it has taken too long."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places: asyncio.Semaphore | None = places
        self._timer = asyncio.get_running_loop().call_later(LONGEST_PLACE, self.end)

    def end(self) -> None:
        """Give the place back."""
        self._timer.cancel()
        if self._places is not None:
            self._places.release()
            self._places = None


class _Attempt:
    """One client on its way. It listens while the library connects, and stops it when nothing good can come any more."""

    def __init__(self, ib: Any, endpoint: str, account: str | None, clock: Clock) -> None:
        self._ib = ib
        self._clock = clock
        self._endpoint = endpoint
        self._account = account
        self._codes: deque[ApiCode] = deque(maxlen=MOST_CODES)
        self._tasks = Tasks(f"connect {endpoint}")
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connecting: asyncio.Task[Any] | None = None
        self._accounts: list[str] = []
        """The managed accounts, from when the client is ready."""
        self._odd_accounts = False
        self._is_closed = False
        self._guard = FrameGuard(ib.client)

    async def connect(
        self,
        host: str,
        port: int,
        arguments: dict[str, Any],
        *,
        timeout: float,  # noqa: ASYNC109  # the error names the figure
        on_change: Callable[[], None],
    ) -> Connection:
        """Connect, or leave nothing behind."""
        try:
            with _turned_down(self._ib), self._listening():
                await self._run(self._ib.connectAsync(host, port, timeout=timeout * STAGE_SHARE, **arguments), timeout)
            self._believe_library()
        except Exception as error:
            let_go(self._ib)
            raise self._failure(error, timeout) from error
        except BaseException:
            let_go(self._ib)
            raise
        return Connection(
            self._ib,
            guard=self._guard,
            accounts=self._accounts,
            codes=self._codes,
            clock=self._clock,
            on_change=on_change,
        )

    async def _run(self, connecting: Any, timeout: float) -> None:  # noqa: ASYNC109  # one of two ways to be stopped
        """Let the library connect in a task of its own, which is cancelled until it listens.

        The libraries use `asyncio.wait_for`, which swallows a cancellation that comes in the moment its work is done.
        """
        task = self._connecting = self._tasks.begin("client", connecting, then=_retrieve_outcome)
        try:
            await asyncio.wait([task, self._stopped], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.1)
        if task.cancelled():
            raise TimeoutError
        task.result()

    def _believe_library(self) -> None:
        """It says that it is connected: true unless we know better."""
        if self._is_closed or self._odd_accounts or self._misses_account or not self._ib.isConnected():
            raise ConnectionError("not connected after all")

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        client = self._ib.client
        heard = (
            (self._ib.errorEvent, self._on_code),
            (client.apiStart, self._on_ready),
            (client.conn.disconnected, self._on_closed),
        )
        for event, handler in heard:
            event.connect(handler)
        try:
            yield
        finally:
            for event, handler in heard:
                event.disconnect(handler)

    def _on_code(self, request_id: int, code: int, text: str, *_contract: Any) -> None:
        if remember_code(self._codes, request_id, code, text, at=self._clock()) and code in _REFUSALS:
            self._stop()

    def _on_ready(self) -> None:
        accounts = list(self._ib.client.getAccounts())
        if len(accounts) > MOST_ACCOUNTS or not all(map(_ACCOUNT.fullmatch, accounts)):
            self._odd_accounts = True
            self._stop()
            return
        self._accounts = accounts
        if self._misses_account:
            self._stop()

    def _on_closed(self, _message: str = "") -> None:
        if self._connecting is None or self._connecting.done():
            return  # the library itself closed when it gave up
        self._is_closed = True
        self._stop()

    def _stop(self) -> None:
        """End the library's waiting now."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    @property
    def _misses_account(self) -> bool:
        return self._account is not None and self._account not in self._accounts

    def _failure(self, error: Exception, timeout: float) -> ConnectError:
        """Why it failed: what the gateway said goes before what the library made of it."""
        codes = tuple(seen.code for seen in self._codes)
        refusal = next((code for code in codes if code in _REFUSALS), None)
        if refusal is not None:
            sentence = f"The gateway on {self._endpoint} refused the client: {CLOSING[refusal]} (code {refusal})."
            return ConnectError(sentence, codes, _REFUSALS[refusal])
        if self._guard.fault is not None:
            return ConnectError(f"What answers on {self._endpoint} {self._guard.fault}.", codes, "garbage")
        if self._odd_accounts:
            sentence = f"What answers on {self._endpoint} names accounts as no gateway does."
            return ConnectError(sentence, codes, "garbage")
        if self._accounts and self._misses_account:
            return ConnectError(self._other_accounts(), codes, "wrong_account")
        kind, sentence = self._silence(error, timeout)
        heard = f" It sent {', '.join(map(str, codes))}." if codes else ""
        return ConnectError(f"The gateway on {self._endpoint} {sentence}.{heard}", codes, kind)

    def _silence(self, error: Exception, timeout: float) -> tuple[ConnectTrouble, str]:
        if self._is_closed:
            return "closed", "closed the connection while the client connected"
        if not isinstance(error, TimeoutError):
            return "failed", f"and the client did not come together: {error!r}"
        if self._accounts:
            return "unsynchronised", f"did not send its state within {timeout:g} s"
        return "mute", "answers the handshake and then nothing: its login may be lost"

    def _other_accounts(self) -> str:
        """Whole: they are there to be compared, and `status` shows them too."""
        more = len(self._accounts) - _NAMED_ACCOUNTS
        managed = ", ".join(self._accounts[:_NAMED_ACCOUNTS]) + (f" and {more} more" if more > 0 else "")
        return f"This login manages {managed}, and the record asks for {self._account}."


def _retrieve_outcome(task: asyncio.Task[Any]) -> None:
    """Whoever began the task looks at its outcome; one that was left behind is not complained about."""
    if not task.cancelled():
        task.exception()


class _TurnedDown(logging.LoggerAdapter[logging.Logger]):
    """Passes everything on at DEBUG."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        super().log(min(level, logging.DEBUG), msg, *args, **kwargs)


@contextlib.contextmanager
def _turned_down(ib: Any) -> Iterator[None]:
    """The loggers of this one client at DEBUG; the libraries offer no other way that touches this client alone."""
    parts = [vars(part) for part in (ib, ib.client, ib.wrapper)]
    loud = [(part, part["_logger"]) for part in parts if isinstance(part.get("_logger"), logging.Logger)]
    for part, logger in loud:
        part["_logger"] = _TurnedDown(logger)
    try:
        yield
    finally:
        for part, logger in loud:
            part["_logger"] = logger
