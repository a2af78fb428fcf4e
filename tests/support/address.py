"""A fake manager served at an address and on its control socket, with tokens in memory, and clients of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from spreadpilot_core.ibkr.access import tokens
from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.audit.auditor import OPERATOR
from spreadpilot_core.ibkr.http_api.parts import parts
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.store.in_memory import InMemoryShared, MemoryContent
from spreadpilot_core.ibkr.system.clock import utc_now
from support.fake_manager import FakeManager, a_snapshot
from support.ports import free_ports


@dataclass
class Audited:
    """What was written down, by whom."""

    lines: list[dict[str, str | None]] = field(default_factory=list)
    failing: Exception | None = None

    async def write(self, act: str, facts: Mapping[str, str | None]) -> None:
        if self.failing is not None:
            raise self.failing
        self.lines.append({"act": act, "who": OPERATOR.get(), **facts})

    def note(self, act: str, *, by: str | None = None, outcome: str | None = None, **facts: str | None) -> None:
        self.lines.append({"act": act, "who": by, "outcome": outcome, **facts})


class Address:
    """A served fake manager and its clients."""

    def __init__(self, state_dir: Path, *snapshots: GatewaySnapshot, **settings: Any) -> None:
        self.port = free_ports(1)
        self.state_dir = state_dir
        known = snapshots or (a_snapshot("alice", accounts=("DU1000001",)), a_snapshot("bob"))
        settings = {"http_address": f"127.0.0.1:{self.port}", **settings}
        self.manager = FakeManager(state_dir, *known, **settings)
        self.shared = InMemoryShared(MemoryContent())
        self.audited = Audited()
        self.notices: dict[str, str | None] = {}
        self.detached = 0

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        def detach() -> None:
            self.detached += 1

        made = await asyncio.to_thread(  # as a manager does
            parts,
            self.manager,
            detach=detach,
            exposition=None,
            shared=self.shared,
            auditor=self.audited,
            tell=self.notices.__setitem__,
        )
        async with AsyncExitStack() as held:
            for part in made:
                held.push_async_callback(part.close)
                await part.start()
            yield

    async def token(
        self,
        role: Role | str,
        *,
        name: str | None = None,
        followers: Collection[str] | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """A new one."""
        await self.shared.open()
        role = Role(role)
        return await tokens.add(
            self.shared,
            f"{role.value}-{time.monotonic_ns()}" if name is None else name,
            role=role,
            followers=followers,
            expires_at=expires_at,
            now=utc_now(),
        )

    @asynccontextmanager
    async def http(self, token: str | None = None, **rest: Any) -> AsyncIterator[httpx.AsyncClient]:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        rest = {"base_url": f"http://127.0.0.1:{self.port}/v1", "timeout": 60, **rest}
        async with httpx.AsyncClient(headers=headers, **rest) as client:
            yield client

    async def ask(self, method: str, path: str, token: str | None = None, **rest: Any) -> httpx.Response:
        """One request on a connection of its own."""
        async with self.http(token) as client:
            return await client.request(method, path, **rest)
