"""Which of several managers on one database acts: the holder of the term. The others stand by.

    gateway_term   {holder, engine_id, number, term}, and its version as a counter (see `mongo_versions`)

No wall clock is trusted. The holder writes a new version every quarter of the term, and counts its term from the moment
before it asked. A waiter that has seen the same version for the whole term, on a clock of its own that also runs while
the process is stopped or the host sleeps, takes over by writing the version after it. So the holder's term has always
ended when the waiter's begins, and a holder that was frozen finds out by its own clock before it does anything.

Where the gateways run on another engine, silence does not prove that they are gone: there it takes an operator's word.
A request that the old holder sent before its term ended can't be recalled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.store.mongo_versions import Version

log = structlog.get_logger(__name__)

COLLECTION = "gateway_term"
NAME = "term"
TERM = 10.0
"""Seconds without a sign of life after which another manager may take over."""
MARGIN = 0.1
"""Part of the term that the holder leaves unused: what it began just before must have reached the engine."""
LOOK_EVERY = 0.5
"""Seconds between two looks of a manager that stands by."""


class TermDocument(Protocol):
    """The one document, as `MongoVersions` keeps it."""

    async def read(self, name: str) -> Version:
        """The newest version."""

    async def write(self, read: Version, content: Mapping[str, Any]) -> bool:
        """Write the version after the one that was read, unless somebody else has."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Who acts, as this manager knows it."""

    held: bool
    number: int
    """Of the term: grows with each change of the holder."""
    holder: str | None
    sentence: str
    needs_operator: bool = False
    """Whether the holder is silent and only an operator's word lets this manager act."""
    overrode: bool = False
    """Whether the term was just taken by the operator's word alone."""


def _running_clock() -> float:
    """Seconds that go on while the host sleeps, where the system has such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Term:
    """One manager's part in it.

    Args:
        document: shared by all managers on the database.
        holder: this manager's name, for people. The same name is the same manager: a restart takes up its own term.
        engine_id: names what the gateways run on.
        term: seconds.
        clock: seconds; never set back.
    """

    def __init__(
        self,
        document: TermDocument,
        *,
        holder: str,
        engine_id: str,
        term: float = TERM,
        clock: Callable[[], float] = _running_clock,
    ) -> None:
        self._document = document
        self._holder = holder
        self._engine_id = engine_id
        self._term = term
        self._clock = clock
        self._until = float("-inf")
        self._number = 0
        self._override = ""
        """How this term was taken by the operator's word, until it is held and that was told."""
        self._seen: tuple[int, float] = (0, float("-inf"))
        """The version that another manager wrote last, and when it was first seen."""

    @property
    def held(self) -> bool:
        """Whether this manager may act now. Ask before every single act: it ends by itself."""
        return self._clock() < self._until

    @property
    def pause(self) -> float:
        """Seconds until the next `step` is due."""
        return min(self._term / 4, max(self._until - self._clock(), 0.01)) if self.held else LOOK_EVERY

    async def step(self, *, take_over: bool = False) -> Standing:
        """Renew, take or watch the term once.

        Args:
            take_over: an operator's word that a silent manager on another engine is gone with its gateways.

        Raises:
            StoreUnavailableError: nothing is known; `held` goes on to its end.
        """
        asked_at = self._clock()
        read = await self._document.read(NAME)
        holder, number = read.content.get("holder"), int(read.content.get("number") or 0)
        if holder == self._holder and number == self._number:
            return await self._write(read, number, asked_at, "goes on to hold")
        self._until = float("-inf")
        if holder is None or holder == self._holder:
            return await self._write(read, number + 1, asked_at, "takes")
        if read.number != self._seen[0]:
            self._seen = (read.number, self._clock())
        silent = asked_at - self._seen[1]
        elsewhere = read.content.get("engine_id") != self._engine_id
        if silent < float(read.content.get("term") or self._term):
            where = ", on another engine," if elsewhere else ""
            return Standing(False, number, holder, f"It stands by: {holder}{where} holds the term and acts.")
        if elsewhere and not take_over:
            return Standing(False, number, holder, _other_engine(holder, silent), needs_operator=True)
        how = f"takes over from {holder}, silent for {silent:.0f} s,"
        return await self._write(read, number + 1, asked_at, how, overrode=elsewhere)

    async def resign(self) -> None:
        """Let another manager take the term at once. Raises `StoreUnavailableError`."""
        held, self._until = self.held, float("-inf")
        if held:
            read = await self._document.read(NAME)
            if (read.content.get("holder"), read.content.get("number")) == (self._holder, self._number):
                await self._document.write(read, self._content(None, self._number))

    async def keep(self, told: Callable[[Standing], None], *, take_over: bool = False) -> None:
        """Step for ever; `told` is called when it is first known, and when its number, `held` or `needs_operator` change."""
        before: Standing | None = None
        while True:
            try:
                standing = await self.step(take_over=take_over)
            except StoreUnavailableError as error:
                standing = self._unreachable(before, error)
            if before is None or _news(standing) != _news(before):
                log.info("term", held=standing.held, number=standing.number, sentence=standing.sentence)
                told(standing)
            before = standing
            await asyncio.sleep(self.pause)

    async def _write(
        self, read: Version, number: int, asked_at: float, how: str, *, overrode: bool = False
    ) -> Standing:
        if await self._document.write(read, self._content(self._holder, number)):
            if number != self._number:
                self._override = how if overrode else ""
            self._number = number
            self._until = asked_at + self._term * (1 - MARGIN)
        if self.held:
            told, self._override = self._override, ""
            return Standing(
                True, number, self._holder, f"It {told or how} term {number} and acts.", overrode=bool(told)
            )
        return Standing(False, number, None, "It stands by: another manager was faster, or the store too slow.")

    def _unreachable(self, before: Standing | None, error: StoreUnavailableError) -> Standing:
        number, holder = (before.number, before.holder) if before else (0, None)
        if self.held:
            return Standing(
                True, number, holder, f"It holds term {number} for {self._until - self._clock():.0f} s more."
            )
        return Standing(False, number, holder, f"It can't hold the term and doesn't act: {error}")

    def _content(self, holder: str | None, number: int) -> dict[str, Any]:
        return {"holder": holder, "engine_id": self._engine_id, "number": number, "term": self._term}


def _news(standing: Standing) -> tuple[bool, int, bool]:
    """What is told when it changes."""
    return standing.held, standing.number, standing.needs_operator


def _other_engine(holder: str, silent: float) -> str:
    return (
        f"It stands by: {holder}, on another engine, has been silent for {silent:.0f} s, but its gateways may still be"
        " logged in there. Once it is certain that they are not, start with `gateway-manager run --take-over`."
    )
