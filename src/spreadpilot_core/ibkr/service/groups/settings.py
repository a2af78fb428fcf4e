"""`gateway-manager settings …`: its commands and their options."""

from __future__ import annotations

from spreadpilot_core.ibkr.service.options import Json, new_group

group = new_group("What is set, and where; needs no running manager.")


@group.command("show", short_help="Show each setting, and where it comes from.")
def show_settings(as_json: Json = False) -> None:
    """Show each setting, and whether the environment, the file that GATEWAY_MANAGER_CONFIG names, or nothing sets it."""
    from spreadpilot_core.ibkr.service import settings_commands

    settings_commands.show(as_json=as_json)
