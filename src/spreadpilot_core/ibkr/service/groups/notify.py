"""`gateway-manager notify …`: its commands and their options."""

from __future__ import annotations

from spreadpilot_core.ibkr.service.options import Json, fail, new_group
from spreadpilot_core.ibkr.system.wording import counted

group = new_group("Who is told what happens; needs no running manager.")


@group.callback()
def root() -> None:
    """The channels on which people are told; needs no running manager."""


@group.command("test", short_help="Send a message by each channel.")
def try_channels(as_json: Json = False) -> None:
    """Send a message by each channel of the settings and of the followers' records; exit code 1 when one fails."""
    from spreadpilot_core.ibkr.service import notify_commands

    failed, tried = notify_commands.test(as_json=as_json)
    if failed:
        fail(f"{failed} of {counted(tried, 'channel')} failed.")
