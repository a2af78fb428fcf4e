"""A home for one manager in a test: a temporary state directory with followers and credentials, on the simulated runtime."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.local.followers_file import add_follower
from support.ports import free_ports

PASSWORD = "pass-word-of-the-test"
PATIENCE = 60.0
"""Seconds after which a condition that should hold within a second counts as a failure, on however busy a machine."""
STALL = 20.0
"""Seconds for which a busy machine may hold up any process without its being taken for dead; a test of that says less."""

FAR_RESTART_TIME = f"{datetime.now(ZoneInfo('America/New_York')) + timedelta(hours=12):%I:%M %p}"
"""A daily restart, in the gateways' default zone, that no test meets, at whatever time of the day it runs."""


class Home:
    """State directory, port range, and the settings that every manager of this home gets."""

    def __init__(self, *, ports: int = 12) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gm-home-", dir="/tmp"))  # short: it holds Unix sockets
        self.users = "user-"
        """How the names of its IBKR users begin."""
        first = free_ports(ports)
        self.settings: dict[str, Any] = {
            "state_dir": self.directory,
            "runtime_url": "simulated:",
            "store_url": "local:",
            "vault_enabled": False,
            "port_range_start": first,
            "port_range_end": first + ports - 1,
            "healthcheck_interval": 1.0,
            "heartbeat_timeout": STALL,
            "connect_time": STALL,
            "max_startup_time": PATIENCE,
            "stop_grace": 5.0,
            "secret_poll_interval": 1.0,
            "auto_restart_time": FAR_RESTART_TIME,
        }

    @property
    def followers_file(self) -> Path:
        """The local store's file."""
        return self.directory / "followers.toml"

    async def add(self, *follower_ids: str, user: str | None = None, **fields: Any) -> None:
        """Enabled followers, each with an IBKR user and a password of its own."""
        await asyncio.to_thread(self._add, follower_ids, user, fields)

    def _add(self, follower_ids: tuple[str, ...], user: str | None, fields: dict[str, Any]) -> None:
        store = EncryptedCredentials.at(self.directory)
        for follower_id in follower_ids:
            ref = f"ibkr/{follower_id}"
            add_follower(self.followers_file, follower_id, vault_secret_ref=ref, **fields)
            store.set(ref, user or f"{self.users}{follower_id}", PASSWORD)

    async def set_password(self, follower_id: str, password: str = PASSWORD) -> None:
        """A new version of the follower's secret."""

        def store() -> None:
            EncryptedCredentials.at(self.directory).set(f"ibkr/{follower_id}", f"{self.users}{follower_id}", password)

        await asyncio.to_thread(store)

    def manager(self, **settings: Any) -> GatewayManager:
        """A manager of this home, not started."""
        return GatewayManager(**{**self.settings, **settings})

    def runtime(self) -> SimulatedRuntime:
        """Another client of the same engine, to plant faults with."""
        return SimulatedRuntime.from_settings(Settings.read(**self.settings), manager_id="test")

    async def end(self) -> None:
        """Stop everything that this home's engine still runs, and leave nothing behind."""
        if any(self.directory.glob("simulated-host*")):
            runtime = self.runtime()
            await runtime.open()
            for gateway in await runtime.list():
                await runtime.remove(gateway.container_id, grace=0)
            await runtime.close()
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def running(home: Home, **settings: Any) -> AsyncIterator[GatewayManager]:
    """A started manager of this home; it is stopped at the end, with its gateways."""
    manager = home.manager(**settings)
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop()


async def eventually(condition: Callable[[], bool], what: object = "", *, within: float = PATIENCE) -> None:
    """Wait until `condition()` holds; after `within` seconds the test fails with `what` (called, when it can be)."""
    deadline = asyncio.get_running_loop().time() + within
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            message = what() if callable(what) else what
            raise AssertionError(f"not within {within:g} s: {message}")
        await asyncio.sleep(0.02)


def seen(manager: GatewayManager, follower_id: str) -> GatewaySnapshot:
    """The snapshot of one follower."""
    return next(each for each in manager.list_gateways() if each.follower_id == follower_id)
