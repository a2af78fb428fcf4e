"""A look at gateways in containers: what bears an identity of one manager, and which others there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from spreadpilot_core.ibkr.model.gateways import ForeignGateway, Gateway
from spreadpilot_core.ibkr.model.records import NOBODY, Identities
from spreadpilot_core.ibkr.runtimes.docker.containers import foreign_from, gateway_from
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine, EngineRefusedError, gone_is_fine
from spreadpilot_core.ibkr.runtimes.docker.naming import IDENTITY, OWNER, Naming
from spreadpilot_core.ibkr.runtimes.docker.runtime import socket_path
from spreadpilot_core.ibkr.runtimes.docker.streams import recent_lines
from spreadpilot_core.ibkr.runtimes.identity import read_note
from spreadpilot_core.ibkr.runtimes.images import SCREEN_PASSWORD_FILE
from spreadpilot_core.ibkr.settings import Settings

_PATIENCE = 10
"""Seconds for an engine to answer somebody who only looks, and waits in front of a screen."""


class DockerReader:
    """Fulfils `runtimes.reader.RuntimeReader` on an open engine."""

    def __init__(self, engine: Engine, naming: Naming) -> None:
        self.engine = engine
        self._naming = naming
        self.foreign: Sequence[ForeignGateway] = ()

    async def list(self) -> Sequence[Gateway]:
        """Every container with an identity of this manager; `foreign` has the others afterwards."""
        rows = await self.engine.containers([OWNER])
        seen = [it for row in rows if (it := await self.engine.inspect_container(row["Id"])) is not None]
        foreign = (foreign_from(each, naming=self._naming) for each in seen)
        self.foreign = [each for each in foreign if each is not None]
        found = [gateway_from(each, naming=self._naming, newest_image=None) for each in seen]
        return [gateway for gateway in found if gateway is not None]

    async def identities(self) -> Collection[str]:
        """Those of containers, networks and volumes."""
        marks = [row.get("Labels") or {} for row in await self.engine.containers([OWNER])]
        marks += [each.get("Labels") or {} for each in [*await self.engine.networks(), *await self.engine.volumes()]]
        return {each[IDENTITY] for each in marks if OWNER in each and IDENTITY in each}

    def lines(self, gateway: Gateway, *, last: int, follow: bool) -> AsyncGenerator[str, None]:
        """The newest lines; a container has one life only, so all that it printed is this life's."""
        return recent_lines(self.engine, gateway.container_id, last, follow=follow)

    async def screen_password(self, gateway: Gateway) -> str | None:
        """Read inside the container, which is the only place that has it; None when it does not run."""
        with gone_is_fine():
            try:
                code, output = await self.engine.execute(gateway.container_id, ["cat", SCREEN_PASSWORD_FILE])
            except EngineRefusedError as refused:
                if refused.is_conflict:  # stopped or paused
                    return None
                raise
            return (code == 0 and output) or None
        return None


@asynccontextmanager
async def docker_reader(settings: Settings, identities: Identities | None = None) -> AsyncIterator[DockerReader]:
    """Reach the engine, and let go of it again without touching anything."""
    engine = Engine(socket_path(settings.docker_host), patience=_PATIENCE)
    try:
        await engine.open()
        noted = identities or await asyncio.to_thread(read_note, settings)
        yield DockerReader(engine, Naming(settings.container_prefix, NOBODY if noted is None else noted))
    finally:
        await engine.close()
