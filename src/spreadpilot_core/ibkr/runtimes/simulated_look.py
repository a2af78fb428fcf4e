"""A look at simulated gateways: where no host runs there are none, and none is started to find that out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

from spreadpilot_core.ibkr.protocols import Gateway
from spreadpilot_core.ibkr.runtimes.simulated import SimulatedRuntime
from spreadpilot_core.ibkr.runtimes.simulated_host import NoHostError
from spreadpilot_core.ibkr.settings import Settings


class SimulatedOnlooker:
    """Fulfils `looking.Onlooker`."""

    def __init__(self, runtime: SimulatedRuntime) -> None:
        self._runtime = runtime

    async def find(self) -> Sequence[Gateway]:
        """Every gateway of this owner; none without a host."""
        with suppress(NoHostError):
            return await self._runtime.find()
        return ()

    async def lines(self, gateway: Gateway, *, last: int, follow: bool) -> AsyncGenerator[str, None]:
        """The newest lines that the host keeps."""
        kept = (await self._runtime.kept_lines(gateway))[-last:]
        if not kept and not follow:
            return
        async with aclosing(self._runtime.log(gateway, since=kept.start)) as lines:
            number = kept.start
            async for line in lines:
                yield line
                number += 1
                if number >= kept.stop and not follow:
                    return

    async def screen_password(self, gateway: Gateway) -> str | None:  # noqa: ARG002  # simulated gateways have no screen
        """None."""
        return None


@asynccontextmanager
async def look_at_simulated(settings: Settings) -> AsyncIterator[SimulatedOnlooker]:
    """A client of the host that runs, if one does."""
    owner, directory = settings.container_prefix, settings.simulated_dir
    runtime = SimulatedRuntime(directory, owner=owner, manager_id="onlooker", may_start=False)
    with suppress(NoHostError):
        await runtime.open()
    try:
        yield SimulatedOnlooker(runtime)
    finally:
        await runtime.close()
