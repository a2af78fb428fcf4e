"""Which source of credentials the settings name; runs inside the courier.

With `vault_enabled` and `VAULT_ADDR` it is Vault, with the encrypted store for the day Vault is away; otherwise it is the
encrypted store alone. Vault's client is loaded only where it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.source import CredentialSource


def open_source(settings: Mapping[str, Any], *, trail: AuditTrail, say: Callable[[str], None]) -> CredentialSource:
    """The source that the courier's first line names; opens no connection yet."""
    store = EncryptedCredentials.at(
        Path(settings["state_dir"]),
        key_file=_path(settings["key_file"]),
        passphrase_file=_path(settings["passphrase_file"]),
        mount=settings["mount"],
        say=say,
    )
    return _with_vault(settings, store, trail, say) if settings["vault"] else store


def _with_vault(
    settings: Mapping[str, Any], store: EncryptedCredentials, trail: AuditTrail, say: Callable[[str], None]
) -> CredentialSource:
    from spreadpilot_core.ibkr.credentials.sources.remembered import RememberingCredentials  # noqa: PLC0415  # with Vault only
    from spreadpilot_core.ibkr.credentials.sources.vault.access import VaultAccess  # noqa: PLC0415  # with Vault only
    from spreadpilot_core.ibkr.credentials.sources.vault.source import VaultCredentials  # noqa: PLC0415  # loads hvac

    mount = settings["mount"]
    access = VaultAccess.from_environment(os.environ, address=settings["vault"], mount=mount)
    if settings.get("only_looks"):  # whoever only looks changes nothing here, whatever Vault says
        return VaultCredentials(access, mark=lambda _: "unmarked")
    return RememberingCredentials(
        VaultCredentials(access, mark=store.mark),
        store,
        remember=settings["remember"],
        trail=trail,
        who=settings["who"],
        say=say,
        mount=mount,
    )


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None
