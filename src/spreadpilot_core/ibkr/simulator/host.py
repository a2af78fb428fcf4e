"""The host process of simulated gateways: one engine in one directory, for as long as somebody needs it.

    python -m spreadpilot_core.ibkr.simulator.host --directory D [--detach] [--linger SECONDS]

With `--detach` the command returns 0 once a host in D answers, whether it is a new one or was there already; the new one
has a session of its own, no terminal and no standard streams, and outlives whoever started it. A directory has one host
at most (a lock). It ends by itself when it has held no container and no client for some seconds (`--linger`), when its
directory is gone, and at SIGTERM, which stops its gateways first.

The gateways live in this process: when it is killed they are gone at once, with their labels, logs and open sockets, as
if engine and machine had died together. No event tells of it; the next host in the directory starts empty, and whoever
lists finds nothing. Files: see `engine.files`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import logging.handlers
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from spreadpilot_core.ibkr.simulator.engine.engine import Engine
from spreadpilot_core.ibkr.simulator.engine.files import LOG, Address, HostFiles, read_address
from spreadpilot_core.ibkr.simulator.engine.language import LONGEST_LINE
from spreadpilot_core.ibkr.simulator.engine.operations import Operations
from spreadpilot_core.ibkr.simulator.engine.service import Service
from spreadpilot_core.ibkr.simulator.login_book import LoginBook

_LINGER = 5.0
"""Seconds without container and client after which a host ends: long enough for a manager's restart."""
_FIRST_CLIENT_WITHIN = 30.0
"""Seconds that a fresh host waits for whoever started it."""
_LOOK_INTERVAL = 0.25
_LOCK_WITHIN = 2.0
"""Seconds to wait for a host that is just ending."""
_GRACE = 10.0
"""Seconds that gateways get to close when the host is asked to end."""
_BACKLOG = 4_096
"""A Unix socket refuses what it can't queue; every log follower of a large fleet may connect at once."""


class NoHostError(Exception):
    """This process can't be the directory's host, and none answers there."""


class Host:
    """One life of a directory's host; it holds the directory's lock."""

    def __init__(self, files: HostFiles, *, linger: float) -> None:
        self._files = files
        self._linger = linger
        self._id = secrets.token_hex(8)
        self._asked_to_end = asyncio.Event()
        self._engine = Engine(files.directory, LoginBook(files.directory))
        operations = Operations(files.directory, self._id)
        self._service = Service(self._engine, operations, host=self._id, end=self._asked_to_end.set)

    async def run(self, *, ready: Callable[[], None]) -> None:
        """Serve until it is time to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._asked_to_end.set)
        place = self._files.place_socket()
        server = await asyncio.start_unix_server(self._service.serve, place, backlog=_BACKLOG, limit=LONGEST_LINE)
        self._files.publish(Address(pid=os.getpid(), host=self._id, socket=place))
        ready()
        try:
            await self._until_the_end()
            self._service.ending = True
            self._files.retract()
            server.close()
            await self._engine.remove_all(_GRACE if self._files.directory.exists() else 0)
            await self._service.close()
        finally:
            self._files.retract()

    async def _until_the_end(self) -> None:
        ends_at = time.monotonic() + max(self._linger, _FIRST_CLIENT_WITHIN)
        while time.monotonic() < ends_at and self._files.still_ours():
            try:
                await asyncio.wait_for(self._asked_to_end.wait(), _LOOK_INTERVAL)
            except TimeoutError:
                if len(self._engine) or self._service.was_used():
                    ends_at = time.monotonic() + self._linger
            else:
                return


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="spreadpilot_core.ibkr.simulator.host", description="Holds simulated gateways."
    )
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--detach", action="store_true", help="return once a host answers, and leave it running")
    parser.add_argument("--linger", type=float, default=_LINGER, metavar="SECONDS", help="idle time before it ends")
    arguments = parser.parse_args()
    directory: Path = arguments.directory.absolute()
    try:
        if not arguments.detach:
            _serve(_become_host(directory), arguments.linger, ready=lambda: None)
        elif not is_answering(directory):
            _detach(directory, arguments.linger)
    except (NoHostError, OSError) as error:
        sys.exit(f"No host of simulated gateways in {directory}: {error}")


def is_answering(directory: Path) -> bool:
    """Whether a host accepts connections in the directory."""
    if (address := read_address(directory)) is None:
        return False
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_LOCK_WITHIN)
        try:
            client.connect(address.socket)
        except OSError:
            return False
    return True


def _become_host(directory: Path) -> HostFiles:
    files = HostFiles(directory)
    deadline = time.monotonic() + _LOCK_WITHIN
    while not files.lock():
        if is_answering(directory):
            raise NoHostError("another one runs there.")
        if time.monotonic() > deadline:
            raise NoHostError("another process holds its lock and doesn't answer.")
        time.sleep(0.02)
    return files


def _serve(files: HostFiles, linger: float, *, ready: Callable[[], None]) -> None:
    os.umask(0o077)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    place = files.directory / LOG
    handler: logging.Handler = logging.NullHandler()
    if place.is_file() or not place.exists():  # a FIFO keeps its writer for ever
        handler = logging.handlers.RotatingFileHandler(
            place, maxBytes=1 << 20, backupCount=1, delay=True, encoding="utf-8"
        )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")

    async def live() -> None:
        await Host(files, linger=linger).run(ready=ready)

    asyncio.run(live())


def _detach(directory: Path, linger: float) -> None:
    """Fork the host off and return once one answers. Raises `NoHostError` with what the child said."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        _be_the_child(directory, linger, writing)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    if said != _READY and not is_answering(directory):
        raise NoHostError(said or "it ended at once.")


_READY = "ready"


def _be_the_child(directory: Path, linger: float, writing: int) -> NoReturn:
    def tell(what: str) -> None:
        os.write(writing, what.encode())
        os.close(writing)

    try:
        os.setsid()
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        os.close(nothing)
        files = _become_host(directory)
    except (NoHostError, OSError) as error:
        tell(str(error))
        os._exit(1)
    try:
        _serve(files, linger, ready=lambda: tell(_READY))
    except Exception:
        logging.getLogger(__name__).exception("the host failed")
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
