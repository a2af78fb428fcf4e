from __future__ import annotations

import re

from spreadpilot_core.ibkr.model.followers import Follower, FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.services import spec_for, staggered

FLEET = Settings.read().gateway_options


def follower(**fields: object) -> Follower:
    return Follower(id=FollowerId("anna"), vault_secret_ref="ibkr/anna", enabled=True, **fields)  # type: ignore[arg-type]


def test_daily_restarts_are_spread_over_the_half_hour_after_the_setting() -> None:
    """Each follower has its own minute, always the same one, never before the set time."""
    times = {staggered("11:45 PM", FollowerId(f"f{number}")) for number in range(300)}

    assert len(times) == 30
    assert all(re.fullmatch(r"(11:(4[5-9]|5\d) PM|12:(0\d|1[0-4]) AM)", each or "") for each in times)
    assert staggered("11:45 PM", FollowerId("anna")) == staggered("11:45 PM", FollowerId("anna"))


def test_a_followers_own_restart_time_is_taken_as_it_is() -> None:
    """An override by name is no default to be spread."""
    spec = spec_for(follower(gateway=GatewayOptions(auto_restart_time="01:05 AM")), FLEET)

    assert spec.options.auto_restart_time == "01:05 AM"


def test_the_digest_names_everything_a_running_gateway_cannot_change() -> None:
    """Mode and options change it; account, phone owner and secret reference don't."""
    plain = spec_for(follower(), FLEET).digest

    assert spec_for(follower(account="DU1", phone_owner="olga"), FLEET).digest == plain
    assert spec_for(follower(trading_mode=TradingMode.LIVE), FLEET).digest != plain
    assert spec_for(follower(gateway=GatewayOptions(read_only_api=True)), FLEET).digest != plain
