"""Where a benchmark's manager lives: a temporary state directory, followers with logins, and free ports."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, SecretVersion
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.local.followers_file import FILE_NAME
from spreadpilot_core.ibkr.telemetry import set_up_logs
from support.ports import free_ports

LONGEST = 300.0
"""Seconds after which a benchmark that does not get on is given up, and `LONGEST_EACH` for each gateway where there are many."""
LONGEST_EACH = 0.5
SPARE_PORTS = 8
"""And a tenth of them: with none to spare, one that another program takes meanwhile keeps one gateway from ever being ready."""


class Place:
    """One state directory; every setting that is not named here has its default."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory = directory
        self.followers = tuple(f"follower_{each}" for each in range(count))
        self.enabled: tuple[str, ...] = ()
        """Those that are in the followers' file."""
        ports = count + SPARE_PORTS + count // 10
        first = free_ports(ports)
        defaults = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
        self.settings: dict[str, Any] = {
            **defaults,
            "state_dir": directory,
            "store_url": "local:",
            "runtime_url": "simulated:",
            "container_prefix": "bench",
            "vault_enabled": False,
            "port_range_start": first,
            "port_range_end": first + ports - 1,
            "stop_grace": 5.0,
        }
        EncryptedCredentials.at(directory).remember({f"ibkr/{each}": _login(each) for each in self.followers})

    def enable(self, count: int | None = None) -> None:
        """Write the followers' file, with the first `count` followers in it."""
        self.enabled = self.followers[:count]
        table = '[[follower]]\nid = "{0}"\nvault_secret_ref = "ibkr/{0}"\nenabled = true\n'
        text = "\n".join(table.format(follower) for follower in self.enabled)
        fresh = self.directory / "followers.fresh"
        fresh.write_text(text)
        fresh.rename(self.directory / FILE_NAME)

    def manager(self, **settings: Any) -> GatewayManager:
        """A manager, not started."""
        return GatewayManager(**{**self.settings, **settings})

    def runtime(self) -> SimulatedRuntime:
        """Another client of the same engine, to plant faults with."""
        return SimulatedRuntime.from_settings(Settings.read(**self.settings), manager_id="benchmark")


def _login(follower: str) -> Credentials:
    version = SecretVersion("1", None)
    password = "password-of-a-benchmark"  # noqa: S105  # of nobody
    return Credentials(user=f"user-of-{follower}", password=password, version=version, source="vault")


@contextmanager
def place(count: int, *, enabled: int | None = None) -> Iterator[Place]:
    """A place with `count` followers that has logs as a service has: JSON lines in a file."""
    directory = Path(tempfile.mkdtemp(prefix="gm-bench-", dir="/tmp"))  # short: it holds Unix sockets
    try:
        with (directory / "manager.log").open("w") as log:
            set_up_logs(form="json", stream=log)
            here = Place(directory, count)
            here.enable(enabled)
            yield here
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def hosted(here: Place) -> AsyncIterator[SimulatedRuntime]:
    """The gateways' host runs during the block; nothing of it is left afterwards."""
    runtime = here.runtime()
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.ask_host("shutdown")
        await runtime.close()


@asynccontextmanager
async def started(here: Place, **settings: Any) -> AsyncIterator[tuple[GatewayManager, SimulatedRuntime]]:
    """A started manager and the engine below it, with all gateways ready."""
    async with hosted(here) as runtime:
        manager = here.manager(**settings)
        try:
            await manager.start()
            await until_all_ready(manager, here.enabled)
            yield manager, runtime
        finally:
            await manager.detach()


async def until_all_ready(manager: GatewayManager, followers: Sequence[str]) -> None:
    """Wait until every gateway is healthy."""
    waiting = list(followers)
    async with asyncio.timeout(max(LONGEST, LONGEST_EACH * len(followers))):
        while waiting:
            if not manager.is_healthy(waiting[-1]):
                await asyncio.sleep(0.05)
                continue
            waiting.pop()  # whoever was ready is looked at no more: asking thousands again and again costs as much as they
            if not waiting:  # but for once, at the end
                waiting = [each for each in followers if not manager.is_healthy(each)]
