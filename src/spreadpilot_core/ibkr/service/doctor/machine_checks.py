"""This machine: the state directory, the clock, descriptors, and whether a manager runs already."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.client import ControlClient, NoManagerError
from spreadpilot_core.ibkr.service.doctor.findings import Finding, ok, problem, raised, wanted, warning
from spreadpilot_core.ibkr.service.doctor.runtime_checks import runtime_checks
from spreadpilot_core.ibkr.service.other_store import OtherStoreError, must_be_the_managers
from spreadpilot_core.ibkr.service.unwatched import unwatched
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster, store
from spreadpilot_core.ibkr.system.peers import ROOT
from spreadpilot_core.ibkr.system.users import by_user
from spreadpilot_core.ibkr.system.wording import counted

_MIB = 1024 * 1024
_NEEDED_DISK = 100 * _MIB
_COMFORTABLE_DISK = 1024 * _MIB
_BUILT = datetime(2026, 1, 1, tzinfo=UTC)
"""No clock that is right can be before this."""
_NOTICED_SKEW = 5.0
_HARMFUL_SKEW = 60.0
_DESCRIPTORS = 128
_DESCRIPTORS_EACH = 8
"""What the manager opens at most: for itself, and for each gateway (log, API, probe, courier's delivery)."""


# ---------------------------------------------------------------------------------------------- state directory


async def state_dir(settings: Settings) -> Sequence[Finding]:
    """Mode, owner and room."""
    return await asyncio.to_thread(_state_dir, settings.state_dir)


def _state_dir(directory: Path) -> list[Finding]:
    try:
        there = directory.stat()
    except FileNotFoundError:
        return [_to_be_made(directory)]
    except OSError as error:
        return [problem(f"{directory} can't be looked at ({error.strerror}).", "Run this as the manager's user.")]
    if not stat.S_ISDIR(there.st_mode):
        return [problem(f"{directory} is no directory.", "Move it aside, or set GATEWAY_MANAGER_STATE_DIR.")]
    if there.st_uid != os.geteuid():
        return [_of_another(directory, there.st_uid)]
    if not os.access(directory, os.W_OK | os.X_OK):
        return [problem(f"{directory} can't be written.", f"`chmod 700 {directory}`; is it mounted read-only?")]
    found = [_room(directory)]
    if open_to := stat.S_IMODE(there.st_mode) & 0o077:
        what = f"{directory} lets others in (mode {stat.S_IMODE(there.st_mode):04o}, {open_to:03o} too much)."
        found.append(warning(what, f"`chmod 700 {directory}`; the manager does so when it starts."))
    return found


def _of_another(directory: Path, owner: int) -> Finding:
    """The directory is right and this user is wrong, but where root owns what the manager is to use."""
    me = os.geteuid()
    cure = f"Run every command as the directory's user: {by_user(owner)}."
    if owner == ROOT:
        cure = f"If this is the manager's user, root gives it the directory: `chown -R {me} {directory}`."
    return problem(f"{directory} belongs to user {owner}, and this is user {me}.", cure)


def _to_be_made(directory: Path) -> Finding:
    above = next(each for each in directory.absolute().parents if each.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return ok(f"{directory} is not there yet; the first start makes it.")
    return problem(f"{directory} can't be made: {above} can't be written.", "Set GATEWAY_MANAGER_STATE_DIR.")


def _room(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    what = f"{directory} is this user's, with {free // _MIB} MiB free."
    if free < _NEEDED_DISK:
        return problem(what, f"Make room: below {_NEEDED_DISK // _MIB} MiB records and audit lines may get lost.")
    return warning(what, "Make room soon.") if free < _COMFORTABLE_DISK else ok(what)


# ---------------------------------------------------------------------------------------------- clock


async def clock(settings: Settings) -> Sequence[Finding]:
    """Against whatever other clock there is, and the data base of time zones."""
    found = [_time_zones()]
    now = datetime.now(UTC)
    if now < _BUILT:
        cure = "Set it (`timedatectl set-ntp true`): login budgets and Vault's tokens go by it."
        return [*found, problem(f"The clock says {now:%Y-%m-%d %H:%M} UTC, which is long ago.", cure)]
    try:
        return [*found, *await _compared(settings)]
    except GatewayManagerError as error:
        return [*found, warning(f"The clock could not be compared with another: {error.what}")]


async def _compared(settings: Settings) -> list[Finding]:
    found = []
    for asking in (store(settings).other_clock, runtime_checks(settings).other_clock):
        asked = datetime.now(UTC)
        if (engine_time := await asking(settings)) is not None:
            found.append(_skew(*engine_time, asked))
    return [await _against_records(settings), *found] if settings.store_is_local else found


async def _against_records(settings: Settings) -> Finding:
    records = (await store(settings).read_records(settings)).usable
    newest = max((each.updated_at for each in records.values() if each.updated_at), default=None)
    now = datetime.now(UTC)
    if newest is not None and (newest - now).total_seconds() > _HARMFUL_SKEW:
        what = f"The clock says {now:%Y-%m-%d %H:%M:%S} UTC, but a record was written at {newest:%Y-%m-%d %H:%M:%S}."
        return problem(what, "It was set back: check it (`timedatectl`), for login budgets go by it.")
    return ok(f"The clock says {now:%Y-%m-%d %H:%M:%S} UTC.")


def _skew(whose: str, theirs: datetime, asked: datetime) -> Finding:
    """A clock is right that shows a time between question and answer, however long the answer took."""
    seconds = max(0.0, (asked - theirs).total_seconds(), (theirs - datetime.now(UTC)).total_seconds())
    if seconds <= _NOTICED_SKEW:
        return ok(f"The clock agrees with that of {whose}.")
    what = f"The clock and that of {whose} are {seconds:.0f} s apart."
    cure = "Let both hosts keep time (`timedatectl set-ntp true`)."
    return problem(what, cure) if seconds > _HARMFUL_SKEW else warning(what, cure)


def _time_zones() -> Finding:
    try:
        ZoneInfo("America/New_York")
    except (ZoneInfoNotFoundError, OSError):
        cure = "Install it: `apt-get install tzdata`, or `pip install tzdata`."
        return problem("There is no data base of time zones, so IBKR's reset windows can't be told.", cure)
    return ok("The data base of time zones is there.")


# ---------------------------------------------------------------------------------------------- descriptors


async def descriptors(settings: Settings) -> Sequence[Finding]:
    """What one process may open, against the size of the fleet."""
    try:
        gateways = len(wanted(await read_roster(settings)))
    except GatewayManagerError:
        gateways = settings.port_range_end - settings.port_range_start + 1
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _DESCRIPTORS + _DESCRIPTORS_EACH * gateways
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return [
            ok(
                f"A process may open {limit} files; {counted(gateways, 'gateway')} need{'s' if gateways == 1 else ''} up to {needed}."
            )
        ]
    what = f"A process may open {limit} files, but {counted(gateways, 'gateway')} need{'s' if gateways == 1 else ''} up to {needed}."
    raise_it = f"`ulimit -n {needed}`" if most == resource.RLIM_INFINITY or most >= needed else "raise the hard limit"
    return [problem(what, f"{raise_it[0].upper()}{raise_it[1:]}, or LimitNOFILE={needed} in the systemd unit.")]


# ---------------------------------------------------------------------------------------------- the manager


async def manager(settings: Settings) -> Sequence[Finding]:
    """Whether one runs, and what it says of its gateways."""
    try:
        gateways = await asyncio.to_thread(_gateways, settings.state_dir)
    except NoManagerError as error:
        left = await unwatched(settings, error)
        return [ok(str(error)) if left is None else warning(left.what, left.hint)]
    running = sum(each["status"] == "RUNNING" for each in gateways)
    found = [ok(f"A manager runs, with {running} of {counted(len(gateways), 'gateway')} RUNNING.")]
    try:
        await asyncio.to_thread(must_be_the_managers, settings)
    except OtherStoreError as error:
        found.append(raised(error))
    found += [
        warning(f"{each['follower_id']} is FAILED ({each['state']}).", tables.what(each))
        for each in gateways
        if each["status"] == "FAILED"
    ]
    return found


def _gateways(directory: Path) -> list[dict[str, object]]:
    with ControlClient(directory) as client:
        return client.gateways()
