"""A look at gateways in containers: lists, inspections and logs of one owner's, and of nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from spreadpilot_core.ibkr.protocols import Gateway
from spreadpilot_core.ibkr.runtimes.docker import socket_path
from spreadpilot_core.ibkr.runtimes.docker_containers import gateway_from
from spreadpilot_core.ibkr.runtimes.docker_engine import Engine, EngineRefusedError, gone_is_fine
from spreadpilot_core.ibkr.runtimes.docker_naming import Naming
from spreadpilot_core.ibkr.runtimes.docker_streams import recent_lines
from spreadpilot_core.ibkr.runtimes.images import SCREEN_PASSWORD_FILE
from spreadpilot_core.ibkr.settings import Settings

_PATIENCE = 10
"""Seconds for an engine to answer somebody who only looks, and waits in front of a screen."""


class DockerOnlooker:
    """Fulfils `looking.Onlooker` on an open engine."""

    def __init__(self, engine: Engine, naming: Naming) -> None:
        self.engine = engine
        self._naming = naming

    async def find(self) -> Sequence[Gateway]:
        """Every gateway of this owner."""
        rows = await self.engine.containers([self._naming.owner_label])
        inspections = [await self.engine.inspect_container(row["Id"]) for row in rows]
        found = [gateway_from(each, naming=self._naming, newest_image=None) for each in inspections if each is not None]
        return [gateway for gateway in found if gateway is not None]

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
async def look_at_docker(settings: Settings) -> AsyncIterator[DockerOnlooker]:
    """Reach the engine, and let go of it again without touching anything."""
    engine = Engine(socket_path(settings.docker_host), patience=_PATIENCE)
    try:
        await engine.open()
        yield DockerOnlooker(engine, Naming(settings.container_prefix))
    finally:
        await engine.close()
