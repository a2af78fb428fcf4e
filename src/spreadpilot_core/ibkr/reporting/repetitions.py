"""What befalls several gateways for one reason (an image that can't be pulled, an engine that is away) is told once in full."""

from __future__ import annotations

from datetime import datetime, timedelta

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.system.local_time import without_times

_WITHIN = timedelta(minutes=1)


class Repetitions:
    """Who was told of with which sentence, and when."""

    def __init__(self) -> None:
        self._announced: dict[str, tuple[FollowerId, datetime]] = {}

    def first(self, sentence: str, follower_id: FollowerId, now: datetime) -> FollowerId | None:
        """Another follower of whom the same, but for its times, was told within a minute; None: it is news."""
        self._announced = {
            text: announced for text, announced in self._announced.items() if abs(now - announced[1]) < _WITHIN
        }
        first, _ = self._announced.setdefault(without_times(sentence), (follower_id, now))
        return first if first != follower_id else None
