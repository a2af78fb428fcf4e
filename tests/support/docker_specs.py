"""Gateway specs as the manager would make them, for tests of the Docker runtime."""

from __future__ import annotations

from typing import Any

from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.model.gateways import GatewaySpec
from support.home import FAR_RESTART_TIME


def spec(follower_id: str = "alice", *, user: str = "alice01", digest: str = "d1", **choices: Any) -> GatewaySpec:
    """A whole spec; `choices` are gateway options, and `trading_mode`."""
    mode = TradingMode(choices.pop("trading_mode", "paper"))
    options = GatewayOptions(
        image="gateway:test",
        read_only_api=False,
        existing_session_action="primary",
        auto_restart_time=FAR_RESTART_TIME,
        time_zone="America/New_York",
        java_heap_mib=768,
        vnc=False,
    )
    return GatewaySpec(
        follower_id=FollowerId(follower_id),
        trading_mode=mode,
        options=GatewayOptions(**choices).filled_from(options),
        digest=digest,
        user=user,
    )
