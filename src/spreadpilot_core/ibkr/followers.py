"""Who should have a gateway, as data: usable records, and those that can't be used.

Part of the seams (see `protocols`): the follower stores read it, the fleet follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from spreadpilot_core.ibkr.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.records import FollowerId


class TradingMode(str, Enum):
    """Paper is the default everywhere; live is only ever what a record says."""

    PAPER = "paper"
    LIVE = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """The usable record of one account owner."""

    id: FollowerId
    vault_secret_ref: str
    enabled: bool = False
    state: str = "ACTIVE"
    trading_mode: TradingMode = TradingMode.PAPER
    account: str | None = None
    """The IBKR account that the login must manage; None accepts any."""
    phone_owner: str | None = None
    """Who approves this login on a phone; None means the IBKR user. Paper logins need no approval."""
    region: str | None = None
    """The account's home data centre, a key of `deciding.reset_windows`; None means North America."""
    gateway: GatewayOptions = field(default_factory=GatewayOptions)

    @property
    def is_wanted(self) -> bool:
        """Whether this follower should have a gateway, by its record alone."""
        return self.enabled and self.state == "ACTIVE"


@dataclass(frozen=True, slots=True)
class FaultyRecord:
    """A record that can't be used. `id` is the record's own where it has one, else its place ("record 7")."""

    id: str
    fault: str
    """One sentence: which field, which value, what is allowed."""
    since: datetime | None = field(default=None, compare=False)
    """When it was first read with this fault; filled in by whoever reads again and again."""


def dated(
    faulty: Mapping[str, FaultyRecord], before: Mapping[str, FaultyRecord], now: datetime
) -> Mapping[str, FaultyRecord]:
    """These records, each with the time since when it has had its fault."""
    return {
        name: replace(record, since=before[name].since if before.get(name) == record else now)
        for name, record in faulty.items()
    }


@dataclass(frozen=True, slots=True)
class Roster:
    """All that one read of the follower store found."""

    usable: Mapping[FollowerId, Follower]
    faulty: Mapping[str, FaultyRecord]
