"""`gateway-manager credentials …`: its commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spreadpilot_core.ibkr.service.options import Json, Reference, Yes, new_group

group = new_group("The logins in the encrypted store; needs no running manager.")


@group.command("list")
def list_credentials(as_json: Json = False) -> None:
    """Show references, users and versions; never a password."""
    from spreadpilot_core.ibkr.service import credential_commands

    credential_commands.show(as_json=as_json)


@group.command("set", short_help="Store a login.")
def set_credentials(
    ref: Reference,
    username: Annotated[str, typer.Option("--username", metavar="U", help="The IBKR user.", show_default=False)],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking.")
    ] = False,
) -> None:
    """Store a login; the password is asked for, or read from standard input."""
    from spreadpilot_core.ibkr.service import credential_commands

    credential_commands.set_login(ref, username, from_stdin=password_stdin)


@group.command("remove", short_help="Remove a login.")
def remove_credentials(ref: Reference, yes: Yes = False) -> None:
    """Remove a login; asks on a terminal where somebody still logs in with it."""
    from spreadpilot_core.ibkr.service import credential_commands

    credential_commands.remove(ref, yes=yes)


@group.command("change-key")
def change_key(
    passphrase_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="From now on this passphrase, instead of a key file.", show_default=False),
    ] = None,
) -> None:
    """Seal every login anew under another key."""
    from spreadpilot_core.ibkr.service import credential_commands

    credential_commands.change_key(passphrase_file)
