"""What several gateways of a fleet suffer at once: evidence that the trouble is IBKR's, or the host's."""

from __future__ import annotations

from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.decision import LONG_AGO
from spreadpilot_core.ibkr.deciding.observation import FleetView
from spreadpilot_core.ibkr.deciding.pacing import SHARED_WITHIN
from spreadpilot_core.ibkr.model.followers import FollowerId


class SharedTrouble:
    """Who has lost IBKR now, and who has lost a gateway of late; constant time for each look at it."""

    def __init__(self) -> None:
        self._link_lost: set[FollowerId] = set()
        self._lost: dict[FollowerId, datetime] = {}
        """When a follower lost its gateway last, oldest first."""

    def note(self, follower_id: FollowerId, *, link_lost: bool, lost_at: datetime) -> None:
        """How this follower stands after a pass of its loop."""
        (self._link_lost.add if link_lost else self._link_lost.discard)(follower_id)
        if lost_at > self._lost.get(follower_id, LONG_AGO):
            self._lost.pop(follower_id, None)
            self._lost[follower_id] = lost_at

    def view(self, total: int, now: datetime) -> FleetView:
        """The whole, for evidence."""
        since = now - timedelta(seconds=SHARED_WITHIN)
        while self._lost and next(iter(self._lost.values())) < since:
            del self._lost[next(iter(self._lost))]
        return FleetView(total=total, link_lost=len(self._link_lost), lost=len(self._lost))
