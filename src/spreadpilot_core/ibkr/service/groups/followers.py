"""`gateway-manager followers …`: its commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spreadpilot_core.ibkr.service.options import Follower, Json, Yes, fail, new_group
from spreadpilot_core.ibkr.system.wording import counted

group = new_group("The followers of the local store; needs no running manager.")


@group.command("list")
def list_followers(as_json: Json = False) -> None:
    """Show every record, also those that can't be used."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.show(as_json=as_json)


@group.command("add")
def add_follower(
    follower: Follower,
    vault_secret_ref: Annotated[
        str, typer.Option("--vault-secret-ref", metavar="REF", help="Where its login is.", show_default=False)
    ],
    live: Annotated[bool, typer.Option("--live", help="Trade live; without it, paper.")] = False,
    account: Annotated[
        str | None, typer.Option("--account", metavar="A", help="The IBKR account that the login must manage.")
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Add it without a gateway.")] = False,
) -> None:
    """Add a follower; a running manager launches its gateway."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.add(follower, vault_secret_ref=vault_secret_ref, live=live, account=account, enabled=not disabled)


@group.command("enable")
def enable_follower(follower: Follower) -> None:
    """Give a follower a gateway."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.set_enabled(follower, enabled=True)


@group.command("disable")
def disable_follower(follower: Follower, yes: Yes = False) -> None:
    """Take a follower's gateway away; its record stays."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.set_enabled(follower, enabled=False, yes=yes)


@group.command("remove", short_help="Remove a follower's record.")
def remove_follower(follower: Follower, yes: Yes = False) -> None:
    """Remove a follower's record; a running manager stops its gateway."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.remove(follower, yes=yes)


@group.command("set", short_help="Change fields of a follower's record.")
def set_follower_fields(
    follower: Follower,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE",
            help="Such as account=U1234567 or gateway.vnc=true; KEY= takes it out.",
            show_default=False,
        ),
    ],
    yes: Yes = False,
) -> None:
    """Change fields of a follower's record; nothing is written that could not be used."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.set_fields(follower, changes, yes=yes)


@group.command("check", short_help="Check every record; changes nothing.")
def check_followers(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Instead of the records that the manager reads.")
    ] = None,
) -> None:
    """Check every record and change nothing; exit code 1 when one can't be used."""
    from spreadpilot_core.ibkr.service import follower_commands

    if faults := follower_commands.check(file):
        fail(f"{counted(faults, 'record')} can't be used.")


@group.command("confirm-removals", short_help="Let those go whose records are gone.")
def confirm_removals(
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask; where there is no terminal it must be said.")] = False,
) -> None:
    """Say that records that are gone are gone on purpose: the running manager stops their gateways."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.confirm_removals(yes=yes)
