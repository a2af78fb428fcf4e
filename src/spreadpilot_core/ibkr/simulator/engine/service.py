"""The engine over a Unix socket, in the words of `language`: many connections, each served by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from spreadpilot_core.ibkr.simulator.engine import door
from spreadpilot_core.ibkr.simulator.engine.engine import Engine
from spreadpilot_core.ibkr.simulator.engine.language import PROTOCOL
from spreadpilot_core.ibkr.simulator.engine.operations import Operations
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused
from spreadpilot_core.ibkr.simulator.engine.requests import ACTS, LOOKS, Act, Answer, Caller, Request, seconds, text

_FIRST_LINE_WITHIN = 30.0
"""Seconds a fresh connection may stay silent: one that does must not keep an idle host alive."""


class Service:
    """Serves one engine to any number of connections."""

    def __init__(self, engine: Engine, operations: Operations, *, host: str, end: Callable[[], None]) -> None:
        self.ending = False
        """Set before the host ends: greetings are no longer answered."""
        self._engine = engine
        self._operations = operations
        self._host = host
        self._end = end
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._late: dict[str, float] = {}
        self._used = False

    def __len__(self) -> int:
        return len(self._connections)

    def was_used(self) -> bool:
        """Whether there is a connection, or was one since the last time this was asked."""
        used, self._used = self._used or bool(self._connections), False
        return used

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One accepted connection, until it is closed."""
        task = asyncio.current_task()
        assert task is not None
        if not _is_trusted(writer):
            writer.transport.abort()
            return
        self._connections[task] = writer
        self._used = True
        try:
            # A client that goes away, speaks nonsense or sends a line without end is nobody's trouble but its own.
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                await self._converse(reader, writer)
        finally:
            del self._connections[task]
            writer.close()

    async def close(self) -> None:
        """Close every connection."""
        self.ending = True
        for writer in self._connections.values():
            writer.close()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=1)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_FIRST_LINE_WITHIN):
            greeting = await _read(reader, writer)
        if greeting is None or self.ending:
            return
        if "attach" in greeting:
            await door.receive(self._engine, self._operations, str(greeting["attach"]), reader, writer)
            return
        try:
            caller = Caller.from_greeting(greeting)
        except Refused as refusal:
            await _write(writer, _refused(refusal))
            return
        await _write(writer, {"ok": True, "protocol": PROTOCOL, "host": self._host, "pid": os.getpid()})
        while (request := await _read(reader, writer)) is not None:
            if request.get("op") in ("events", "log"):
                await self._stream(caller, request, reader, writer)
                return
            await _write(writer, await self._answer(caller, request))

    # ------------------------------------------------------------------ requests

    async def _answer(self, caller: Caller, request: Request) -> Answer:
        operation = str(request.get("op"))
        try:
            answer = {"ok": True, **await self._carry_out(operation, caller, request)}
        except Refused as refusal:
            answer = _refused(refusal)
        if late := self._late.get(operation):
            await asyncio.sleep(late)
        return answer

    async def _carry_out(self, operation: str, caller: Caller, request: Request) -> Answer:
        if (act := ACTS.get(operation)) is not None:
            return await self._noted(act, operation, caller, request)
        if (look := LOOKS.get(operation)) is not None:
            return look(self._engine, caller, request)
        match operation:
            case "answer_late":
                self._late[text(request, "operation")] = seconds(request, "seconds")
            case "drop_streams":
                self._cut_others()
            case "shutdown":
                self._end()
            case _:
                raise Refused("bad_request", f"There is no operation {operation!r}.")
        return {}

    async def _noted(self, act: Act, operation: str, caller: Caller, request: Request) -> Answer:
        facts = {"manager": caller.manager, "owner": caller.owner, **self._whose(request)}
        with self._operations.noted(operation, **facts) as told:
            return await act(self._engine, caller, request, told)

    def _whose(self, request: Request) -> Answer:
        order = request.get("order")
        named = order if isinstance(order, dict) else request
        whose = {"follower": named.get("follower_id"), "container": request.get("container")}
        with contextlib.suppress(Refused):
            whose["follower"] = self._engine.get(str(whose["container"])).order.follower_id
        return whose

    def _cut_others(self) -> None:
        for task, writer in self._connections.items():
            if task is not asyncio.current_task():
                writer.transport.abort()

    # ------------------------------------------------------------------ streams

    async def _stream(
        self, caller: Caller, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Write what comes until it ends, is too much for a slow reader, or the other side closes."""
        facts = self._events(caller) if request["op"] == "events" else self._log(caller, request)

        async def write() -> None:
            try:
                async for batch in facts:
                    await _write(writer, *batch)
            except Refused as refusal:
                await _write(writer, _refused(refusal))

        writing = asyncio.create_task(write(), name="stream to a client")
        closed = asyncio.create_task(reader.read(1), name="end of a client's stream")
        try:
            await asyncio.wait([writing, closed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, closed):
                task.cancel()
            await asyncio.gather(writing, closed, return_exceptions=True)

    async def _events(self, caller: Caller) -> AsyncIterator[list[Answer]]:
        expected = self._engine.events.next
        yield [{"ok": True}]
        async for number, batch in self._engine.events.follow(expected):
            if number != expected:
                return  # this reader was too slow and missed some: it subscribes again and knows of the gap
            expected += len(batch)
            if mine := [dict(event) for event in batch if event["identity"] in caller.identities]:
                yield mine

    async def _log(self, caller: Caller, request: Request) -> AsyncIterator[list[Answer]]:
        container = self._engine.get(text(request, "container"), caller.identities)
        start = request.get("from", 0)
        if type(start) is not int:
            raise Refused("bad_request", f"from is {start!r}, but must be the number of a line.")
        yield [{"ok": True}]
        if container.state != "created":
            async for number, lines in container.log.follow(start):
                yield [{"number": number + index, "line": line} for index, line in enumerate(lines)]
        yield [{"end": True}]


def _is_trusted(writer: asyncio.StreamWriter) -> bool:
    """Whether root or our own user is at the other end; told by Linux alone, elsewhere the directory's mode must do."""
    if not sys.platform.startswith("linux"):
        return True
    peer = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] in (0, os.geteuid())


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(request := json.loads(line), dict):
            return request
    await _write(writer, {"error": "bad_request", "sentence": "A request is one JSON object on one line."})
    return None


async def _write(writer: asyncio.StreamWriter, *answers: Answer) -> None:
    writer.write(b"".join(json.dumps(answer).encode() + b"\n" for answer in answers))
    await writer.drain()


def _refused(refusal: Refused) -> Answer:
    return {**refusal.facts, "error": refusal.code, "sentence": refusal.sentence}
