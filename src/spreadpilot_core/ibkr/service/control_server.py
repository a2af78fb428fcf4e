"""Serves the control application on the socket in the state directory, beside the manager on the same loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from fastapi import FastAPI

from spreadpilot_core.ibkr.service.control_address import SOCKET, listening_socket
from spreadpilot_core.ibkr.tasks import Tasks

_LAST_ANSWERS = 2
"""Seconds that open requests and event streams get at the end."""


class ControlServer:
    """`async with ControlServer(app, state_dir):` serves until the block ends."""

    def __init__(self, app: FastAPI, state_dir: Path) -> None:
        self._path = state_dir / SOCKET
        self._tasks = Tasks("control socket")
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_ANSWERS,
            )
        )

    async def __aenter__(self) -> Self:
        listening = await asyncio.to_thread(listening_socket, self._path.parent)
        self._tasks.begin("serve", self._server.serve(sockets=[listening]))
        return self  # whoever connects now waits in the backlog until uvicorn accepts

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        try:
            await self._tasks.wait()
        finally:
            await self._tasks.cancel()
            await asyncio.to_thread(self._path.unlink, missing_ok=True)


class _Server(uvicorn.Server):
    """uvicorn without its hands on the process's signals: `run` owns them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
