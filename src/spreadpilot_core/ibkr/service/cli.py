"""`gateway-manager`: every command with its options at one glance; what they do is in the modules they load.

A command loads what it needs and nothing else, so that `--help` and `status` answer at once. Exit code 0 is done, 1 refused
or failed with one sentence on standard error, 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from spreadpilot_core.ibkr.errors import GatewayManagerError

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_EPILOG = "Settings come from the environment; GATEWAY_MANAGER_STATE_DIR says which manager is meant."

app = typer.Typer(
    name="gateway-manager",
    help="Keeps one healthy, logged-in Interactive Brokers Gateway per follower.",
    epilog=_EPILOG,
    context_settings=_SETTINGS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
followers = typer.Typer(
    help="The followers of the local store; needs no running manager.", no_args_is_help=True, rich_markup_mode=None
)
credentials = typer.Typer(
    help="The logins in the encrypted store; needs no running manager.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(followers, name="followers")
app.add_typer(credentials, name="credentials")
audit = typer.Typer(
    help="Who read which secret, and who overrode what; needs no running manager.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(audit, name="audit")

Follower = Annotated[str, typer.Argument(metavar="FOLLOWER", help="The follower's id.", show_default=False)]
Reference = Annotated[str, typer.Argument(metavar="REF", help="Such as ibkr/alice.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print a list of objects instead of a table.")]


def main() -> NoReturn:
    """The program."""
    _have_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # what can't be written is told here, not by the interpreter's end
    except GatewayManagerError as error:
        fail(str(error))
    except BrokenPipeError:  # whoever read our output has enough
        _write_no_more()
        sys.exit(1)
    except OSError as error:
        _write_no_more()
        fail(f"The system refused: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}.")
    sys.exit(0)


def _have_streams() -> None:
    """Whoever started us may have closed some: no file or socket of ours may get their numbers, and prints go nowhere."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004  # standard error
        pass
    os.close(number)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # as long as the program
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _write_no_more() -> None:
    """Standard output takes nothing; the interpreter must not try once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(sentence: str) -> NoReturn:
    """Say why on one line of standard error, and end."""
    print(" ".join(sentence.split()), file=sys.stderr)
    sys.exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("spreadpilot-gateway-manager"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[  # its callback has done all
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Keeps one healthy, logged-in Interactive Brokers Gateway per follower."""


# ---------------------------------------------------------------------------------------------- the manager


@app.command(short_help="Watch simulated gateways fail and recover.")
def demo(
    followers: Annotated[
        int, typer.Option("--followers", min=1, max=100, metavar="N", help="How many simulated gateways.")
    ] = 3,
    once: Annotated[bool, typer.Option("--once", help="End when all are RUNNING, and print the final table.")] = False,
    as_json: Json = False,
) -> None:
    """Watch simulated gateways start, log in, fail and recover, in a temporary directory."""
    from spreadpilot_core.ibkr.service.demo import run_demo

    run_demo(count=followers, once=once, as_json=as_json)


@app.command(short_help="Run the manager until SIGTERM or Ctrl-C.")
def run(
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Act although a silent manager on another engine may still have its gateways there."
        ),
    ] = False,
) -> None:
    """Run the manager until SIGTERM or Ctrl-C; a second signal hurries."""
    from spreadpilot_core.ibkr.service.run import run as serve

    serve(**({"take_over": True} if take_over else {}))


@app.command(short_help="End the manager, leave the gateways.")
def detach() -> None:
    """End the running manager and leave its gateways for the next one."""
    from spreadpilot_core.ibkr.service import gateway_commands

    gateway_commands.detach()


# ---------------------------------------------------------------------------------------------- gateways


@app.command(short_help="Show the gateways.")
def status(
    follower: Annotated[
        str | None, typer.Argument(metavar="FOLLOWER", help="One of them, in detail.", show_default=False)
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show every change until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show the gateways of the running manager."""
    from spreadpilot_core.ibkr.service import gateway_commands

    gateway_commands.status(follower, watch=watch, as_json=as_json)


@app.command(short_help="Start a gateway.")
def launch(
    follower: Follower,
    retry_login: Annotated[
        bool,
        typer.Option("--retry-login", help="Take one more login after a rejection or a spent budget; audited."),
    ] = False,
) -> None:
    """Start a follower's gateway; done when its process runs or its login is queued."""
    from spreadpilot_core.ibkr.service import gateway_commands

    gateway_commands.launch(follower, retry_login=retry_login)


@app.command(short_help="Stop a gateway.")
def stop(follower: Follower) -> None:
    """Stop a follower's gateway; only `launch` starts it again."""
    from spreadpilot_core.ibkr.service import gateway_commands

    gateway_commands.stop(follower)


@app.command(short_help="Start a gateway anew; costs a login.")
def restart(follower: Follower) -> None:
    """Stop a gateway and start it with the newest spec and secret; costs a login."""
    from spreadpilot_core.ibkr.service import gateway_commands

    gateway_commands.restart(follower)


@app.command(short_help="Replace the client connection to a gateway.")
def reconnect(follower: Follower) -> None:
    """Replace the client connection to a gateway; the gateway stays."""
    from spreadpilot_core.ibkr.service import gateway_commands

    gateway_commands.reconnect(follower)


@app.command(short_help="Show what a gateway prints.")
def logs(
    follower: Follower,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with every new line until Ctrl-C.")] = False,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="How many lines.")] = 200,
) -> None:
    """Show what a follower's gateway prints, or the last words of the one before; needs no running manager."""
    from spreadpilot_core.ibkr.service import log_commands

    log_commands.logs(follower, last=last, follow=follow)


@app.command(short_help="Check everything the manager needs.")
def doctor(as_json: Json = False) -> None:
    """Check everything the manager needs, and say what to do; changes nothing. Exit code 1 when there is a problem."""
    from spreadpilot_core.ibkr.service.doctor.command import doctor

    if problems := doctor(as_json=as_json):
        fail(f"The doctor found {problems} problem{'s' if problems > 1 else ''}.")


# ---------------------------------------------------------------------------------------------- followers


@followers.command("list")
def list_followers(as_json: Json = False) -> None:
    """Show every record, also those that can't be used."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.show(as_json=as_json)


@followers.command("add")
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


@followers.command("enable")
def enable_follower(follower: Follower) -> None:
    """Give a follower a gateway."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.set_enabled(follower, enabled=True)


@followers.command("disable")
def disable_follower(follower: Follower) -> None:
    """Take a follower's gateway away; its record stays."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.set_enabled(follower, enabled=False)


@followers.command("remove")
def remove_follower(follower: Follower) -> None:
    """Remove a follower's record; a running manager stops its gateway."""
    from spreadpilot_core.ibkr.service import follower_commands

    follower_commands.remove(follower)


# ---------------------------------------------------------------------------------------------- credentials


@credentials.command("list")
def list_credentials(as_json: Json = False) -> None:
    """Show references, users and versions; never a password."""
    from spreadpilot_core.ibkr.service import credential_commands

    credential_commands.show(as_json=as_json)


@credentials.command("set")
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


@credentials.command("remove")
def remove_credentials(ref: Reference) -> None:
    """Remove a login."""
    from spreadpilot_core.ibkr.service import credential_commands

    credential_commands.remove(ref)


@credentials.command("change-key")
def change_key(
    passphrase_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="From now on this passphrase, instead of a key file.", show_default=False),
    ] = None,
) -> None:
    """Seal every login anew under another key."""
    from spreadpilot_core.ibkr.service import credential_commands

    credential_commands.change_key(passphrase_file)


# ---------------------------------------------------------------------------------------------- audit


@audit.command("show")
def show_audit(
    follower: Annotated[str | None, typer.Argument(metavar="[FOLLOWER]", help="Only this one's lines.")] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="How many lines.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the newest lines of the audit trail."""
    from spreadpilot_core.ibkr.service import audit_commands

    audit_commands.show(follower=follower, last=last, as_json=as_json)


@audit.command("verify")
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
