"""Where a gateway's screen is, and what opens it."""

from __future__ import annotations

from spreadpilot_core.ibkr.errors import ScreenError
from spreadpilot_core.ibkr.model.details import ScreenAddress
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.runtimes.registry import reader
from spreadpilot_core.ibkr.settings import Settings


async def screen_address(settings: Settings, gateway: Gateway) -> ScreenAddress:
    """For this one opening; the password is read where the gateway runs.

    Raises:
        ScreenError: it shows none now.
        RuntimeUnavailableError: what it runs on does not answer.
    """
    if gateway.vnc is None or not gateway.phase.is_alive:
        raise ScreenError(gateway.follower_id)
    async with reader(settings) as runtime_reader:
        host, _, port = gateway.vnc.rpartition(":")
        return ScreenAddress(host.strip("[]"), int(port), await runtime_reader.screen_password(gateway))
