"""`followers …`: the local store's file, seen, checked and edited; a running manager notices by itself."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.errors import FollowerEditError, GatewayManagerError
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId, TradingMode
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.asking import confirm, confirm_live
from spreadpilot_core.ibkr.service.other_store import must_be_the_managers
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.local import followers_file
from spreadpilot_core.ibkr.store.registry import read_roster
from spreadpilot_core.ibkr.store.rosters import ACTIVE
from spreadpilot_core.ibkr.system.printable import one_line
from spreadpilot_core.ibkr.system.wording import counted

_BELOW = {"FAULT": "", "VAULT_SECRET_REF": "secret", "STATE": "state", "ENABLED": "enabled", "ACCOUNT": "account"}
"""What moves below a record where the terminal is too narrow."""


class ForeignStoreError(GatewayManagerError):
    """The followers are not in the local store."""

    def __init__(self, settings: Settings) -> None:
        cure = "Change the records there, or set GATEWAY_MANAGER_STORE_URL to local:."
        if settings.followers_url is not None:
            cure = "Change the objects there (`kubectl edit ibg`), or leave GATEWAY_MANAGER_FOLLOWERS_URL away."
        super().__init__(f"The followers are in {settings.followers}, which is not edited from here.", hint=cure)


def show(*, as_json: bool) -> None:
    """Print every record, wherever they are."""
    settings = Settings.read()
    must_be_the_managers(settings)
    roster = asyncio.run(read_roster(settings))
    rows = [_row(follower) for follower in roster.usable.values()]
    rows += [{"id": faulty.id, "fault": faulty.fault} for faulty in roster.faulty.values()]
    if as_json:
        tables.print_json(rows)
    elif rows:
        columns = ("id", "mode", "enabled", "state", "account", "vault_secret_ref", "fault")
        shown = [row | {"mode": tables.mode(row.get("trading_mode"))} for row in rows]
        headings = [column.upper() for column in columns]
        cells = [[row.get(column) for column in columns] for row in shown]
        tables.console().print(tables.table(headings, cells, below=_BELOW))
    elif settings.followers_are_local:
        print("No followers. `gateway-manager followers add` adds one.")
    else:
        print(f"No followers in {settings.followers}.")


def add(follower: str, *, vault_secret_ref: str, live: bool, account: str | None, enabled: bool) -> None:
    """Append one."""
    path = followers_file_of()
    followers_file.add_follower(
        path, follower, vault_secret_ref=vault_secret_ref, live=live, account=account, enabled=enabled
    )
    print(f"{follower} was added, {'live' if live else 'paper'}, {'enabled' if enabled else 'disabled'}.")
    _tell_notices(path, follower)


def set_enabled(follower: str, *, enabled: bool, yes: bool = True) -> None:
    """Enable or disable one."""
    path = followers_file_of()
    if not enabled:
        _confirm_logout("Disable it", path, follower, yes=yes)
    followers_file.set_enabled(path, follower, enabled=enabled)
    print(f"{follower} is {'enabled' if enabled else 'disabled: a gateway that it has is logged out'}.")


def _confirm_logout(what: str, path: Path, follower: str, *, yes: bool) -> None:
    """Ask before the gateway of one that trades live goes."""
    known = followers_file.list_followers(path).usable.get(FollowerId(follower))
    is_live = known is not None and known.trading_mode is TradingMode.LIVE and known.is_wanted
    confirm_live(f"{what}, so that its gateway is logged out", [follower] if is_live else [], yes=yes)


def remove(follower: str, *, yes: bool) -> None:
    """Take one out."""
    path = followers_file_of()
    _confirm_logout("Remove it", path, follower, yes=yes)
    followers_file.remove_follower(path, follower)
    print(f"{follower} was removed.")


def set_fields(follower: str, changes: list[str], *, yes: bool) -> None:
    """Change fields, each said as KEY=VALUE."""
    settings = Settings.read()
    wanted, path = dict(_change(follower, each) for each in changes), followers_file_of(settings)
    if wanted.get("enabled") is False:
        _confirm_logout("Disable it", path, follower, yes=yes)
    elif (state := wanted.get("state") or ACTIVE) != ACTIVE:
        _confirm_logout(f"Give it the state {state}", path, follower, yes=yes)
    known = followers_file.list_followers(path).usable.get(FollowerId(follower))
    was_paper = known is not None and known.trading_mode is TradingMode.PAPER
    faulty = followers_file.set_fields(path, follower, wanted, ports=settings.host_ports)
    print(f"{follower} was changed: {', '.join(wanted)}.")
    if was_paper and wanted.get("trading_mode") == TradingMode.LIVE.value:
        print(f"Where it has had a gateway it stays in paper until `gateway-manager launch {follower} --live`.")
    _tell_notices(path, follower)
    for name, fault in faulty.items():
        print(one_line(f"Beside it, {name} can't be used: {fault}"), file=sys.stderr)


def _tell_notices(path: Path, follower: str) -> None:
    """What the record as it is now gives cause to say."""
    for notice in followers_file.list_followers(path).notices.get(FollowerId(follower), ()):
        print(one_line(f"{follower}: {notice}"), file=sys.stderr)


def _change(follower: str, said: str) -> tuple[str, Any]:
    name, equals, value = said.partition("=")
    name = name.strip()
    if not equals or not name:
        raise FollowerEditError(
            f"{follower} can't be changed so: {said!r} is no KEY=VALUE.", hint="Write it like account=U1234567."
        )
    if name == "notify_urls" and value:
        raise FollowerEditError(
            f"{follower} can't be changed so: notify_urls holds secrets, which a command line shows to every user of this host.",
            hint=f"Write it into {followers_file.FILE_NAME} by hand.",
        )
    return name, _value(name, value)


def _value(name: str, said: str) -> Any:
    """What is said on a command line, as the file holds it; None takes it out."""
    if not said:
        return None
    if name == "enabled" or name.startswith("gateway."):
        if said in ("true", "false"):
            return said == "true"
        if said.isascii() and said.removeprefix("-").isdigit():
            return int(said)
    return said


def check(file: Path | None) -> int:
    """Print what is wrong with each record of `file`, or of those that the manager reads; returns how many can't be used."""
    settings = Settings.read()
    roster = (
        asyncio.run(read_roster(settings))
        if file is None
        else followers_file.check_file(file, ports=settings.host_ports)
    )
    for faulty in roster.faulty.values():
        print(one_line(f"{faulty.id}: {faulty.fault}"))
    for name, notices in roster.notices.items():
        for notice in notices:
            print(one_line(f"{name}: {notice}"))
    print(f"{counted(len(roster.usable), 'record')} can be used.")
    return len(roster.faulty)


def confirm_removals(*, yes: bool) -> None:
    """Have the running manager let those go whose records are gone."""
    from spreadpilot_core.ibkr.service.client import ControlClient

    with ControlClient(Settings.read().state_dir) as client:
        missing = client.missing_followers()
        if not missing:
            print("No follower with a gateway has lost its record.")
            return
        print(f"{'Its record is' if len(missing) == 1 else 'Their records are'} gone: {', '.join(missing)}.")
        confirm(f"Stop {counted(len(missing), 'gateway')}?", yes=yes)
        gone = client.confirm_removals(missing)
    if not gone:
        print("What was gone is back; nobody is stopped.")
    elif len(gone) == 1:
        print(f"The gateway of {gone[0]} is being stopped.")
    else:
        print(f"The gateways of {', '.join(gone)} are being stopped.")


def followers_file_of(settings: Settings | None = None) -> Path:
    """The file that the settings name. Raises `ForeignStoreError` where the followers are in another store, and `OtherStoreError`."""
    settings = settings or Settings.read()
    must_be_the_managers(settings)
    if not settings.followers_are_local:
        raise ForeignStoreError(settings)
    return settings.local_store_dir / followers_file.FILE_NAME


def _row(follower: Follower) -> dict[str, Any]:
    return follower.shown() | {"gateway": follower.gateway.model_dump(exclude_none=True), "fault": None}
