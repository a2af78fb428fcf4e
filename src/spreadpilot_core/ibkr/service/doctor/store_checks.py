"""The stores: which followers there are, which can't be used, and whether the records open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from spreadpilot_core.ibkr.audit.auditor import tells_of_logins
from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.errors import RecordsLostError, RuntimeUnavailableError, SettingsError
from spreadpilot_core.ibkr.runtimes.registry import reader
from spreadpilot_core.ibkr.service.doctor.findings import Finding, ok, problem, raised, wanted, warning
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster, store
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.wiring import known_identities


async def followers(settings: Settings) -> Sequence[Finding]:
    """How many there are and want a gateway; a line for each that can't be used."""
    roster = await read_roster(settings)
    faulty = [
        problem(f"The record of {each.id} can't be used: {each.fault}", "Correct the record.")
        for each in roster.faulty.values()
    ]
    slips = [
        warning(f"The record of {name}: {notice}", "Correct it, or leave it if it is another program's.")
        for name, notices in roster.notices.items()
        for notice in notices
    ]
    faulty += slips
    faulty += await _without_record(settings, {*roster.usable, *roster.faulty})
    number, enabled = len(roster.usable), len(wanted(roster))
    if enabled:
        return [ok(f"{counted(number, 'usable follower')}, {enabled} of which should have a gateway."), *faulty]
    if number:
        return [warning(f"No follower of {counted(number, 'usable one')} wants a gateway."), *faulty]
    return [warning(f"There are no followers in {settings.followers}.", _how_to_add(settings)), *faulty]


def _how_to_add(settings: Settings) -> str:
    if settings.followers_url is not None:
        return "Make an IBGateway object for each (`kubectl apply`)."
    if settings.store_is_local:
        return "`gateway-manager followers add` adds one."
    return f"Add a record for each to the collection followers of the database {settings.mongo_db_name}."


async def _without_record(settings: Settings, known: set[str]) -> list[Finding]:
    """Gateways that run although nobody's record asks for them: a collection that was dropped, say."""
    try:
        async with reader(settings, await known_identities(settings)) as runtime_reader:
            alive = {each.follower_id for each in await runtime_reader.list() if each.phase.is_alive}
    except (RuntimeUnavailableError, SettingsError):  # the runtime's own line tells why
        return []
    if not (left := sorted(alive - known)):
        return []
    one = len(left) == 1
    what = f"{counted(len(left), 'gateway')} {'runs' if one else 'run'} without a record: {', '.join(left)}."
    cure = "Bring the record back" if one else "Bring the records back"
    end = "or have a running manager stop what lost its record (`gateway-manager followers confirm-removals`)."
    return [problem(what, f"{cure}, {end}")]


async def records(settings: Settings) -> Sequence[Finding]:
    """Whether what earlier managers kept can be read, and what of it waits for a human."""
    loaded = await store(settings).read_records(settings)
    if not loaded:
        if await asyncio.to_thread(tells_of_logins, AuditTrail(settings.state_dir)):
            return [raised(RecordsLostError())]
        return [ok("The records are empty: no follower has had a gateway yet.")]
    waiting = [
        warning(
            f"{each.follower_id} waits for a human: {each.needs_human}",
            f"`gateway-manager launch {each.follower_id}` once that is seen to.",
        )
        for each in loaded.usable.values()
        if each.needs_human
    ]
    damaged = [problem(f"{follower_id}: {why}") for follower_id, why in loaded.damaged.items()]
    number = len(loaded.usable) + len(loaded.damaged)
    return [ok(f"The records open; {counted(number, 'follower')} had a gateway."), *damaged, *waiting]
