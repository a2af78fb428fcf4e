"""A simulated engine on a test's own loop, behind a socket, without the host process."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.simulator.engine.container import Container, Order
from spreadpilot_core.ibkr.simulator.engine.engine import Engine
from spreadpilot_core.ibkr.simulator.engine.language import LONGEST_LINE
from spreadpilot_core.ibkr.simulator.engine.operations import Operations
from spreadpilot_core.ibkr.simulator.engine.service import Service
from spreadpilot_core.ibkr.simulator.login_book import LoginBook
from support.ports import free_ports

ORDER: dict[str, Any] = {
    "owner": "me",
    "name": "me-alice",
    "follower_id": "alice",
    "host_port": 4001,
    "client_id": 1000,
    "trading_mode": "paper",
    "spec_digest": "d",
    "controller": "ibcontroller",
    "image": "example.org/gateway",
    "user": "alice01",
}


class ServedEngine:
    """An engine on this test's loop, behind a socket."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gm-engine-", dir="/tmp"))
        self.socket = str(self.directory / "s")
        self.engine = Engine(self.directory, LoginBook(self.directory))
        self.asked_to_end = False
        self.service = Service(self.engine, Operations(self.directory, "h"), host="h", end=self._end)
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        self._server = await asyncio.start_unix_server(self.service.serve, self.socket, limit=LONGEST_LINE)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.socket, limit=LONGEST_LINE)

    async def talk(self, *requests: object, greet: bool = True) -> list[Any]:
        """One answer for each request, the greeting's left out; None where the connection was closed instead."""
        reader, writer = await self.connect()
        answers: list[Any] = []
        greeting = [{"op": "hello", "owner": "me", "manager": "m"}] if greet else []
        for request in [*greeting, *requests]:
            line = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
            writer.write(line)
            answer = await reader.readline()
            answers.append(json.loads(answer) if answer else None)
        writer.close()
        return answers[len(greeting) :]

    async def deliver(self, container: Container, content: bytes) -> list[Any]:
        """Bring `content` through a container's door; all that was answered."""
        reader, writer = await self.connect()
        writer.write(json.dumps({"attach": container.id}).encode() + b"\n" + content)
        writer.write_eof()
        answers = (await reader.read()).splitlines()
        writer.close()
        return [json.loads(answer) for answer in answers]

    def create(self, **fields: Any) -> Container:
        return self.engine.create(Order.from_json({**ORDER, "host_port": free_ports(1), **fields}))

    async def close(self) -> None:
        await self.engine.remove_all(0)
        await self.service.close()
        assert self._server is not None
        self._server.close()
        await asyncio.to_thread(shutil.rmtree, self.directory)

    def _end(self) -> None:
        self.asked_to_end = True


@pytest.fixture(name="served")
async def served_fixture() -> AsyncIterator[ServedEngine]:
    """An engine that listens."""
    served = ServedEngine()
    await served.listen()
    yield served
    await served.close()
