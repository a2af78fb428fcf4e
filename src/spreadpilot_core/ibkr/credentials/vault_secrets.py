"""What a secret of Vault's key-value engine means: the pair of keys in it, its version, whether it is deleted. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from spreadpilot_core.ibkr.credentials.source import SecretGoneError, SecretVersion
from spreadpilot_core.ibkr.errors import CredentialsRefusedError

VERSIONED = 2
"""The version of the engine that keeps versions of secrets."""
PAIRS = (("IB_USER", "IB_PASS"), ("TWS_USERID", "TWS_PASSWORD"), ("username", "password"))


def content(where: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys and values in a read of version 2.

    Raises:
        SecretGoneError: the newest version is deleted.
    """
    values = data.get("data")
    if values is None:
        raise deleted(where, data["metadata"]["version"])
    return dict(values)


def pair(where: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """User and password.

    Raises:
        CredentialsRefusedError: there is no whole pair; names the keys there are, never a value.
    """
    for user, password in PAIRS:
        if user in values and password in values:
            return _text(where, user, values), _text(where, password, values)
    keys = ", ".join(sorted(values)) or "no keys at all"
    wanted = ", or ".join(f"{user} and {password}" for user, password in PAIRS)
    msg = f"The secret {where} has {keys}; it needs {wanted}."
    raise CredentialsRefusedError(msg)


def version(number: int, created: str) -> SecretVersion:
    """The version's name: its number, and a mark of when it was made, since a secret made anew counts from 1 again."""
    return SecretVersion(f"{number}-{hashlib.sha256(created.encode()).hexdigest()[:8]}", _time(created))


def newest(where: str, metadata: Mapping[str, Any]) -> SecretVersion:
    """The newest version, of the secret's metadata.

    Raises:
        SecretGoneError: it is deleted, or there never was one.
    """
    number = metadata["current_version"]
    told = (metadata.get("versions") or {}).get(str(number))
    if told is None:
        msg = f"Vault has no version of {where}."
        raise SecretGoneError(msg)
    gone = told["deletion_time"]
    if told["destroyed"] or (gone and _time(gone) <= datetime.now(UTC)):
        raise deleted(where, number)
    return version(number, told["created_time"])


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


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
