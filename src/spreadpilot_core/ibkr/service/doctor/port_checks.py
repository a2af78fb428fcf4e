"""The port range: what is free, who has the rest, and whether that is enough."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from spreadpilot_core.ibkr.errors import GatewayManagerError, RuntimeUnavailableError, SettingsError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.runtimes.host_ports import nothing_listens
from spreadpilot_core.ibkr.runtimes.registry import reader
from spreadpilot_core.ibkr.service.doctor.findings import Finding, ok, problem, wanted, warning
from spreadpilot_core.ibkr.service.doctor.port_holders import holders
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.wiring import known_identities

_NAMED = 5
"""Holders that a line names."""


async def ports(settings: Settings) -> Sequence[Finding]:
    """Free ones against what the fleet still needs."""
    first, last = settings.port_range_start, settings.port_range_end
    taken = await asyncio.to_thread(lambda: [port for port in range(first, last + 1) if not nothing_listens(port)])
    all_ours, theirs = await _gateways(settings)
    ours = {port: name for port, name in all_ours.items() if first <= port <= last}
    foreign = [port for port in taken if port not in ours]
    free = last - first + 1 - len(set(taken) | set(ours))
    named = await _named(foreign, theirs)
    what = f"{free} of the {last - first + 1} ports {first} to {last} are free{_held(ours, named)}."
    needed = await _needed(settings, set(ours.values()))
    if free < needed:
        cure = "Widen PORT_RANGE_START to PORT_RANGE_END, or end what holds them."
        return [problem(f"{what} {counted(needed, 'gateway')} more should run.", cure)]
    return [warning(what, "The next follower finds no port: widen the range.") if not free else ok(what)]


async def _gateways(settings: Settings) -> tuple[dict[int, FollowerId], set[int]]:
    """This manager's ports with their followers, and other managers' ports."""
    try:
        async with reader(settings, await known_identities(settings)) as runtime_reader:
            ours = {each.endpoint.port: each.follower_id for each in await runtime_reader.list() if each.endpoint}
            return ours, {each.host_port for each in runtime_reader.foreign if each.host_port and not each.is_ended}
    except (RuntimeUnavailableError, SettingsError):  # the runtime's own line tells why
        return {}, set()


async def _needed(settings: Settings, having: set[str]) -> int:
    try:
        return sum(each.id not in having for each in wanted(await read_roster(settings)))
    except GatewayManagerError:  # the followers' own line tells why
        return 0


async def _named(ports_taken: Sequence[int], theirs: Collection[int]) -> dict[int, str]:
    found = await asyncio.to_thread(holders, [port for port in ports_taken if port not in theirs])
    others = dict.fromkeys(theirs, "other managers' gateways")
    return {port: others.get(port) or found.get(port, "another program") for port in ports_taken}


def _held(ours: Mapping[int, str], foreign: dict[int, str]) -> str:
    parts = [f"{len(ours)} held by this manager's gateways"] if ours else []
    by_whom = Counter(foreign.values()).most_common()
    parts += [f"{number} by {who}" for who, number in by_whom[:_NAMED]]
    if more := sum(number for _, number in by_whom[_NAMED:]):
        parts.append(f"{more} by others")
    return f" ({', '.join(parts)})" if parts else ""
