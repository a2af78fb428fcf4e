"""IBKR's limit of messages per second, for one client."""

from __future__ import annotations

LIMIT = 50
"""Messages per second, and at once."""
_STRIKES = 3
"""Seconds with too many messages before the gateway cuts the connection."""


class Pace:
    """Counts a client's messages: a bucket of `LIMIT` that refills at `LIMIT` per second.

    A client that keeps to 45 a second passes even where this machine delivers two of its seconds close together.
    """

    def __init__(self, now: float) -> None:
        self._left = float(LIMIT)
        self._at = now
        self._struck_at = float("-inf")
        self.strikes = 0

    def take(self, now: float) -> bool:
        """Count one message at `now`, in seconds; False when it is one too many."""
        self._left = min(float(LIMIT), self._left + (now - self._at) * LIMIT)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return True
        return False

    def strike(self, now: float) -> bool:
        """Note that the limit was broken; True for the first time within a second, when the client is to be told."""
        if now - self._struck_at < 1:
            return False
        self._struck_at = now
        self.strikes += 1
        return True

    @property
    def is_abuse(self) -> bool:
        """Whether the client went on in spite of being told."""
        return self.strikes >= _STRIKES
