"""A control socket that serves a fake manager, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from spreadpilot_core.ibkr.http_api.address import SOCKET
from spreadpilot_core.ibkr.http_api.app import control_app
from spreadpilot_core.ibkr.http_api.server import ControlServer
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.service.client import ControlClient
from support.fake_manager import FakeManager, a_snapshot

T = TypeVar("T")


class Control:
    """A served fake manager and a client of it."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.manager = FakeManager(
            state_dir, a_snapshot("alice", accounts=("DU1000001",)), a_snapshot("bob/2 ü", State.BACKING_OFF)
        )
        self.detached = 0

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        def detach() -> None:
            self.detached += 1

        async with ControlServer(control_app(self.manager, detach=detach), self.state_dir):
            yield

    async def ask(self, call: Callable[[ControlClient], T]) -> T:
        """Call the client as a command does: from another thread, a connection of its own."""

        def work() -> T:
            with ControlClient(self.state_dir) as client:
                return call(client)

        return await asyncio.to_thread(work)

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.AsyncHTTPTransport(uds=str(self.state_dir / SOCKET))
        async with httpx.AsyncClient(transport=transport, base_url="http://manager/v1") as client:
            yield client

    async def raw(self, method: str, path: str, **rest: Any) -> httpx.Response:
        async with self.http() as client:
            return await client.request(method, path, **rest)
