"""The channels on which people are told: whether they can be used, without sending anything."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Sequence

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.notifications import channels
from spreadpilot_core.ibkr.notifications.audience import Channel
from spreadpilot_core.ibkr.notifications.audience import channels as channels_of
from spreadpilot_core.ibkr.notifications.setup import fleet_urls, setting_of
from spreadpilot_core.ibkr.service.doctor.findings import Finding, ok, problem, warning
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster
from spreadpilot_core.ibkr.system.home_paths import in_home
from spreadpilot_core.ibkr.system.wording import counted


async def notifications(settings: Settings) -> Sequence[Finding]:
    """Nothing where there is no channel."""
    urls = await asyncio.to_thread(fleet_urls, settings)
    try:
        followers = list((await read_roster(settings)).usable.values())
    except GatewayManagerError:  # the followers' own line tells why
        followers = []
    return await asyncio.to_thread(_findings, settings, channels_of(urls, followers))


def _findings(settings: Settings, known: Sequence[Channel]) -> list[Finding]:
    if not known:
        return []
    channels.must_be_there(setting_of(settings))
    found = [
        problem(f"{each.name.capitalize()} has an address that apprise does not know.", "Correct it.")
        for each in known
        if channels.kind_of(each.url) is None
    ]
    path = settings.notify_urls_file
    if path is not None and in_home(path).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        found.append(warning(f"Others may read {path}, which holds secrets.", f"`chmod 600 {path}`."))
    return found or [ok(f"{counted(len(known), 'channel')}; `gateway-manager notify test` sends a message by each.")]
