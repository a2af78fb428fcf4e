"""What a secret of Vault's key-value engine means: the pair of keys in it, its version, whether it is deleted. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from spreadpilot_core.ibkr.credentials.sources.source import SecretGoneError, SecretVersion
from spreadpilot_core.ibkr.credentials.sources.vault.answers import cut
from spreadpilot_core.ibkr.errors import CredentialsRefusedError

T = TypeVar("T")

VERSIONED = 2
"""The version of the engine that keeps versions of secrets."""
PAIRS = (("IB_USER", "IB_PASS"), ("TWS_USERID", "TWS_PASSWORD"), ("username", "password"))

_WRITE = "Write it (`vault kv put`), or correct vault_secret_ref."


def content(where: str, data: Mapping[str, Any]) -> tuple[Mapping[str, Any], SecretVersion]:
    """The keys and values in a read of version 2, and which version it is.

    Raises:
        SecretGoneError: the newest version is deleted.
        CredentialsRefusedError: the answer can't be understood.
    """
    values, metadata = data.get("data"), _part(where, data, "metadata", dict)
    number = _part(where, metadata, "version", int)
    if values is None:
        raise deleted(where, number)
    if not isinstance(values, dict):
        raise _misshapen(where, "data")
    return values, version(where, number, metadata.get("created_time"))


def pair(where: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """User and password.

    Raises:
        CredentialsRefusedError: there is no whole pair; names the keys there are, never a value.
    """
    for user, password in PAIRS:
        if user in values and password in values:
            return _text(where, user, values), _text(where, password, values)
    keys = cut(", ".join(sorted(values)) or "no keys at all")
    wanted = ", or ".join(f"{user} and {password}" for user, password in PAIRS)
    msg = f"The secret {where} has {keys}; it needs {wanted}."
    raise CredentialsRefusedError(msg, hint="Write it anew with both of a pair.")


def version(where: str, number: int, created: object) -> SecretVersion:
    """The version's name: its number, and a mark of when it was made, since a secret made anew counts from 1 again."""
    written_at = _time(where, "created_time", created)
    return SecretVersion(f"{number}-{hashlib.sha256(str(created).encode()).hexdigest()[:8]}", written_at)


def newest(where: str, metadata: Mapping[str, Any]) -> SecretVersion:
    """The newest version, of the secret's metadata.

    Raises:
        SecretGoneError: it is deleted, or there never was one.
        CredentialsRefusedError: the answer can't be understood.
    """
    number = _part(where, metadata, "current_version", int)
    versions = metadata.get("versions") or {}
    entry = versions.get(str(number)) if isinstance(versions, dict) else versions
    if entry is None:
        msg = f"Vault has no version of {where}."
        raise SecretGoneError(msg, hint=_WRITE)
    if not isinstance(entry, dict):
        raise _misshapen(where, "versions")
    gone = entry.get("deletion_time")
    if entry.get("destroyed") or (gone and _time(where, "deletion_time", gone) <= datetime.now(UTC)):
        raise deleted(where, number)
    return version(where, number, entry.get("created_time"))


def engine_version(mount: Mapping[str, Any]) -> int:
    """Which version of the engine a mount is; without a word of it, the first."""
    options = mount.get("options")
    stated = str((options if isinstance(options, dict) else {}).get("version", 1))
    return int(stated) if stated in {"1", "2"} else VERSIONED


def missing(where: str, answer: Mapping[str, Any], *, mount: str) -> CredentialsRefusedError:
    """What a 404 says: deleted, nothing mounted there, or never there."""
    data = answer.get("data")
    metadata = data.get("metadata") if isinstance(data, dict) else None
    if isinstance(metadata, dict) and metadata:
        number = metadata.get("version")
        return deleted(where, number if type(number) is int else 0)
    return (
        unmounted(where, mount)
        if answer.get("errors")
        else SecretGoneError(f"Vault has no secret {where}.", hint=_WRITE)
    )


def softened(refusal: CredentialsRefusedError) -> CredentialsRefusedError:
    """The same no where it is not proven beyond doubt: what was remembered is not used, and not removed."""
    return CredentialsRefusedError(refusal.what, hint=refusal.hint)


def deleted(where: str, number: int) -> SecretGoneError:
    """The error for a newest version that is deleted."""
    return SecretGoneError(
        f"Version {number} of {where}, the newest, is deleted in Vault.",
        hint="Undelete it, or write a new version.",
    )


def unmounted(where: str, mount: str) -> CredentialsRefusedError:
    """The error for a mount that Vault doesn't know: a matter of settings, which revokes nothing."""
    return CredentialsRefusedError(
        f"Vault has nothing mounted where {where} should be.",
        hint=f"The setting vault_mount is {mount!r}.",
    )


def _text(where: str, key: str, values: Mapping[str, Any]) -> str:
    value = values[key]
    if not isinstance(value, str):
        msg = f"The value of {key} in the secret {where} is not text."
        raise CredentialsRefusedError(msg, hint="Put it in quotes.")
    return value


def _time(where: str, name: str, text: object) -> datetime:
    try:
        if isinstance(text, str):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _misshapen(where, name)


def _part(where: str, answer: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """What stands under this name, if it is of this kind."""
    value = answer.get(name)
    if type(value) is not kind:
        raise _misshapen(where, name)
    return value


def _misshapen(where: str, name: str) -> CredentialsRefusedError:
    return CredentialsRefusedError(
        f"What Vault says of {where} can't be understood: its {name} is missing or of the wrong kind.",
        hint="`vault kv get` shows what it holds; is it Vault that answers there?",
    )
