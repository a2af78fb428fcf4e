"""Ways from this host to gateways in a cluster that it is not part of: a port of loopback for each, through the API server.

Every connection is a WebSocket of its own, with the manager's credentials: nothing is published for anybody else. Each frame begins
with its channel, 0 for what is sent and 1 for what went wrong, and the first of each channel has the port's number.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import aiohttp

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.model.gateways import Endpoint
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_LOOPBACK: Final = "127.0.0.1"
_PROTOCOL: Final = "v4.channel.k8s.io"
_DATA: Final = 0
_PIECE: Final = 32 * 1024


class Forwards:
    """The ways that are open."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._servers: dict[ContainerId, asyncio.Server] = {}
        self._tasks = Tasks("port forwards")

    async def to(self, container_id: ContainerId, pod: str, port: int) -> Endpoint:
        """Where this host reaches that port of this pod; the same as long as it is there."""
        server = self._servers.get(container_id)
        if server is None:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self._tasks.begin(f"connection to {pod}", self._serve(pod, port, reader, writer))

            server = await asyncio.start_server(serve, _LOOPBACK, 0)
            if (other := self._servers.setdefault(container_id, server)) is not server:
                server.close()
                server = other
        return Endpoint(_LOOPBACK, int(server.sockets[0].getsockname()[1]))

    def end(self, container_id: ContainerId) -> None:
        """Its pod is gone."""
        if (server := self._servers.pop(container_id, None)) is not None:
            server.close()

    def keep(self, there: set[ContainerId]) -> None:
        """End the ways to pods that are not there any more."""
        for container_id in set(self._servers) - there:
            self.end(container_id)

    async def close(self) -> None:
        """End them all, with their connections."""
        self.keep(set())
        await self._tasks.cancel()

    async def _serve(self, pod: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = f"{self._api.place('pods', pod)}/portforward"
        both = Tasks(f"connection to {pod}")
        try:
            async with self._api.websocket(f"reach {pod}", path, [("ports", str(port))], _PROTOCOL) as connection:
                ends = {
                    both.begin("out", _out(reader, connection), then=_unseen),
                    both.begin("in", _in(connection, writer), then=_unseen),
                }
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                await both.cancel()
        except (GatewayManagerError, OSError) as fault:
            log.debug("no way to a gateway", pod=pod, why=str(fault))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _out(reader: asyncio.StreamReader, connection: aiohttp.ClientWebSocketResponse) -> None:
    while piece := await reader.read(_PIECE):
        await connection.send_bytes(bytes([_DATA]) + piece)


async def _in(connection: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    numbered: set[int] = set()
    async for message in connection:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, content = message.data[0], message.data[1:]
        if channel not in numbered:
            numbered.add(channel)
        elif channel == _DATA:
            writer.write(content)
            await writer.drain()
        elif content:
            log.debug("forward broke", why=content.decode(errors="replace")[:200])
            return


def _unseen(task: asyncio.Task[None]) -> None:
    """A connection that breaks says so by its end."""
    if not task.cancelled():
        task.exception()
