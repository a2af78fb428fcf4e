"""Where simulated gateways run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from spreadpilot_core.ibkr.runtimes.registry import reader
from spreadpilot_core.ibkr.service.doctor.findings import Check, Finding, ok
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.simulator.engine.files import read_address
from spreadpilot_core.ibkr.system.wording import counted


async def host(settings: Settings) -> Sequence[Finding]:
    """Whether a host of simulated gateways runs; a manager starts it when it needs one."""
    async with reader(settings) as runtime_reader:
        gateways = await runtime_reader.list()
    address = await asyncio.to_thread(read_address, settings.simulated_dir)
    if gateways and address is not None:
        return [ok(f"{counted(len(gateways), 'simulated gateway')} in the host process {address.pid}.")]
    return [ok(f"Gateways are simulated, in {settings.simulated_dir}; there are none now.")]


async def other_clock(settings: Settings) -> tuple[str, datetime] | None:
    """This host's is the only one."""
    del settings
    return None


CHECKS = (Check("runtime", host),)
