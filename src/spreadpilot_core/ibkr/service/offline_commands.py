"""`stop --offline`: ends gateways that no manager watches, as the manager would, and leaves all others alone.

For as long as it takes this process owns the state directory, and on a shared record store leads, as a manager does: so none
runs beside it, and what it may touch is what a manager with these settings might.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from spreadpilot_core.ibkr.audit.auditor import OPERATOR
from spreadpilot_core.ibkr.audit.trail import actor
from spreadpilot_core.ibkr.errors import AlreadyRunningError, GatewayManagerError
from spreadpilot_core.ibkr.model.events import EventBus
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.service.asking import confirm_live
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.offline_fleet import OfflineFleet, Stopped
from spreadpilot_core.ibkr.telemetry import set_up_logs
from spreadpilot_core.ibkr.wiring import open_services_in_thread


def stop(followers: Sequence[str] | None, *, yes: bool) -> None:
    """Stop them (None: all that run), and say that they are gone. Raises why not, as `OfflineFleet.stop_only` does."""
    set_up_logs(level="error")
    stopped = asyncio.run(_stop(Settings.read(), followers, yes=yes))
    for follower in stopped.gone:
        print(f"{follower} is STOPPED. `gateway-manager launch {follower}` starts it again, once a manager runs.")
    if stopped.left:
        raise GatewayManagerError(" ".join(stopped.left.values()))
    if not stopped.gone:
        print("No gateway runs.")


async def _stop(settings: Settings, followers: Sequence[str] | None, *, yes: bool) -> Stopped:
    OPERATOR.set(f"{actor('gateway-manager')}, without a manager")
    try:
        wired = await open_services_in_thread(settings, None, EventBus())
    except AlreadyRunningError as error:
        raise GatewayManagerError(f"{error.what} It is asked by `gateway-manager stop` without --offline.") from None
    fleet = OfflineFleet(wired.services, wired.followers, settings, wired.make_lease)
    wired.bindings.watch(fleet.view)

    def confirm(there: Sequence[Gateway]) -> None:
        live = [each.follower_id for each in there if each.trading_mode is TradingMode.LIVE]
        confirm_live("Stop, and log out", live, yes=yes)

    try:
        fleet.begin()
        return await fleet.stop_only(followers, confirm)
    finally:
        try:
            await fleet.close()
        finally:
            await wired.close()
