"""`credentials …`: the encrypted store, seen and changed, each change audited. No password is an argument or is printed."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import typer

from spreadpilot_core.ibkr.audit.trail import AuditTrail, actor
from spreadpilot_core.ibkr.credentials.courier.encoding import Controller, untypable
from spreadpilot_core.ibkr.credentials.sources.encrypted.keys import Passphrase
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialStoreError, GatewayManagerError
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.secret_refs import canonical_ref, shown_version
from spreadpilot_core.ibkr.model.users import canonical_user
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.asking import confirm_on_terminal, some_of
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.state_dir import make_private
from spreadpilot_core.ibkr.store.registry import read_roster
from spreadpilot_core.ibkr.system.local_time import local_time
from spreadpilot_core.ibkr.system.printable import one_line

_LONGEST = 64 * 1024
_TYPABLE = "x"
"""A password that every controller can type."""
_BELOW = {"ORIGIN": "from", "WRITTEN": "of", "VERSION": "version", "USER": "user"}
"""What moves below a login where the terminal is too narrow."""


def show(*, as_json: bool) -> None:
    """Print every entry."""
    rows = [asdict(entry) for entry in open_store(Settings.read()).list()]
    if as_json:
        tables.print_json(rows)
    elif rows:
        headings = [name.removesuffix("_at").upper() for name in rows[0]]
        shown = [
            row | {"version": shown_version(row["version"]), "written_at": local_time(row["written_at"])}
            for row in rows
        ]
        tables.console().print(tables.table(headings, [list(row.values()) for row in shown], below=_BELOW))
    else:
        print("No credentials. `gateway-manager credentials set` stores some.")


def set_login(ref: str, username: str, *, from_stdin: bool) -> None:
    """Store a login under a new version."""
    settings = Settings.read()
    path = canonical_ref(ref, mount=settings.vault_mount)
    _checked(username, _TYPABLE)  # before anybody types a password
    password = _from_stdin() if from_stdin else _by_prompt()
    limits = _checked(username, password)
    trail, store = _trail(settings), open_store(settings)
    limits += _of_others(username, path, store)
    version = store.set(ref, username, password)
    trail.append("set", who=actor("gateway-manager"), ref=path, version=version.version, source="stored")
    print(f"{path} holds the login of {username}, version {version.shown}.")
    for sentence in limits:
        print(sentence, file=sys.stderr)


def _of_others(username: str, path: str, store: EncryptedCredentials) -> list[str]:
    """A sentence where logins under other references are of the same IBKR user."""
    user = canonical_user(username)
    others = [each.ref for each in store.list() if each.ref != path and canonical_user(each.user) == user]
    if not others:
        return []
    return [
        f"{some_of(others)} {'is' if len(others) == 1 else 'are'} of {username} as well: IBKR has one user logged in once."
    ]


def _checked(username: str, password: str) -> list[str]:
    """A sentence for a controller that can't type this login; raises `CredentialsRefusedError` when none of them can."""
    reasons = untypable(username, password)
    typing = [each for each in get_args(Controller) if each not in reasons]
    if not typing:
        why = next(iter(reasons.values()))
        raise CredentialsRefusedError(f"{why[0].upper()}{why[1:]}.", hint="Nothing was stored.")
    return [
        f"Images with {each} can't type it: {why}. Those with {' or '.join(typing)} can."
        for each, why in reasons.items()
    ]


def remove(ref: str, *, yes: bool) -> None:
    """Remove a login; who still logs in with it is named, and asked about on a terminal."""
    settings = Settings.read()
    store = open_store(settings)
    path = canonical_ref(ref, mount=settings.vault_mount)
    if path not in {entry.ref for entry in store.list()}:
        raise CredentialsRefusedError(f"There are no credentials {path} in {store.path}.")
    if users := _users_of(path, settings):
        log_in, they = ("logs in", "it") if len(users) == 1 else ("log in", "they")
        question = f"{some_of(users)} {log_in} with {path}: {they} can't log in again without it. Remove it?"
        confirm_on_terminal(question, yes=yes)
    trail = _trail(settings)
    store.remove(ref)
    trail.append("remove", who=actor("gateway-manager"), ref=path, source="stored")
    print(f"{path} was removed.")


def _users_of(path: str, settings: Settings) -> list[str]:
    """Who wants a gateway with this login, live ones marked; nobody where the followers can't be read now."""
    try:
        roster = asyncio.run(read_roster(settings))
    except GatewayManagerError as error:
        print(one_line(f"Whether somebody logs in with {path} can't be seen: {error}"), file=sys.stderr)
        return []
    wanting = (each for each in roster.usable.values() if each.is_wanted)
    using = (each for each in wanting if canonical_ref(each.vault_secret_ref, mount=settings.vault_mount) == path)
    return [f"{each.id} (LIVE)" if each.trading_mode is TradingMode.LIVE else each.id for each in using]


def change_key(passphrase_file: Path | None) -> None:
    """Seal everything anew: under a new key in the same key file, or under a passphrase."""
    settings = Settings.read()
    store = open_store(settings)
    if not store.path.exists():
        raise CredentialStoreError(f"There are no stored credentials in {settings.state_dir}, and so no key to change.")
    trail = _trail(settings)
    store.rotate_key(Passphrase(passphrase_file) if passphrase_file else None)
    trail.append("change-key", who=actor("gateway-manager"), source="stored")
    print(f"The credentials in {store.path} are sealed anew.")
    if passphrase_file is not None and passphrase_file != settings.credentials_passphrase_file:
        setting = f"GATEWAY_MANAGER_CREDENTIALS_PASSPHRASE_FILE={passphrase_file.absolute()}"
        print(f"Set {setting} from now on, for every command and for the manager, which must be started again.")
    elif settings.credentials_passphrase_file is None:
        print("Copies of the old key are of no use any more; keep a copy of the new one.")


def _trail(settings: Settings) -> AuditTrail:
    """The audit trail, ready to be written to: in a directory of this user, so that no other has to read what this one made."""
    make_private(settings.state_dir)
    trail = AuditTrail(settings.state_dir)
    trail.ready()
    return trail


def open_store(settings: Settings) -> EncryptedCredentials:
    """The encrypted store that the settings name; a key that it makes is told on standard error."""
    return EncryptedCredentials.at(
        settings.state_dir,
        key_file=settings.credentials_key_file,
        passphrase_file=settings.credentials_passphrase_file,
        mount=settings.vault_mount,
        say=lambda sentence: print(sentence, file=sys.stderr),
    )


def _from_stdin() -> str:
    """All of standard input without one trailing newline; everything else is the password's."""
    raw = sys.stdin.buffer.read(_LONGEST)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise CredentialsRefusedError("The password on standard input is no UTF-8 text.") from None
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\r\n") else text.removesuffix("\n")


def _by_prompt() -> str:
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask on; use --password-stdin.", param_hint="--password-stdin")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password
