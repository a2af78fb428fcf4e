"""Managers in processes of their own that die at chosen moments of their work, one after the other, on one home."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from spreadpilot_core.ibkr.model.records import LoginAttempt
from spreadpilot_core.ibkr.store.local.records import FILE_NAME, LocalRecords
from support.home import PASSWORD, Home, eventually

PROGRAM = Path(__file__).with_name("manager_that_dies.py")
VICTIM, OTHER = "alice", "bob"
IBKR = "spreadpilot_core.ibkr"
BROKER = f"{IBKR}.credentials.broker:CourierBroker"
LEDGER = f"{IBKR}.supervision.ledger:Ledger"
CONNECT = f"{IBKR}.api_client.connector:Connector.connect"
FOLLOW_LOG = f"{IBKR}.supervision.gateway_view:GatewayView._follow_log"
RESTART = f"restart {VICTIM}"

Lives = Mapping[str, tuple[str, str]]
"""Container and start of what runs, by follower."""


@dataclass(frozen=True)
class Moment:
    """When the manager dies: what it was doing, and where that is in the code."""

    doing: str
    call: str
    when: str
    seconds: float = 0
    about: str = ""
    """Words in what the call is asked for: others of the same name are no such moment."""
    command: str | None = RESTART
    """What it is told once its gateways are ready; None: it dies on its way there."""
    hits_running: bool = False
    """Whether what runs at its death need not go on running: it has begun to end it, or no password will ever come to it."""

    @property
    def as_json(self) -> str:
        """For the program."""
        about = {"call": self.call, "when": self.when, "seconds": self.seconds, "about": self.about}
        return json.dumps({**about, "armed": self.command is None})


class Life:
    """One process of the manager."""

    def __init__(self, process: asyncio.subprocess.Process, patience: float) -> None:
        self._process = process
        self._patience = patience
        self.last_words = ""
        """What it said on standard error after it was ready."""

    @classmethod
    async def begin(cls, home: Home, moment: Moment | None, *, patience: float) -> Life:
        """Start it; with a moment it dies there. `patience`: seconds for whatever it does."""
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in home.settings.items()}
        log = (home.directory / "manager.log").open("ab")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROGRAM), json.dumps(settings), moment.as_json if moment else "null"),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        log.close()
        return cls(process, patience)

    async def ready(self) -> None:
        """Wait until all its gateways are ready."""
        assert self._process.stderr is not None
        said = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while line := await self._process.stderr.readline():
                    if line == b"ready\n":
                        return
                    said.append(line.decode())
        raise AssertionError(f"it died on its way, or never got ready: {''.join(said)}")

    def tell(self, command: str) -> None:
        """Give it a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())

    async def end(self) -> int:
        """Wait until it has ended by itself, and nothing that it started is left; gives its exit code."""
        async with asyncio.timeout(self._patience):
            _, said = await self._process.communicate()
        self.last_words = said.decode()
        await eventually(lambda: not session_members(self._process.pid), "its couriers end", within=self._patience)
        assert self._process.returncode is not None
        return self._process.returncode

    def kill(self) -> None:
        """Whatever happened."""
        if self._process.returncode is None:
            self._process.kill()


def session_members(session: int) -> list[int]:
    """The processes of this session."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(place.name)) == session:
                found.append(int(place.name))
    return found


class Place(Protocol):
    """Where the gateways of the home are, for whoever looks at them between two lives."""

    async def running(self) -> Lives:
        """What runs, and may have a login."""

    async def expect_mended(self, must_run: Lives, doing: str) -> None:
        """All is as it should be, a moment after all gateways got ready; what `must_run` was not started again."""


async def live_through(
    home: Home, place: Place, moments: Sequence[Moment], *, patience: float, from_nothing: bool = False
) -> None:
    """One life for each moment, and a last one that finds everything mended and stops it all.

    Args:
        home: with the followers `VICTIM` and `OTHER`.
        place: where their gateways are.
        moments: in this order.
        patience: seconds for whatever one life does.
        from_nothing: else a life before the first one has started all gateways.
    """
    lives: list[Life] = []

    async def begin(moment: Moment | None) -> Life:
        lives.append(await Life.begin(home, moment, patience=patience))
        return lives[-1]

    must_run: Lives = {}
    doing = "nothing was there"
    try:
        if not from_nothing:
            life = await begin(None)
            await life.ready()
            must_run, doing = await place.running(), "all were ready"
            life.kill()
            await life.end()
        for moment in moments:
            life = await begin(moment)
            if moment.command is not None:
                await life.ready()
                await place.expect_mended(must_run, doing)
                life.tell(moment.command)
            assert await life.end() == -signal.SIGKILL, f"{moment.doing}: {life.last_words}"
            doing, running = moment.doing, await place.running()
            must_run = {} if moment.hits_running else running
            if moment.command == RESTART:
                must_run = {**must_run, OTHER: running[OTHER]}
        life = await begin(None)
        await life.ready()
        await place.expect_mended(must_run, doing)
        life.tell("stop")
        assert await life.end() == 0
        assert PASSWORD not in (home.directory / "manager.log").read_text()
    except BaseException:
        print((home.directory / "manager.log").read_text()[-8000:])  # noqa: T201  # for whoever looks into it
        raise
    finally:
        for life in lives:
            life.kill()


async def until_settled(home: Home, doing: str, *, within: float) -> dict[str, list[LoginAttempt]]:
    """Wait until no login is left open, which is written down a moment after a gateway is ready; gives the full ones of each follower."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        full, unsettled = await written_down(home)
        if not unsettled:
            return full
        assert asyncio.get_running_loop().time() < deadline, (doing, unsettled)
        await asyncio.sleep(0.1)


async def written_down(home: Home) -> tuple[dict[str, list[LoginAttempt]], Sequence[LoginAttempt]]:
    """The logins of each follower that have ended and were any, and those that are left open."""
    records = LocalRecords(home.directory / FILE_NAME)
    await records.open()
    day = datetime.now(UTC) - timedelta(days=1)
    full = {each: list(await records.full_logins(f"{home.users}{each}", day)) for each in (VICTIM, OTHER)}
    unsettled = await records.unsettled_logins()
    await records.close()
    return full, unsettled
