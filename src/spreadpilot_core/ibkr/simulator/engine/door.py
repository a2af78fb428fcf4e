"""A container's door: its standard input, through which one deliverer brings its secret, once, before it starts.

> {"attach": CONTAINER}
< {"ok": true}                     or {"error": "…"}
> LENGTH in ASCII decimals, a newline, that many bytes, half-close
< end of the stream                after {"error": "…"} when the length didn't fit: the container never starts then
"""

from __future__ import annotations

import asyncio
import json

from spreadpilot_core.ibkr.simulator.engine.engine import Engine
from spreadpilot_core.ibkr.simulator.engine.operations import Operations
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused

_LONGEST_SECRET = 1 << 16
_WITHIN = 30.0
"""Seconds for the whole delivery."""


async def receive(
    engine: Engine,
    operations: Operations,
    container_id: str,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Answer one deliverer; what it brings goes into the container and nowhere else."""
    try:
        container = engine.get(container_id)
        order = container.order
        with operations.noted(
            "attach", manager=None, owner=order.owner, follower=order.follower_id, container=container_id
        ):
            container.open_door()
            await _tell(writer, {"ok": True})
            async with asyncio.timeout(_WITHIN):
                container.take_secret(await _read_secret(reader))
    except Refused as refusal:
        await _tell(writer, {"error": refusal.sentence})


async def _read_secret(reader: asyncio.StreamReader) -> bytes:
    length = (await reader.readline()).removesuffix(b"\n")
    if not length.isdigit() or int(length) > _LONGEST_SECRET:
        raise Refused("bad_request", "The secret does not begin with its length.")
    secret = bytearray()
    while (piece := await reader.read(_LONGEST_SECRET)) and len(secret) <= int(length):
        secret += piece
    if len(secret) != int(length) or not secret:
        raise Refused("bad_request", "The secret has another length than was announced.")
    return bytes(secret)


async def _tell(writer: asyncio.StreamWriter, answer: dict[str, object]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()
