"""`gateway-manager`: its commands with their options at one glance (those of a group are in `groups`); what they do is in the
modules they load.

A command loads what it needs and nothing else, so that `--help` and `status` answer at once. Exit code 0 is done, 1 refused
or failed with one sentence on standard error, 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.service.groups import audit, credentials, followers, notify, settings, tokens
from spreadpilot_core.ibkr.service.options import (
    All,
    CaFile,
    ClientName,
    Follower,
    Followers,
    Json,
    Require,
    TokenFile,
    Url,
    Wait,
    Yes,
    YesUnwatched,
    fail,
    whole_number,
)
from spreadpilot_core.ibkr.service.surroundings import make_files_private
from spreadpilot_core.ibkr.service.usage import Commands
from spreadpilot_core.ibkr.system.printable import escape_streams
from spreadpilot_core.ibkr.system.wording import counted

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_EPILOG = "`settings show` says what is set, and where; GATEWAY_MANAGER_STATE_DIR says which manager is meant."

app = Commands(
    name="gateway-manager",
    help="Keeps one healthy, logged-in Interactive Brokers Gateway per follower.",
    epilog=_EPILOG,
    context_settings=_SETTINGS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(followers.group, name="followers")
app.add_typer(credentials.group, name="credentials")
app.add_typer(audit.group, name="audit")
app.add_typer(notify.group, name="notify")
app.add_typer(settings.group, name="settings")
app.add_typer(tokens.group, name="tokens")


def main() -> NoReturn:
    """The program."""
    _have_streams()
    escape_streams()
    make_files_private()
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
        int,
        typer.Option("--followers", parser=whole_number(most=100), metavar="N", help="How many simulated gateways."),
    ] = 3,
    page: Annotated[bool, typer.Option("--page", help="Show it in a browser too.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when all are RUNNING, and print the final table.")] = False,
    as_json: Json = False,
) -> None:
    """Watch simulated gateways start, log in, fail and recover, in a temporary directory."""
    from spreadpilot_core.ibkr.demo.demo import run_demo

    run_demo(count=followers, once=once, as_json=as_json, page=page)


@app.command(short_help="Run the manager until SIGTERM or Ctrl-C.")
def run(
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Act although a silent manager on another engine may still have its gateways there."
        ),
    ] = False,
    adopt_from: Annotated[
        str | None,
        typer.Option(
            "--adopt-from",
            metavar="IDENTITY",
            help="Take over the gateways of the manager with this identity, which has ended.",
            show_default=False,
        ),
    ] = None,
    accept_lost_records: Annotated[
        bool,
        typer.Option("--accept-lost-records", help="Log in although the records of earlier logins are lost."),
    ] = False,
) -> None:
    """Run the manager until SIGTERM or Ctrl-C; a second signal hurries."""
    from spreadpilot_core.ibkr.service.run import run as serve

    if adopt_from is not None and not adopt_from.strip():
        raise typer.BadParameter("it is empty; `status` and `doctor` name identities.", param_hint="--adopt-from")
    words = {"take_over": take_over, "adopt_from": adopt_from, "accept_lost_records": accept_lost_records}
    serve(**{name: said for name, said in words.items() if said})


@app.command(short_help="End the manager, leave the gateways.")
def detach(yes: YesUnwatched = False) -> None:
    """End the running manager and leave its gateways, unwatched, for the next one."""
    from spreadpilot_core.ibkr.service import gateway_commands

    gateway_commands.detach(yes=yes)


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


@app.command(short_help="Start gateways.")
def launch(
    followers: Followers = None,
    all_of_them: All = False,
    retry_login: Annotated[
        bool,
        typer.Option("--retry-login", help="Take one more login after a rejection or a spent limit; audited."),
    ] = False,
    override_account_lock: Annotated[
        str | None,
        typer.Option(
            "--override-account-lock",
            metavar="USER",
            help="Take one more login although IBKR may lock this user's account for it; audited.",
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Confirm that it trades live from now on, as its record asks; audited."),
    ] = False,
) -> None:
    """Start followers' gateways; done when their processes run or their logins are queued."""
    from spreadpilot_core.ibkr.service import gateway_commands

    named = _named(followers, all_of_them)
    if override_account_lock is not None and (named is None or len(named) > 1):
        raise typer.BadParameter("it is for one follower: name that one.", param_hint="--override-account-lock")
    words = {"retry_login": retry_login, "override_account_lock": override_account_lock, "live": live}
    gateway_commands.launch(named, words)


@app.command(short_help="Stop gateways.")
def stop(
    followers: Followers = None,
    all_of_them: All = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="End what runs although no manager does; remembered all the same.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Stop followers' gateways; only `launch` starts them again."""
    named = _named(followers, all_of_them)
    if offline:
        from spreadpilot_core.ibkr.service import offline_commands

        offline_commands.stop(named, yes=yes)
    else:
        from spreadpilot_core.ibkr.service import gateway_commands

        gateway_commands.stop(named, yes=yes)


@app.command(short_help="Start gateways anew; costs a login each.")
def restart(followers: Followers = None, all_of_them: All = False, yes: Yes = False) -> None:
    """Stop gateways and start them with the newest spec and secret; costs a login each."""
    from spreadpilot_core.ibkr.service import gateway_commands

    gateway_commands.restart(_named(followers, all_of_them), yes=yes)


def _named(followers: list[str] | None, all_of_them: bool) -> list[str] | None:
    """Who is meant; None: all."""
    if bool(followers) is all_of_them:
        raise typer.BadParameter("name followers, or say --all, and not both.", param_hint="FOLLOWER")
    return list(dict.fromkeys(followers)) if followers else None


@app.command(short_help="Replace the client connection to a gateway.")
def reconnect(follower: Follower) -> None:
    """Replace the client connection to a gateway; the gateway stays."""
    from spreadpilot_core.ibkr.service import gateway_commands

    gateway_commands.reconnect(follower)


@app.command("exec", short_help="Run a program as a client of a gateway.")
def execute(
    follower: Follower,
    *,
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="The program and its arguments, after `--`.", show_default=False),
    ],
    name: ClientName = None,
    wait: Wait = 120.0,
    require: Require = None,
    restart_it: Annotated[
        bool,
        typer.Option("--restart", help="Start it again when its gateway was replaced, or was away when it failed."),
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Run any program with IB_HOST, IB_PORT, IB_CLIENT_ID and IB_ACCOUNT set, and end as it ends; the client id is its own as long."""
    from spreadpilot_core.ibkr.service import client_commands

    client_commands.run_program(
        follower,
        command,
        name=name,
        wait=wait,
        require=require,
        restart=restart_it,
        route=client_commands.route_to(url, token_file, ca_file),
    )


@app.command(short_help="Say where a gateway's API answers.")
def endpoint(
    follower: Follower,
    *,
    wait: Wait = 0.0,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> None:
    """Say where a gateway's API answers, as HOST:PORT; exit code 1 and why when it is not ready."""
    from spreadpilot_core.ibkr.service import client_commands

    client_commands.endpoint(
        follower, wait=wait, route=client_commands.route_to(url, token_file, ca_file), as_json=as_json
    )


@app.command(short_help="Show what a gateway prints.")
def logs(
    follower: Follower,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with every new line until Ctrl-C.")] = False,
    last: Annotated[int, typer.Option("--last", metavar="N", parser=whole_number(), help="How many lines.")] = 200,
) -> None:
    """Show what a follower's gateway prints, or the last words of the one before; needs no running manager."""
    from spreadpilot_core.ibkr.service import log_commands

    log_commands.logs(follower, last=last, follow=follow)


@app.command(short_help="Say where pictures of a gateway's screen are.")
def pictures(follower: Follower, as_json: Json = False) -> None:
    """Say where the last pictures of a follower's gateways are, which were given up while they showed a screen; needs no running manager."""
    from spreadpilot_core.ibkr.service import picture_commands

    picture_commands.pictures(follower, as_json=as_json)


def _moment(text: str) -> datetime:
    from spreadpilot_core.ibkr.service.history_commands import moment

    try:
        return moment(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None


def _month(text: str) -> str:
    from spreadpilot_core.ibkr.service.availability_commands import month

    try:
        return month(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None


@app.command(short_help="Show what happened to a gateway.")
def history(
    follower: Follower,
    since: Annotated[
        datetime | None,
        typer.Option("--since", parser=_moment, metavar="2h|TIME", help="All since then; without it the newest 200."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what happened to a gateway, also while no manager runs."""
    from spreadpilot_core.ibkr.service import history_commands

    history_commands.history(follower, since=since, as_json=as_json)


@app.command(short_help="Show how long gateways were ready.")
def availability(
    month: Annotated[
        str | None, typer.Option("--month", parser=_month, metavar="2026-11", help="UTC; without it this month.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how long each gateway was ready in a month, inside and outside IBKR's reset hours, also while no manager runs."""
    from spreadpilot_core.ibkr.service import availability_commands

    availability_commands.availability(month=month, as_json=as_json)


@app.command(short_help="Check everything the manager needs.")
def doctor(as_json: Json = False) -> None:
    """Check everything the manager needs, and say what to do; changes nothing. Exit code 1 when there is a problem."""
    from spreadpilot_core.ibkr.service.doctor.command import doctor

    if problems := doctor(as_json=as_json):
        fail(f"The doctor found {counted(problems, 'problem')}.")


@app.command("import", short_help="Make followers of a compose file.")
def import_compose(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Such as docker-compose.yml.", show_default=False, readable=False)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and write nothing.")] = False,
    env_file: Annotated[
        Path | None,
        typer.Option("--env-file", metavar="FILE", help="Its variables, instead of .env beside it.", readable=False),
    ] = None,
    services: Annotated[
        list[str] | None,
        typer.Option("--service", metavar="NAME", help="This one alone, whatever its image is called; repeatable."),
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", metavar="P", help="What each new follower's id begins with.")] = "",
) -> None:
    """Make followers, disabled, and stored logins of the gateways in a compose file; starts, stops and adopts nothing."""
    from spreadpilot_core.ibkr.service import import_commands

    import_commands.import_compose(file, dry_run=dry_run, env_file=env_file, services=services or (), prefix=prefix)
