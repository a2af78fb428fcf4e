"""Which of several managers acts: the leader. The others stand by.

Whoever keeps the lease (MongoDB, Kubernetes) keeps one document {holder, engine_id, number, leader_lease, for_engine}, and writes it
only while nobody else has written since it was read.

No wall clock is trusted. The holder writes a new version every quarter of the leader lease, and counts its lease from the moment
before it asked. A waiter that has seen the same version for the whole lease, on a clock of its own that also runs while
the process is stopped or the host sleeps, takes over by writing the version after it. So the leader's lease has always
ended when the waiter's begins, and a holder that was frozen finds out by its own clock before it does anything.

Where the gateways run on another engine, silence does not prove that they are gone: there it takes an operator's word.
A request that the old holder sent before its lease ended can't be recalled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.records import is_same_engine
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

NAME = "leader_lease"
OFFERED = "It stands by: a leader on another engine hands its gateways over to a manager there first."
LENGTH = 10.0
"""Seconds without a sign of life after which another manager may take over."""
MARGIN = 0.1
"""Part of the lease that the holder leaves unused: what it began just before must have reached the engine."""
LONGEST_LEASE = 3600.0
"""Seconds; another holder's word for its own lease counts up to this."""
POLL_EVERY = 0.5
"""Seconds between two looks of a manager that stands by."""


class LeaseVersion(Protocol):
    """The document as it was read."""

    @property
    def number(self) -> int:
        """Another one whenever the document was written since."""

    @property
    def content(self) -> Mapping[str, Any]:
        """What it says; nothing where there is none yet."""


V = TypeVar("V", bound=LeaseVersion)


class LeaseDocument(Protocol[V]):
    """The one document. Both raise `StoreUnavailableError`."""

    async def read(self, name: str) -> V:
        """The newest version."""

    async def write(self, read: V, content: Mapping[str, Any]) -> bool:
        """Write the version after the one that was read, unless somebody else has."""


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who acts, as this manager knows it."""

    held: bool
    number: int
    """Of the lease: grows with each change of the holder."""
    holder: str | None
    sentence: str
    needs_operator: bool = False
    """Whether the holder is silent and only an operator's word lets this manager act."""
    overrode: bool = False
    """Whether the lease was just taken by the operator's word alone."""
    is_known: bool = True
    """Whether this was found out just now; False: whoever keeps the lease can't be asked."""


def _running_clock() -> float:
    """Seconds that go on while the host sleeps, where the system has such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class LeaderLease(Generic[V]):
    """One manager's part in it.

    Args:
        document: shared by all managers that share the lease.
        holder: this manager's name, for people. The same name is the same manager: a restart takes up its own lease.
        engine_id: names what the gateways run on.
        leader_lease: its length, in seconds.
        clock: seconds; never set back.
    """

    def __init__(
        self,
        document: LeaseDocument[V],
        *,
        holder: str,
        engine_id: str,
        leader_lease: float = LENGTH,
        clock: Callable[[], float] = _running_clock,
    ) -> None:
        self._document = document
        self._holder = holder
        self._engine_id = engine_id
        self._leader_lease = leader_lease
        self._clock = clock
        self._until = float("-inf")
        self._number = 0
        self._override = ""
        """How this lease was taken by the operator's word, until it is held and that was told."""
        self._seen: tuple[int, float] = (0, float("-inf"))
        """The version that another manager wrote last, and when it was first seen."""

    @property
    def held(self) -> bool:
        """Whether this manager may act now. Ask before every single act: it ends by itself."""
        return self._clock() < self._until

    @property
    def pause(self) -> float:
        """Seconds until the next `step` is due."""
        return min(self._leader_lease / 4, max(self._until - self._clock(), 0.01)) if self.held else POLL_EVERY

    async def step(self, *, take_over: bool = False) -> Leadership:
        """Renew, take or watch the lease once.

        Args:
            take_over: an operator's word that a silent manager on another engine is gone with its gateways.

        Raises:
            StoreUnavailableError: nothing is known; `held` goes on to its end.
        """
        asked_at = self._clock()
        read = await self._document.read(NAME)
        holder, number, their_duration = _parse(read.content, otherwise=self._leader_lease)
        if holder == self._holder and number == self._number:
            return await self._write(read, number, asked_at, "goes on to hold")
        self._until = float("-inf")
        free_for = read.content.get("for_engine")
        is_free = holder is None and (free_for is None or is_same_engine(free_for, self._engine_id))
        if holder == self._holder or is_free:
            return await self._write(read, number + 1, asked_at, "takes")
        if read.number != self._seen[0]:
            self._seen = (read.number, self._clock())
        silent = asked_at - self._seen[1]
        elsewhere = not is_same_engine(read.content.get("engine_id"), self._engine_id)
        if holder is None and silent >= their_duration:
            return await self._write(read, number + 1, asked_at, "takes")
        if holder is None:
            return Leadership(False, number, None, OFFERED)
        if silent < their_duration:
            where = ", on another engine," if elsewhere else ""
            return Leadership(False, number, holder, f"It stands by: {holder}{where} is the leader and acts.")
        if elsewhere and not take_over:
            return Leadership(False, number, holder, _other_engine(holder, silent), needs_operator=True)
        how = f"takes over from {holder}, silent for {silent:.0f} s,"
        return await self._write(read, number + 1, asked_at, how, overrode=elsewhere)

    async def resign(self, *, for_engine: str | None = None) -> None:
        """Let another manager take the leader lease at once; for its length only one on `for_engine`. Raises `StoreUnavailableError`."""
        held, self._until = self.held, float("-inf")
        if held:
            read = await self._document.read(NAME)
            if (read.content.get("holder"), read.content.get("number")) == (self._holder, self._number):
                content = {**self._content(None, self._number), "for_engine": for_engine}
                await self._document.write(read, content)

    async def hand_over(self, *, within: float) -> bool:
        """Resign, and say whether another manager on this engine has taken the leader lease. Raises `StoreUnavailableError`.

        One on another engine could not watch what runs here.
        """
        await self.resign(for_engine=self._engine_id)
        deadline = self._clock() + within
        while self._clock() < deadline:
            holder = (await self._document.read(NAME)).content.get("holder")
            if holder is not None:
                return bool(holder != self._holder)
            await asyncio.sleep(POLL_EVERY / 2)
        return False

    async def keep(self, on_change: Callable[[Leadership], None], *, take_over: bool = False) -> None:
        """Step for ever; `on_change` is called when it is first known, and when its number, `held` or `needs_operator` change."""
        before: Leadership | None = None
        while True:
            try:
                leadership = await self.step(take_over=take_over)
            except StoreUnavailableError as error:
                leadership = self._unreachable(before, error)
            if before is None or _news(leadership) != _news(before):
                log.info("leader_lease", held=leadership.held, number=leadership.number, sentence=leadership.sentence)
                on_change(leadership)
            before = leadership
            await asyncio.sleep(self.pause)

    async def _write(self, read: V, number: int, asked_at: float, how: str, *, overrode: bool = False) -> Leadership:
        if await self._document.write(read, self._content(self._holder, number)):
            if number != self._number:
                self._override = how if overrode else ""
            self._number = number
            self._until = asked_at + self._leader_lease * (1 - MARGIN)
        if self.held:
            by_operator, self._override = self._override, ""
            return Leadership(
                True,
                number,
                self._holder,
                f"It {by_operator or how} leader lease {number} and acts.",
                overrode=bool(by_operator),
            )
        return Leadership(False, number, None, "It stands by: another manager was faster, or the store too slow.")

    def _unreachable(self, before: Leadership | None, error: StoreUnavailableError) -> Leadership:
        number, holder = (before.number, before.holder) if before else (0, None)
        held = self.held
        sentence = (
            f"It holds leader lease {number} for {self._until - self._clock():.0f} s more."
            if held
            else f"It can't be the leader and doesn't act: {error}"
        )
        return Leadership(held, number, holder, sentence, is_known=False)

    def _content(self, holder: str | None, number: int) -> dict[str, Any]:
        return {"holder": holder, "engine_id": self._engine_id, "number": number, "leader_lease": self._leader_lease}


def _parse(content: Mapping[str, Any], *, otherwise: float) -> tuple[str | None, int, float]:
    """Holder, number and length of the lease. What is none of these counts as none: it can't keep everybody out for ever."""
    holder, number, leader_lease = content.get("holder"), content.get("number"), content.get("leader_lease")
    is_length = isinstance(leader_lease, int | float) and 0 < leader_lease <= LONGEST_LEASE
    return (
        holder if isinstance(holder, str) else None,
        number if type(number) is int else 0,
        float(leader_lease) if is_length and leader_lease is not None else otherwise,
    )


def _news(leadership: Leadership) -> tuple[bool, int, bool]:
    """What is told when it changes."""
    return leadership.held, leadership.number, leadership.needs_operator


def _other_engine(holder: str, silent: float) -> str:
    return (
        f"It stands by: {holder}, on another engine, has been silent for {silent:.0f} s, but its gateways may still be"
        " logged in there. Once it is certain that they are not, start with `gateway-manager run --take-over`."
    )
