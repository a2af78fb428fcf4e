"""`followers …`: the local store's file, seen and edited; a running manager notices by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.protocols import Follower
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store import followers_file


class ForeignStoreError(GatewayManagerError):
    """The followers are not in the local store."""

    def __init__(self, store: str) -> None:
        super().__init__(
            f"The followers are in {store}, which is not edited from here.",
            hint="Change the records there, or set GATEWAY_MANAGER_STORE_URL to local:.",
        )


def show(*, as_json: bool) -> None:
    """Print every record of the file."""
    roster = followers_file.list_followers(_file())
    rows = [_row(follower) for follower in roster.usable.values()]
    rows += [{"id": faulty.id, "fault": faulty.fault} for faulty in roster.faulty.values()]
    if as_json:
        tables.print_json(rows)
    elif rows:
        columns = ("id", "enabled", "state", "trading_mode", "account", "vault_secret_ref", "fault")
        headings = [column.upper() for column in columns]
        tables.console().print(tables.table(headings, [[row.get(column) for column in columns] for row in rows]))
    else:
        print("No followers. `gateway-manager followers add` adds one.")


def add(follower: str, *, vault_secret_ref: str, live: bool, account: str | None, enabled: bool) -> None:
    """Append one."""
    followers_file.add_follower(
        _file(), follower, vault_secret_ref=vault_secret_ref, live=live, account=account, enabled=enabled
    )
    print(f"{follower} was added, {'live' if live else 'paper'}, {'enabled' if enabled else 'disabled'}.")


def set_enabled(follower: str, *, enabled: bool) -> None:
    """Enable or disable one."""
    followers_file.set_enabled(_file(), follower, enabled=enabled)
    print(f"{follower} is {'enabled' if enabled else 'disabled'}.")


def remove(follower: str) -> None:
    """Take one out."""
    followers_file.remove_follower(_file(), follower)
    print(f"{follower} was removed.")


def _file() -> Path:
    settings = Settings.read()
    if not settings.store.startswith("local:"):
        raise ForeignStoreError(settings.store)
    return settings.local_store_dir / followers_file.FILE_NAME


def _row(follower: Follower) -> dict[str, Any]:
    return {
        "id": follower.id,
        "vault_secret_ref": follower.vault_secret_ref,
        "enabled": follower.enabled,
        "state": follower.state,
        "trading_mode": follower.trading_mode.value,
        "account": follower.account,
        "phone_owner": follower.phone_owner,
        "region": follower.region,
        "gateway": follower.gateway.model_dump(exclude_none=True),
        "fault": None,
    }
