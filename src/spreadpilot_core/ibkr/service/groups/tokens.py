"""`gateway-manager tokens …`: its commands and their options."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from spreadpilot_core.ibkr.service.options import Json, new_group, role

group = new_group("Who may ask at http_address; needs no running manager.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the audit trail calls it.", show_default=False)]


def _moment(text: str) -> datetime:
    from spreadpilot_core.ibkr.service.token_commands import expiry

    try:
        return expiry(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None


@group.command("add", short_help="Make a token.")
def add_token(
    name: Name,
    role_name: Annotated[
        str,
        typer.Option(
            "--role",
            parser=role,
            metavar="viewer|trader|operator",
            help="viewer reads; trader also uses gateways; operator does everything.",
            show_default=False,
        ),
    ],
    followers: Annotated[
        str | None,
        typer.Option("--followers", metavar="A,B", help="It knows of these alone.", show_default=False),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            "--expires", parser=_moment, metavar="30d|TIME", help="It lets nobody in after that.", show_default=False
        ),
    ] = None,
) -> None:
    """Make a token and print it, this one time; keep it where only its program reads it."""
    from spreadpilot_core.ibkr.service import token_commands

    token_commands.add(name, role=role_name, followers=followers, expires_at=expires)


@group.command("list")
def list_tokens(as_json: Json = False) -> None:
    """Show the tokens, and what each may do; never what lets somebody in."""
    from spreadpilot_core.ibkr.service import token_commands

    token_commands.show(as_json=as_json)


@group.command("revoke", short_help="Take a token back.")
def revoke_token(name: Name) -> None:
    """Take a token back: within seconds it lets nobody in, and its sessions end."""
    from spreadpilot_core.ibkr.service import token_commands

    token_commands.revoke(name)
