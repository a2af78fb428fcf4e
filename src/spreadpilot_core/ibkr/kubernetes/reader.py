"""A look at gateways in a cluster: what bears an identity of one manager, and which others there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.connecting import access_from
from spreadpilot_core.ibkr.kubernetes.executing import execute
from spreadpilot_core.ibkr.kubernetes.naming import IDENTITY, SELECTOR, Naming, annotations_of
from spreadpilot_core.ibkr.kubernetes.pods import foreign_from, gateway_from
from spreadpilot_core.ibkr.kubernetes.streams import LineReader, printed
from spreadpilot_core.ibkr.model.gateways import ForeignGateway, Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.records import NOBODY, Identities
from spreadpilot_core.ibkr.runtimes.identity import read_note
from spreadpilot_core.ibkr.runtimes.images import SCREEN_PASSWORD_FILE
from spreadpilot_core.ibkr.settings import Settings

_PATIENCE: Final = 10
"""Seconds for an API server to answer somebody who only looks, and waits in front of a screen."""

_ANY: Final = "app.kubernetes.io/managed-by=gateway-manager"
"""What every manager makes for a follower bears it."""


class KubernetesReader:
    """Fulfils `runtimes.reader.RuntimeReader` on an open API server."""

    def __init__(self, api: Api, naming: Naming) -> None:
        self.api = api
        self._naming = naming
        self.foreign: Sequence[ForeignGateway] = ()

    async def list(self) -> Sequence[Gateway]:
        """Every pod with an identity of this manager; `foreign` has the others afterwards."""
        found = await self.api.ask("list pods", self.api.place("pods"), query={"labelSelector": SELECTOR})
        pods = found.get("items") or ()
        foreign = (foreign_from(pod, naming=self._naming) for pod in pods)
        self.foreign = [each for each in foreign if each is not None]
        gateways = (gateway_from(pod, naming=self._naming) for pod in pods)
        return [gateway for gateway in gateways if gateway is not None]

    async def identities(self) -> Collection[str]:
        """Those of pods, and of the claims and Services that an account with our rights may list."""
        found: set[str] = set()
        for kind in ("pods", "persistentvolumeclaims", "services"):
            with suppress(RefusedError):
                things = await self.api.ask(f"list {kind}", self.api.place(kind), query={"labelSelector": _ANY})
                found |= {
                    identity for each in things.get("items") or () if (identity := annotations_of(each).get(IDENTITY))
                }
        return found

    async def lines(self, gateway: Gateway, *, last: int, follow: bool) -> AsyncGenerator[str, None]:
        """The newest lines; a pod has one life only, so all that it printed is this life's."""
        with suppress(RefusedError):  # its node has none
            async with aclosing(printed(self.api, gateway.name, LineReader(), follow=follow, last=last)) as found:
                async for line in found:
                    yield line

    async def screen_password(self, gateway: Gateway) -> str | None:
        """Read inside the pod, which is the only place that has it; None when it does not run."""
        if gateway.phase is not GatewayPhase.RUNNING:
            return None
        code, output = await execute(self.api, gateway.name, ["cat", SCREEN_PASSWORD_FILE])
        return (code == 0 and output) or None


@asynccontextmanager
async def kubernetes_reader(
    settings: Settings, identities: Identities | None = None
) -> AsyncIterator[KubernetesReader]:
    """Reach the API server, and let go of it again without touching anything."""
    api = Api(access_from(settings), patience=_PATIENCE)
    try:
        await api.open()
        noted = identities or await asyncio.to_thread(read_note, settings)
        yield KubernetesReader(api, Naming(settings.container_prefix, NOBODY if noted is None else noted))
    finally:
        await api.close()
