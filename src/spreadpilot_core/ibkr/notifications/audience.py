"""Which channels there are, and which hear of whom: the fleet's hear of everybody, a follower's own of that follower alone.

A channel is named by its place among those of the settings or of a record, never by its address: that holds secrets. An
address that several followers name is one channel that hears of all of them, so that a storm is one message there too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from spreadpilot_core.ibkr.model.followers import Follower
from spreadpilot_core.ibkr.model.notify_urls import split_urls
from spreadpilot_core.ibkr.notifications.planner import Plan
from spreadpilot_core.ibkr.notifications.troubles import Trouble


@dataclass(frozen=True, slots=True)
class Channel:
    """Where messages go."""

    name: str
    """As people and the outbox know it: "channel 1", "channel 2 of alice"."""
    url: SecretStr
    covers: frozenset[str] | None = None
    """The followers of whom it hears; None: of everybody, and of the manager."""

    def concerns(self, plan: Plan) -> Sequence[Trouble]:
        """Which troubles of the plan it hears of."""
        if self.covers is None:
            return plan.troubles
        return [each for each in plan.troubles if each.follower_id in self.covers]


def channels(fleet: Sequence[SecretStr], followers: Iterable[Follower]) -> tuple[Channel, ...]:
    """All of them: the fleet's first."""
    named = {url.get_secret_value(): f"channel {place}" for place, url in reversed(list(enumerate(fleet, 1)))}
    found = [Channel(name, SecretStr(url)) for url, name in reversed(named.items())]
    own: dict[str, tuple[str, set[str]]] = {}
    for follower in sorted(followers, key=lambda each: each.id):
        for place, url in enumerate(split_urls(follower.notify_urls), 1):
            text = url.get_secret_value()
            if text not in named:
                own.setdefault(text, (f"channel {place} of {follower.id}", set()))[1].add(follower.id)
    return (*found, *(Channel(name, SecretStr(url), frozenset(who)) for url, (name, who) in own.items()))
