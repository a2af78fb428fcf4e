"""The stores: which followers there are, which can't be used, and whether the records open."""

from __future__ import annotations

from collections.abc import Sequence

from spreadpilot_core.ibkr.service.doctor.findings import Finding, ok, problem, wanted, warning
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster, store
from spreadpilot_core.ibkr.system.wording import counted


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
    number, enabled = len(roster.usable), len(wanted(roster))
    if not enabled:
        what = (
            f"No follower of {counted(number, 'usable one')} wants a gateway." if number else "There are no followers."
        )
        return [warning(what, "`gateway-manager followers add` adds one to a local store."), *faulty]
    return [ok(f"{counted(number, 'usable follower')}, {enabled} of which should have a gateway."), *faulty]


async def records(settings: Settings) -> Sequence[Finding]:
    """Whether what earlier managers kept can be read, and what of it waits for a human."""
    loaded = await store(settings).read_records(settings)
    if not loaded:
        return [ok("No manager has kept anything yet; the first start makes the records.")]
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
