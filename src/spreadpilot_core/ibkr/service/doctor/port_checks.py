"""The port range: what is free, who has the rest, and whether that is enough. Also where simulated gateways run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from spreadpilot_core.ibkr.errors import GatewayManagerError, RuntimeUnavailableError, SettingsError
from spreadpilot_core.ibkr.leases import is_free
from spreadpilot_core.ibkr.runtimes.looking import onlooker
from spreadpilot_core.ibkr.service.doctor.findings import Finding, counted, ok, problem, wanted, warning
from spreadpilot_core.ibkr.service.doctor.port_holders import holders
from spreadpilot_core.ibkr.service.reading import read_roster
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.simulator.engine.files import read_address

_NAMED = 5
"""Holders that a line names."""


async def ports(settings: Settings) -> Sequence[Finding]:
    """Free ones against what the fleet still needs."""
    first, last = settings.port_range_start, settings.port_range_end
    taken = await asyncio.to_thread(lambda: [port for port in range(first, last + 1) if not is_free(port)])
    ours = {port: name for port, name in (await _ours(settings)).items() if first <= port <= last}
    foreign = [port for port in taken if port not in ours]
    free = last - first + 1 - len(set(taken) | set(ours))
    what = f"{free} of the {last - first + 1} ports {first} to {last} are free{_held(ours, await _named(foreign))}."
    needed = await _needed(settings, set(ours.values()))
    if free < needed:
        cure = "Widen PORT_RANGE_START to PORT_RANGE_END, or end what holds them."
        return [problem(f"{what} {counted(needed, 'gateway')} more should run.", cure)]
    return [warning(what, "The next follower finds no port: widen the range.") if not free else ok(what)]


async def _ours(settings: Settings) -> dict[int, str]:
    try:
        async with onlooker(settings) as looking:
            return {each.leases.host_port: each.follower_id for each in await looking.find()}
    except (RuntimeUnavailableError, SettingsError):  # the runtime's own line tells why
        return {}


async def _needed(settings: Settings, having: set[str]) -> int:
    try:
        return sum(each.id not in having for each in wanted(await read_roster(settings)))
    except GatewayManagerError:  # the followers' own line tells why
        return 0


async def _named(ports_taken: Sequence[int]) -> dict[int, str]:
    found = await asyncio.to_thread(holders, ports_taken)
    return {port: found.get(port, "another program") for port in ports_taken}


def _held(ours: dict[int, str], foreign: dict[int, str]) -> str:
    parts = [f"{len(ours)} held by this manager's gateways"] if ours else []
    by_whom = Counter(foreign.values()).most_common()
    parts += [f"{number} by {who}" for who, number in by_whom[:_NAMED]]
    if more := sum(number for _, number in by_whom[_NAMED:]):
        parts.append(f"{more} by others")
    return f" ({', '.join(parts)})" if parts else ""


async def simulated_host(settings: Settings) -> Sequence[Finding]:
    """Whether a host of simulated gateways runs; a manager starts it when it needs one."""
    async with onlooker(settings) as looking:
        gateways = await looking.find()
    address = await asyncio.to_thread(read_address, settings.simulated_dir)
    if gateways and address is not None:
        return [ok(f"{counted(len(gateways), 'simulated gateway')} in the host process {address.pid}.")]
    return [ok(f"Gateways are simulated, in {settings.simulated_dir}; there are none now.")]
