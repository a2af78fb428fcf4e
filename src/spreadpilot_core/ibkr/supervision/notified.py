"""What notifications ask of a fleet beside its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.supervision.figures import hours_of
from spreadpilot_core.ibkr.supervision.fleet import Fleet


class NotifiedFleet:
    """Fulfils `notifications.notifier.FleetFacts`."""

    def __init__(self, fleet: Fleet, *, startup_time: float) -> None:
        """`startup_time`: seconds that a login may take once it has begun."""
        self._fleet = fleet
        self._startup_time = timedelta(seconds=startup_time)

    def followers(self) -> Sequence[Follower]:
        """Every follower by the record that is in force."""
        return [each.facts.follower for each in self._fleet.supervisors.values() if each.facts.follower is not None]

    def faulty(self) -> Mapping[str, str]:
        """Records that can't be used, and why."""
        return {name: each.fault for name, each in self._fleet.roster.faulty.items()}

    def user_of(self, follower_id: str) -> str | None:
        """The follower's IBKR user, as far as it is known."""
        supervisor = self._fleet.supervisors.get(FollowerId(follower_id))
        return supervisor.facts.secret.expected_user(supervisor.facts.record) if supervisor is not None else None

    def quiet_until(self, follower_id: str, moment: datetime) -> datetime | None:
        """When gateways are ready again after IBKR's long reset hours, where it was in them: their logins are spread."""
        supervisor = self._fleet.supervisors.get(FollowerId(follower_id))
        hours = hours_of(supervisor.facts) if supervisor is not None else None
        span = hours.long_span(moment) if hours is not None else None
        if hours is None or span is None:
            return None
        last = hours.short_span(span[1] - timedelta(seconds=1), 1.0)
        return max(span[1], last[1] if last is not None else span[1]) + self._startup_time
