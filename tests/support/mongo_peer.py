"""A scripted peer that speaks MongoDB's wire protocol as a replica set's primary does, change streams included.

It stands in for what the server at hand may lack. It holds documents of one collection in memory; a test changes them,
breaks connections, and lets it forget the past. What it is asked is written down in `commands`.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import bson

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
HISTORY_LOST = {"ok": 0.0, "code": 286, "codeName": "ChangeStreamHistoryLost", "errmsg": "the resume point is gone"}
NO_CHANGE_STREAMS = {
    "ok": 0.0,
    "code": 40573,
    "codeName": "Location40573",
    "errmsg": "The $changeStream stage is only supported on replica sets",
}
Document = dict[str, Any]


class MongoPeer:
    """One server with one collection."""

    def __init__(self) -> None:
        self.documents: list[Document] = []
        self.commands: list[Document] = []
        self.refuse_streams: Document | None = None
        """What opening a change stream is answered; None lets it."""
        self.kept_from = 0
        """The oldest change that a stream can still be resumed after."""
        self.port = 0
        self._changes = 0
        self._changed = asyncio.Event()
        self._cursors: dict[int, int] = {}
        self._cursor_ids = itertools.count(1000)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    @property
    def streams(self) -> int:
        """How many change streams are open."""
        return len(self._cursors)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections and break those that are open."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Break every connection; cursors die with them, as after a failover."""
        self._cursors.clear()
        for writer in self._writers:
            writer.transport.abort()

    def change(self, documents: list[Document]) -> None:
        """The collection becomes this: one change."""
        self.documents = documents
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def asked(self, name: str) -> list[Document]:
        """The commands of this name, first to last."""
        return [command for command in self.commands if name in command]

    # ------------------------------------------------------------------ the wire

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    length, request_id, _, opcode = struct.unpack("<iiii", await reader.readexactly(16))
                    body = await reader.readexactly(length - 16)
                    writer.write(await self._reply(request_id, opcode, body))
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _reply(self, request_id: int, opcode: int, body: bytes) -> bytes:
        if opcode == OP_QUERY:  # the driver's first word, before it knows that OP_MSG is understood
            start = body.index(b"\0", 4) + 1 + 8
            answer = bson.encode(await self._answer(bson.decode(body[start:])))
            payload = struct.pack("<iqii", 8, 0, 0, 1) + answer
            return struct.pack("<iiii", 16 + len(payload), 1, request_id, OP_REPLY) + payload
        (size,) = struct.unpack_from("<i", body, 5)
        answer = bson.encode(await self._answer(bson.decode(body[5 : 5 + size])))
        payload = struct.pack("<iB", 0, 0) + answer
        return struct.pack("<iiii", 16 + len(payload), 1, request_id, OP_MSG) + payload

    # ------------------------------------------------------------------ commands

    async def _answer(self, command: Document) -> Document:
        self.commands.append(command)
        name = next(iter(command))
        answers: dict[str, Callable[[Document], Document]] = {
            "hello": self._hello,
            "ismaster": self._hello,
            "find": self._find,
            "aggregate": self._aggregate,
            "killcursors": self._kill_cursors,
        }
        if name.lower() == "getmore":
            return await self._get_more(command)
        return answers.get(name.lower(), lambda _: {"ok": 1.0})(command)

    def _hello(self, _: Document) -> Document:
        return {
            "ok": 1.0,
            "helloOk": True,
            "isWritablePrimary": True,
            "ismaster": True,
            "secondary": False,
            "setName": "rs0",
            "setVersion": 1,
            "hosts": [f"127.0.0.1:{self.port}"],
            "me": f"127.0.0.1:{self.port}",
            "maxBsonObjectSize": 16777216,
            "maxMessageSizeBytes": 48000000,
            "maxWriteBatchSize": 100000,
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": 21,
        }

    def _find(self, command: Document) -> Document:
        return _cursor(0, f"{command['$db']}.{command['find']}", "firstBatch", self.documents)

    def _aggregate(self, command: Document) -> Document:
        if self.refuse_streams is not None:
            return self.refuse_streams
        stage = command["pipeline"][0]["$changeStream"]
        token = stage.get("resumeAfter") or stage.get("startAfter")
        position = self._changes if token is None else int(token["_data"])
        if token is not None and position < self.kept_from:
            return HISTORY_LOST
        cursor = next(self._cursor_ids)
        self._cursors[cursor] = position
        answer = _cursor(cursor, f"{command['$db']}.{command['aggregate']}", "firstBatch", [])
        answer["cursor"]["postBatchResumeToken"] = _token(position)
        return answer

    async def _get_more(self, command: Document) -> Document:
        cursor = command["getMore"]
        if self._cursors.get(cursor) == self._changes:
            with suppress(TimeoutError):
                async with asyncio.timeout(command.get("maxTimeMS", 1000) / 1000):
                    await self._changed.wait()
        position = self._cursors.get(cursor)
        if position is None:
            return {"ok": 0.0, "code": 43, "codeName": "CursorNotFound", "errmsg": f"cursor id {cursor} not found"}
        namespace = f"{command['$db']}.{command['collection']}"
        events = [_event(number, namespace) for number in range(position + 1, self._changes + 1)]
        self._cursors[cursor] = self._changes
        answer = _cursor(cursor, namespace, "nextBatch", events)
        answer["cursor"]["postBatchResumeToken"] = _token(self._changes)
        return answer

    def _kill_cursors(self, command: Document) -> Document:
        for cursor in command["cursors"]:
            self._cursors.pop(cursor, None)
        return {"ok": 1.0}


def _cursor(cursor: int, namespace: str, batch: str, documents: list[Document]) -> Document:
    return {"ok": 1.0, "cursor": {"id": bson.Int64(cursor), "ns": namespace, batch: documents}}


def _token(position: int) -> Document:
    return {"_data": str(position)}


def _event(number: int, namespace: str) -> Document:
    database, _, collection = namespace.partition(".")
    return {
        "_id": _token(number),
        "operationType": "update",
        "clusterTime": bson.Timestamp(number, 1),
        "ns": {"db": database, "coll": collection},
        "documentKey": {"_id": number},
    }
