"""How much one caller or peer may ask, and what becomes of those who show wrong tokens. It remembers a bounded number of them.

A valid token is always let in, whatever else its peer sends: 32 random bytes can't be guessed, so nobody is locked out for
what a neighbour tries. Wrong ones are answered ever more slowly, then with 429, and told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_REMEMBERED = 1024
"""Peers or callers; the one that asked longest ago is forgotten for the next."""


@dataclass(slots=True)
class _Bucket:
    """Fills by itself, and each request takes one out of it."""

    left: float
    at: float


class Allowance:
    """A token bucket for each name."""

    def __init__(self, *, burst: float, per_second: float, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str) -> float:
        """Take one; returns 0, or the seconds until there is one again."""
        bucket, now = self._current(name)
        if bucket.left >= 1:
            bucket.left -= 1
            return 0.0
        bucket.at = now
        return (1 - bucket.left) / self._per_second

    def used(self, name: str) -> int:
        """How many were taken that have not grown back."""
        bucket, _ = self._current(name)
        return round(self._burst - bucket.left)

    def _current(self, name: str) -> tuple[_Bucket, float]:
        now = self._clock()
        bucket = self._buckets.pop(name, None) or _Bucket(self._burst, now)
        bucket.left = min(self._burst, bucket.left + max(0.0, now - bucket.at) * self._per_second)
        bucket.at = now
        self._buckets[name] = bucket
        while len(self._buckets) > MOST_REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket, now


WRONG_AT_ONCE = 10
"""Wrong tokens of one peer before it is answered with 429."""
WRONG_PER_SECOND = 0.2
LONGEST_PAUSE = 2.0
"""Seconds that the answer to a wrong token waits: 0.1 for the first, doubling."""
TELL_EVERY = 60.0
"""Seconds between two lines of the audit trail about one peer, and until a notice is taken back."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is to be done about a wrong token."""

    pause: float
    """Seconds before it is answered."""
    retry_after: float
    """Seconds after which the peer is heard again; 0: now."""
    unreported: int
    """How many there were since it was last told, if it is to be told now; else 0."""


class WrongTokens:
    """Counts them by peer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._allowance = Allowance(burst=WRONG_AT_ONCE, per_second=WRONG_PER_SECOND, clock=clock)
        self._reported: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """When each peer was last told of, and how many came since."""

    def count(self, peer: str) -> Wrong:
        """One more came from there."""
        retry_after = self._allowance.take(peer)
        pause = min(LONGEST_PAUSE, 0.1 * 2 ** (self._allowance.used(peer) - 1))
        now = self._clock()
        at, before = self._reported.pop(peer, (float("-inf"), 0))
        is_due = now - at >= TELL_EVERY
        self._reported[peer] = (now, 0) if is_due else (at, before + 1)
        while len(self._reported) > MOST_REMEMBERED:
            self._reported.popitem(last=False)
        return Wrong(pause, retry_after, before + 1 if is_due else 0)

    def is_quiet(self) -> bool:
        """Whether none came for a while."""
        return all(self._clock() - at >= TELL_EVERY for at, _ in self._reported.values())
