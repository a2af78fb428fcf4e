"""`credentials …`: the encrypted store, seen and changed, each change audited. No password is an argument or is printed."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import typer

from spreadpilot_core.ibkr.audit import AuditTrail, actor
from spreadpilot_core.ibkr.credentials.encrypted import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.keys import Passphrase
from spreadpilot_core.ibkr.credentials.refs import canonical_ref
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialStoreError
from spreadpilot_core.ibkr.records import shown_version
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.state_dir import make_private

_LONGEST = 64 * 1024


def show(*, as_json: bool) -> None:
    """Print every entry."""
    rows = [asdict(entry) for entry in _store(Settings.read()).list()]
    if as_json:
        tables.print_json(rows)
    elif rows:
        headings = [name.upper() for name in rows[0]]
        shown = [row | {"version": shown_version(row["version"])} for row in rows]
        tables.console().print(tables.table(headings, [list(row.values()) for row in shown]))
    else:
        print("No credentials. `gateway-manager credentials set` stores some.")


def set_login(ref: str, username: str, *, from_stdin: bool) -> None:
    """Store a login under a new version."""
    password = _from_stdin() if from_stdin else _by_prompt()
    settings = Settings.read()
    make_private(settings.state_dir)
    trail = AuditTrail(settings.state_dir)
    trail.ready()
    version = _store(settings).set(ref, username, password)
    path = canonical_ref(ref, mount=settings.vault_mount)
    trail.append("set", who=actor("gateway-manager"), ref=path, version=version.version, source="stored")
    print(f"{path} holds the login of {username}, version {version.shown}.")


def remove(ref: str) -> None:
    """Remove a login."""
    settings = Settings.read()
    store = _store(settings)
    path = canonical_ref(ref, mount=settings.vault_mount)
    if path not in {entry.ref for entry in store.list()}:
        raise CredentialsRefusedError(f"There are no credentials {path} in {store.path}.")
    trail = AuditTrail(settings.state_dir)
    trail.ready()
    store.remove(ref)
    trail.append("remove", who=actor("gateway-manager"), ref=path, source="stored")
    print(f"{path} was removed.")


def change_key(passphrase_file: Path | None) -> None:
    """Seal everything anew: under a new key in the same key file, or under a passphrase."""
    settings = Settings.read()
    store = _store(settings)
    if not store.path.exists():
        raise CredentialStoreError(f"There are no stored credentials in {settings.state_dir}, and so no key to change.")
    trail = AuditTrail(settings.state_dir)
    trail.ready()
    store.rotate_key(Passphrase(passphrase_file) if passphrase_file else None)
    trail.append("change-key", who=actor("gateway-manager"), source="stored")
    print(f"The credentials in {store.path} are sealed anew.")
    if passphrase_file is not None and passphrase_file != settings.credentials_passphrase_file:
        setting = f"GATEWAY_MANAGER_CREDENTIALS_PASSPHRASE_FILE={passphrase_file.absolute()}"
        print(f"Set {setting} from now on, for every command and for the manager, which must be started again.")
    elif settings.credentials_passphrase_file is None:
        print("Copies of the old key are of no use any more; keep a copy of the new one.")


def _store(settings: Settings) -> EncryptedCredentials:
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
