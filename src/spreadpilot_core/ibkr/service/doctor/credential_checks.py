"""Credentials: the encrypted store and its key, Vault by a courier, and every enabled follower's reference.

Versions are asked for, passwords never. (Version 1 of Vault's key-value engine has no versions: there the courier must read,
which it audits as always.)
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from spreadpilot_core.ibkr.credentials.broker import CourierBroker, first_line
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import KEY_FILE_NAME, EncryptedCredentials
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, GatewayManagerError
from spreadpilot_core.ibkr.model.secret_refs import canonical_ref
from spreadpilot_core.ibkr.service.doctor.findings import Finding, ok, problem, raised, wanted, warning
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster
from spreadpilot_core.ibkr.system.wording import counted

_PROBE = "gateway-manager-doctor"
"""A secret that nobody has: Vault's no is as good as a yes, for a bad token gets another answer."""
_NOT_ALLOWED = "Vault's policies"


# ---------------------------------------------------------------------------------------------- the encrypted store


async def stored(settings: Settings) -> Sequence[Finding]:
    """Whether the store opens with its key, and who else may read the key."""
    return await asyncio.to_thread(_stored, settings)


def _stored(settings: Settings) -> list[Finding]:
    stored = _store(settings)
    key = settings.credentials_passphrase_file or settings.credentials_key_file or settings.state_dir / KEY_FILE_NAME
    private = _privacy(key, _managers_user(settings))
    if not stored.path.exists():
        return [ok("There are no stored credentials."), *private]
    entries = stored.list()
    stored.mark(("doctor", "", ""))  # opens the seal that is there to prove the key, and no password
    return [ok(f"{stored.path} opens with its key and holds {counted(len(entries), 'login')}."), *private]


def _managers_user(settings: Settings) -> int:
    """Whose the state directory is, whoever looks."""
    try:
        return settings.state_dir.stat().st_uid
    except OSError:
        return os.geteuid()


def _privacy(key: Path, user: int) -> list[Finding]:
    try:
        there = key.stat()
    except OSError:  # missing or shut: opening the store tells
        return []
    mode = stat.S_IMODE(there.st_mode)
    found = []
    if mode & 0o077:
        found.append(problem(f"Others may read or write the key {key} (mode {mode:04o}).", f"`chmod 600 {key}`"))
    if there.st_uid != user:
        what = f"The key {key} belongs to user {there.st_uid}, and the manager is user {user}."
        found.append(warning(what, f"`chown {user} {key}` as root."))
    return found


def _store(settings: Settings) -> EncryptedCredentials:
    return EncryptedCredentials.at(
        settings.state_dir,
        key_file=settings.credentials_key_file,
        passphrase_file=settings.credentials_passphrase_file,
        mount=settings.vault_mount,
    )


# ---------------------------------------------------------------------------------------------- references


async def references(settings: Settings) -> Sequence[Finding]:
    """Whether each enabled follower's reference names a secret that can be had."""
    names: dict[str, list[str]] = {}
    try:
        followers = wanted(await read_roster(settings))
    except GatewayManagerError:  # their own line tells why
        return [warning("Which secrets are needed is not known while the followers can't be read.")]
    for follower in followers:
        names.setdefault(follower.vault_secret_ref, []).append(follower.id)
    if settings.vault_enabled and settings.vault_addr:
        return await _in_vault(settings, names)
    missing = await asyncio.to_thread(_not_stored, settings, names)
    found = _findings_of(names, missing)
    if settings.vault_enabled:
        found.append(
            warning("VAULT_ADDR is not set, so stored credentials alone are used.", "VAULT_ENABLED=false says so.")
        )
    return found


def _not_stored(settings: Settings, refs: Mapping[str, object]) -> dict[str, GatewayManagerError]:
    stored, missing = _store(settings), {}
    for ref in refs:
        try:
            stored.version(ref)
        except GatewayManagerError as error:
            missing[ref] = error
    return missing


def _findings_of(names: Mapping[str, Sequence[str]], errors: Mapping[str, GatewayManagerError]) -> list[Finding]:
    if not names:
        return [ok("No follower is enabled, so no secret is needed.")]
    found = [problem(f"{', '.join(names[ref])}: {error.what}", error.hint) for ref, error in errors.items()]
    good = len(names) - len(errors)
    return [ok(f"{counted(good, 'secret')} of {len(names)} can be had."), *found] if good else found


# ---------------------------------------------------------------------------------------------- Vault


async def _in_vault(settings: Settings, names: Mapping[str, Sequence[str]]) -> list[Finding]:
    couriers = CourierBroker(first_line(settings) | {"only_looks": True, "remember": False})
    try:
        asked = [_PROBE] if not names else list(names)
        answers = await asyncio.gather(*(couriers.version(ref) for ref in asked), return_exceptions=True)
    finally:
        await couriers.close()
    errors = {ref: each for ref, each in zip(asked, answers, strict=True) if isinstance(each, GatewayManagerError)}
    away = [each for each in errors.values() if not isinstance(each, CredentialsRefusedError) and not _is_shut(each)]
    if away:
        return [raised(away[0]), *(await asyncio.to_thread(_stand_ins, settings, names))]
    good = ok(f"Vault at {settings.vault_addr} answers, and the token is good.")
    errors.pop(_PROBE, None)
    shut = [
        warning(f"{', '.join(names[ref])}: {each.what}", each.hint) for ref, each in errors.items() if _is_shut(each)
    ]
    refused = {ref: each for ref, each in errors.items() if not _is_shut(each)}
    return [good, *_findings_of(names, refused), *shut]


def _is_shut(error: GatewayManagerError) -> bool:
    """Our token is good, but may not look at versions."""
    return error.what.startswith(_NOT_ALLOWED)


def _stand_ins(settings: Settings, names: Mapping[str, Sequence[str]]) -> list[Finding]:
    if not names:
        return []
    try:
        stored_refs = {entry.ref for entry in _store(settings).list()}
    except GatewayManagerError as error:
        return [raised(error)]
    missing = [ref for ref in names if canonical_ref(ref, mount=settings.vault_mount) not in stored_refs]
    here = f"{len(names) - len(missing)} of {counted(len(names), 'secret')}"
    cure = f"`gateway-manager credentials set {missing[0]} --username USER` stores one." if missing else None
    return [warning(f"While Vault can't be used, stored logins stand in for {here}.", cure)]
