"""A look at simulated gateways: where no host runs there are none, and none is started to find that out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

from spreadpilot_core.ibkr.model.gateways import ForeignGateway, Gateway
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.simulated.host import NoHostError
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.settings import Settings


class SimulatedReader:
    """Fulfils `runtimes.reader.RuntimeReader`."""

    def __init__(self, runtime: SimulatedRuntime) -> None:
        self._runtime = runtime

    @property
    def foreign(self) -> Sequence[ForeignGateway]:
        """Other managers' gateways, as the last `list` saw them."""
        return self._runtime.foreign

    async def list(self) -> Sequence[Gateway]:
        """Every container with an identity of the manager; none without a host."""
        with suppress(NoHostError):
            return await self._runtime.list()
        return ()

    async def identities(self) -> Collection[str]:
        """Those of containers; nothing outlives them."""
        return {each.identity for each in await self.list()} | {each.identity for each in self.foreign}

    async def lines(self, gateway: Gateway, *, last: int, follow: bool) -> AsyncGenerator[str, None]:
        """The newest lines that the host keeps."""
        numbers = (await self._runtime.stored_lines(gateway))[-last:]
        if not numbers and not follow:
            return
        async with aclosing(self._runtime.log(gateway, since=numbers.start)) as lines:
            number = numbers.start
            async for line in lines:
                yield line
                number += 1
                if number >= numbers.stop and not follow:
                    return

    async def screen_password(self, gateway: Gateway) -> str | None:  # noqa: ARG002  # simulated gateways have no screen
        """None."""
        return None


@asynccontextmanager
async def simulated_reader(settings: Settings, identities: Identities | None = None) -> AsyncIterator[SimulatedReader]:
    """A client of the host that runs, if one does."""
    runtime = SimulatedRuntime.from_settings(settings, manager_id="reader", may_start=False)
    if identities is not None:
        runtime.identities = identities
    with suppress(NoHostError):
        await runtime.open()
    try:
        yield SimulatedReader(runtime)
    finally:
        await runtime.close()
