"""Who should have a gateway, as data: usable records, and those that can't be used.

Part of the seams (see `seams`): the follower stores read it, the fleet follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import Enum
from typing import NewType

from pydantic import SecretStr

from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.model.reasons import Severity
from spreadpilot_core.ibkr.system.wording import HIDDEN

FollowerId = NewType("FollowerId", str)


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
    """The account's home data centre, a key of `model.reset_windows`; None means North America."""
    exchange: str | None = None
    """MIC of the exchange whose hours count as those in which its gateway must be ready; None: always."""
    notify_urls: SecretStr | None = None
    """Channels that hear of this follower alone, beside the fleet's; never shown."""
    notify_min_severity: Severity | None = None
    """The least severity that is told of this follower; None: the setting's."""
    gateway: GatewayOptions = field(default_factory=GatewayOptions)
    says_enabled: bool = True
    """Whether the record holds `enabled` at all: only an explicit `false` takes a running gateway away."""

    @property
    def is_wanted(self) -> bool:
        """Whether this follower should have a gateway, by its record alone."""
        return self.enabled and self.state == "ACTIVE"

    def shown(self) -> dict[str, object]:
        """Its fields but the options of its gateway, as people and programs may see them."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        del own["gateway"], own["says_enabled"]
        own = {name: value.value if isinstance(value, Enum) else value for name, value in own.items()}
        return own | {"notify_urls": HIDDEN if self.notify_urls is not None else None}

    def differences(self, newer: Follower) -> list[str]:
        """What `newer` has otherwise, field by field: "trading_mode is 'live' instead of 'paper'", "account is 'U1' (it was not set)"."""
        before, after = _plain_fields(self), _plain_fields(newer)
        return [
            _difference(name, before.get(name), after.get(name))
            for name in dict.fromkeys([*before, *after])
            if before.get(name) != after.get(name)
        ]


def _difference(name: str, before: object, after: object) -> str:
    if before is None:
        return f"{name} is {after!r} (it was not set)"
    return f"{name} is not set (it was {before!r})" if after is None else f"{name} is {after!r} instead of {before!r}"


def _plain_fields(follower: Follower) -> dict[str, object]:
    own = follower.shown()
    del own["notify_urls"]
    options = follower.gateway.model_dump(exclude_none=True)
    return own | {f"gateway.{name}": value for name, value in options.items()}


@dataclass(frozen=True, slots=True)
class FaultyRecord:
    """A record that can't be used. `id` is the record's own where it has one, else its place ("record 7")."""

    id: str
    fault: str
    """One sentence: which field, which value, what is allowed."""
    is_disabled: bool = False
    """It says `enabled = false`, and that can be understood whatever else is wrong with it."""
    is_nameless: bool = False
    """It has no usable id, so that it may be any follower's."""
    since: datetime | None = field(default=None, compare=False)
    """When it was first read with this fault; filled in by whoever reads again and again."""


def with_first_seen(
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
    notices: Mapping[FollowerId, tuple[str, ...]] = field(default_factory=dict)
    """Of usable records: what looks like a slip in them."""
    removed: frozenset[FollowerId] = frozenset()
    """Of records that are not there: those that an operator has removed by command."""
