"""One API client on one connection: handshake, START_API, then requests until either side goes away.

`ApiServer` has one per accepted connection. It knows the order of an opening and its faults; what a request means is left
to the dispatcher and the desks.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from spreadpilot_core.ibkr.simulator.api import wire
from spreadpilot_core.ibkr.simulator.api.desks import Desks
from spreadpilot_core.ibkr.simulator.api.dispatch import dispatch
from spreadpilot_core.ibkr.simulator.api.line import Line
from spreadpilot_core.ibkr.simulator.api.pace import LIMIT, Pace
from spreadpilot_core.ibkr.simulator.behaviour import Behaviour
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange

_READ_SIZE = 1 << 16
_START_API = "71"
_DUPLICATE_LINGERS = 0.7
"""Seconds between error 326 and the close, as a live gateway takes."""
_NO_REQUEST = -1
_FARMS = (
    (2104, "Market data farm connection is OK:usfarm"),
    (2106, "HMDS data farm connection is OK:ushmds"),
    (2158, "Sec-def data farm connection is OK:secdefil"),
)
_LINK_LOST = (
    (2110, "Connectivity between Trader Workstation and server is broken. It will be restored automatically."),
)


class ClientGoneError(Exception):
    """The connection has to end, or has ended."""


class Door(Protocol):
    """What a session asks the server about."""

    server_version: int
    behaviour: Behaviour

    def is_full(self) -> bool:
        """Whether the gateway has all the clients it takes."""

    def has_client(self, client_id: int) -> bool:
        """Whether a started session has this client id."""

    def started(self, session: Session) -> None:
        """A session has started."""

    def handled(self) -> None:
        """A session has handled what it had read."""


class Session:
    """One client's connection."""

    def __init__(
        self,
        door: Door,
        exchange: Exchange,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        read_only: bool,
    ) -> None:
        self._door = door
        self._reader = reader
        self._exchange = exchange
        self.line = Line(writer, door.behaviour)
        self.desks = Desks(self.line, exchange, door.behaviour, read_only=read_only)
        self.has_started = False
        self._pace = Pace(asyncio.get_running_loop().time())

    @property
    def client_id(self) -> int:
        """The client's id; -1 before START_API."""
        return self.line.client_id

    async def run(self) -> None:
        """Serve the connection until it has to end, then close it."""
        try:
            with contextlib.suppress(ConnectionError, wire.WireError, ClientGoneError):
                await self._serve()
        finally:
            self.line.close()
            self._exchange.forget(self.desks)

    async def _serve(self) -> None:
        frames = await self._shake_hands()
        data = b""
        while True:
            for payload in frames.feed(data):
                await self._take(payload.removesuffix(b"\0").decode("utf-8", "backslashreplace").split("\0"))
            self._door.handled()
            data = await self._read()

    # --- opening

    async def _read(self) -> bytes:
        behaviour = self._door.behaviour
        await behaviour.while_frozen()
        data = await self._reader.read(_READ_SIZE)
        await behaviour.while_frozen()
        if not data or self.line.is_closing:
            raise ClientGoneError
        return data

    async def _shake_hands(self) -> wire.Frames:
        handshake = wire.Handshake()
        while (hello := handshake.feed(await self._read())) is None:
            pass
        if self._door.behaviour.mute_handshake:
            await self._say_nothing()
        self.line.greet(wire.negotiate(hello, self._door.server_version))
        return handshake.frames

    async def _say_nothing(self) -> None:
        while True:
            await self._read()

    async def _take(self, texts: list[str]) -> None:
        if self.line.is_closing:
            raise ClientGoneError
        if not self.has_started:
            await self._start(texts)
        elif self._keeps_pace():
            dispatch(self.desks, texts)

    async def _start(self, texts: list[str]) -> None:
        behaviour = self._door.behaviour
        client_id = _client_id(texts)
        if behaviour.mute_start:
            await self._say_nothing()
        if behaviour.disclaimer_pending:
            self.line.error(_NO_REQUEST, 10141, "Paper trading disclaimer must first be accepted for API connection.")
            raise ClientGoneError
        if behaviour.close_early or self._door.is_full():
            raise ClientGoneError
        if self._door.has_client(client_id):
            await self._turn_away()
        self.line.client_id = client_id
        self.has_started = True
        self._exchange.listen(self.desks)
        self.desks.accounts.managed_accounts()
        self.desks.orders.next_valid_id()
        for code, text in _LINK_LOST if behaviour.link_lost else _FARMS:
            self.line.error(_NO_REQUEST, code, text)
        self._door.started(self)

    async def _turn_away(self) -> None:
        text = "Unable to connect as the client id is already in use. Retry with a unique client id."
        self.line.error(_NO_REQUEST, 326, text)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._say_nothing(), _DUPLICATE_LINGERS)
        raise ClientGoneError

    def _keeps_pace(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._pace.take(now):
            return True
        if self._pace.strike(now):
            text = (
                f"Max rate of messages per second has been exceeded:max={LIMIT} rec={LIMIT + 1} ({self._pace.strikes})"
            )
            self.line.error(_NO_REQUEST, 100, text)
        if self._pace.is_abuse:
            raise ClientGoneError
        return False


def _client_id(texts: list[str]) -> int:
    """The client id of a START_API request.

    Raises:
        ClientGoneError: it is none.
    """
    if len(texts) < 3 or texts[0] != _START_API:  # noqa: PLR2004  # number, version, client id
        raise ClientGoneError
    try:
        return int(texts[2])
    except ValueError:
        raise ClientGoneError from None
