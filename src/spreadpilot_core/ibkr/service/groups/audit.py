"""`gateway-manager audit …`: its commands and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from spreadpilot_core.ibkr.service.options import Json, new_group, whole_number

group = new_group("Who read which secret, and who overrode what.")


@group.command("show")
def show_audit(
    follower: Annotated[str | None, typer.Argument(metavar="FOLLOWER", help="Only this one's lines.")] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", parser=whole_number(), help="How many lines.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the newest lines of the audit trail."""
    from spreadpilot_core.ibkr.service import audit_commands

    audit_commands.show(follower=follower, last=last, as_json=as_json)


@group.command("verify")
def verify_audit(
    recorded: Annotated[
        str | None,
        typer.Option(
            "--recorded",
            metavar="HASH",
            help="A hash kept elsewhere, instead of the record store's; it must be in the chain.",
        ),
    ] = None,
) -> None:
    """Find lines that were altered, removed or cut."""
    from spreadpilot_core.ibkr.service import audit_commands

    audit_commands.verify(recorded)
