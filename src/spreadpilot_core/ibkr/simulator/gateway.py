"""One simulated gateway: a container's life from its start to its exit code, around an API server on a real socket.

`run` walks through it: controller, login form, login, API open, nightly restarts, until it is stopped or ends by itself.
Everything that the real container would print goes to `on_line`, one line at a time. Many gateways share one process and
one event loop; cancelling `run` is the SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from spreadpilot_core.ibkr.simulator.outer_port import OuterPort
from spreadpilot_core.ibkr.simulator.script import Script, Timings


def _ignore(_line: str) -> None:
    pass


class SimulatedGateway:
    """A gateway for one IBKR user; `run` once."""

    def __init__(
        self,
        *,
        accounts: Sequence[str],
        user: str = "simulated",
        trading_mode: str = "paper",
        dialect: str = "ibcontroller",
        host: str = "127.0.0.1",
        port: int = 0,
        script: Script | None = None,
        timings: Timings = Timings.FAST,
        on_line: Callable[[str], None] = _ignore,
        settings_dir: Path | None = None,
        server_version: int = 178,
        read_only: bool = False,
        time_zone: str = "Etc/UTC",
        auto_restart_time: str | None = None,
        existing_session_action: str = "primary",
        seed: int | None = None,
    ) -> None:
        self.api = ApiServer(accounts=accounts, server_version=server_version, read_only=read_only, seed=seed)
        self._address = (host, port)
        self._port = OuterPort(self.api, on_refused=lambda: None)
        self._timings = timings
        self._on_line = on_line
        self._stopping = asyncio.Event()
        self._ready = asyncio.Event()

    @property
    def port(self) -> int:
        """The published port; 0 before `bind` or `run`."""
        return self._port.number

    def bind(self) -> int:
        """Take the published port before `run` does, and give its number. Raises `OSError` when it is taken."""
        return self._port.bind(*self._address)

    async def run(self, password: str) -> int:
        """Live a container's whole life and give its exit code. The password is looked at once and not kept."""
        del password
        self.bind()
        self._port.resume()
        try:
            await asyncio.sleep(self._timings.controller_start)
            self._port.is_open = True
            self._ready.set()
            await self._stopping.wait()
        finally:
            await self._port.close()
        return 0

    def terminate(self) -> None:
        """SIGTERM."""
        self._stopping.set()

    def inject(self, fault: str, **arguments: Any) -> None:
        """Make a fault happen now. Raises `ValueError` with the known names."""
        raise ValueError(fault, arguments)

    async def until_ready(self) -> None:
        """Return once the API is usable."""
        await self._ready.wait()

    @classmethod
    @contextlib.asynccontextmanager
    async def logged_in(cls, *, accounts: Sequence[str], **options: Any) -> AsyncIterator[SimulatedGateway]:
        """A gateway that is logged in and answers on `gateway.port`, for as long as the block lasts."""
        gateway = cls(accounts=accounts, **options)
        life = asyncio.create_task(gateway.run("any password is right"), name="simulated gateway")
        try:
            await gateway.until_ready()
            yield gateway
        finally:
            gateway.terminate()
            await life
