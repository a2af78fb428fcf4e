"""The way to the host process of simulated gateways: start it when it is missing, greet it, ask it, follow it.

Every call has a connection of its own, so that cancelling one closes it and disturbs no other. Nothing blocks the event
loop: files are read and the host is started in a thread. It knows the host's language (see `simulator.engine.language`),
and nothing of gateways.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.seams import unguarded
from spreadpilot_core.ibkr.simulator.engine.files import read_address
from spreadpilot_core.ibkr.simulator.engine.language import LONGEST_ANSWER, LONGEST_LINE, PROTOCOL
from spreadpilot_core.ibkr.system.peers import UntrustedError, must_be_ours, must_be_trusted
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

Answer = Mapping[str, Any]

_ANSWER_WITHIN = 30.0
"""Seconds for an answer that takes no time by itself: a host that is stopped or swamped counts as away then."""
_GREETING_WITHIN = 10.0
"""Seconds for the answer to a greeting."""
_START_WITHIN = 60.0
"""Seconds for a host to start: 0.2 on an idle machine."""
_STARTS = 3
"""Tries to start a host: one that is just ending holds the directory for a moment."""
_PASSED_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_",
    "TZ",
    "TMPDIR",
    "PYTHON",
    "VIRTUAL_ENV",
    "COVERAGE_",
    "LD_",
    "DYLD_",
)
"""Beginnings of what the host inherits of the environment: it needs none of the manager's secrets."""


class NoHostError(RuntimeUnavailableError):
    """There is no host, and this client may not start one."""


class Connection:
    """A greeted connection to the host."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def ask(self, request: Mapping[str, Any], *, within: float) -> Answer:
        """One request, one answer. Raises `RuntimeUnavailableError`."""
        try:
            async with asyncio.timeout(within):
                self._writer.write(json.dumps(request).encode() + b"\n")
                await self._writer.drain()
                answer = await self.read()
        except TimeoutError as error:
            raise _unavailable(f"it gave no answer to {request['op']!r} within {within:.0f} s") from error
        except OSError as error:
            raise _unavailable(f"the connection broke: {error}") from error
        if answer is None:
            raise _unavailable(f"it ended during {request['op']!r}")
        return answer

    async def read(self) -> Answer | None:
        """The next line of a stream, or None at its end. Raises `RuntimeUnavailableError` when it is no answer of a host."""
        try:
            line = await self._reader.readline()
            answer = json.loads(line) if line.endswith(b"\n") else None
        except OSError:
            return None
        except ValueError as error:
            raise _unavailable("it gives answers that make no sense") from error
        return answer if isinstance(answer, dict) else None

    def close(self) -> None:
        """Cut it; safe to call twice."""
        self._writer.transport.abort()


class HostClient:
    """Connections to the host of one directory, for one owner."""

    def __init__(self, directory: Path, *, owner: str, manager_id: str, may_start: bool = True) -> None:
        self.socket = ""
        """Where the host listens; known after the first call."""
        self._directory = directory
        self._may_start = may_start
        self.identities: tuple[str, ...] = ()
        self._greeting = {"op": "hello", "owner": owner, "manager": manager_id}
        self._starting = asyncio.Lock()
        self._open: set[asyncio.StreamWriter] = set()
        self.closed = True

    def open(self) -> None:
        """Allow connections."""
        self.closed = False

    def close(self) -> None:
        """Cut every connection; calls and streams that wait end with `RuntimeUnavailableError`."""
        self.closed = True
        for writer in list(self._open):
            writer.transport.abort()

    async def ask(
        self, request: Mapping[str, Any], *, within: float = _ANSWER_WITHIN, guard: Callable[[], None] = unguarded
    ) -> Answer:
        """One request on a connection of its own, sent when `guard` lets it. Raises `RuntimeUnavailableError`."""
        async with self.connection(longest=LONGEST_ANSWER) as connection:
            guard()
            return await connection.ask(request, within=within)

    @contextlib.asynccontextmanager
    async def connection(self, *, longest: int = LONGEST_LINE) -> AsyncIterator[Connection]:
        """A greeted connection, to a host that is started when there is none and it may be. Raises `RuntimeUnavailableError`.

        A line that is sent on it has at most `longest` bytes.
        """
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await self._reach(longest)
            self._open.add(writer)
            yield Connection(reader, writer)
        finally:
            if writer is not None:
                self._open.discard(writer)
                writer.transport.abort()

    async def _reach(self, longest: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if (streams := await self._try(longest)) is not None:
            return streams
        async with self._starting:
            for _ in range(_STARTS):
                self.socket = await asyncio.to_thread(self._found)
                if (streams := await self._try(longest)) is not None:
                    return streams
                if not self._may_start:
                    raise NoHostError(f"No host of simulated gateways runs in {self._directory}.")
                await asyncio.to_thread(self._start)
                log.info("simulated host started", directory=str(self._directory))
            raise _unavailable(f"hosts end as soon as they are started in {self._directory}")

    def _found(self) -> str:
        """Where the directory's host listens, or nothing; whoever might have planted it elsewhere is told of instead."""
        try:
            must_be_ours(self._directory)
            if (address := read_address(self._directory)) is None:
                return ""
            must_be_ours(Path(address.socket).parent)
        except OSError as error:
            raise _unavailable(error.strerror or str(error)) from error
        return address.socket

    async def _try(self, longest: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A greeted connection to the host as far as its address is known; None when none greets back."""
        if self.closed:
            raise _unavailable("this runtime is closed")
        if not self.socket:
            return None
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket, limit=longest)
        except OSError:
            return None
        try:
            must_be_trusted(writer.get_extra_info("socket"))
            return await self._greet(reader, writer)
        except UntrustedError as error:
            writer.transport.abort()
            raise _unavailable(str(error)) from error
        except BaseException:
            writer.transport.abort()
            raise

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The host answers a greeting unless it is ending; without an answer nothing was asked of it yet."""
        try:
            async with asyncio.timeout(_GREETING_WITHIN):
                writer.write(json.dumps({**self._greeting, "identities": self.identities}).encode() + b"\n")
                answer = await Connection(reader, writer).read()
        except TimeoutError as error:
            raise _unavailable("it accepts connections and doesn't answer") from error
        if answer is None:
            writer.transport.abort()
            return None
        if answer.get("protocol") != PROTOCOL:
            raise _unavailable(f"process {answer.get('pid')} speaks another version of its language; end it first")
        return reader, writer

    def _start(self) -> None:
        command = [sys.executable, "-m", "spreadpilot_core.ibkr.simulator.host", "--detach", "--directory"]
        environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ENVIRONMENT)}
        try:
            ended = subprocess.run(  # noqa: S603  # our own interpreter, our own module
                [*command, str(self._directory.absolute())],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_START_WITHIN,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _unavailable(f"it can't be started: {error}") from error
        if ended.returncode != 0:
            raise _unavailable((ended.stderr.strip().splitlines() or ["it can't be started"])[-1].rstrip("."))


def _unavailable(what: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(f"The host of simulated gateways can't be used: {what}.")
