"""`exec` around a program, by real processes: what it does to the program that runs now, and to none that ran before."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.errors import UnavailableError
from spreadpilot_core.ibkr.model.client_leases import LeasedClient
from spreadpilot_core.ibkr.remote.transport import Route
from spreadpilot_core.ibkr.service import client_commands
from support.waiting import wait_until


def leased(serial: str) -> LeasedClient:
    """Of a gateway in this life."""
    return LeasedClient(
        follower_id="alice",
        ready=True,
        host="127.0.0.1",
        port=4100,
        serial=serial,
        lease="10000-x",
        client_id=10_000,
        expires=datetime(2026, 12, 1, tzinfo=UTC),
    )


class MadeUpLine:
    """A manager whose gateway is replaced once; `failing` is raised by the next questions, one each."""

    serial = "first"
    failing: list[Exception]

    def __init__(self, _: object) -> None:
        pass

    def ask(self, *_: object, **__: object) -> Any:
        """The lease as it is."""
        if self.failing:
            raise self.failing.pop(0)
        return leased(self.serial).model_dump(mode="json")


class MadeUpRenewals:
    """Tells, as soon as the first program says that it is up, that its gateway was replaced."""

    up: Path

    def __init__(self, _: object) -> None:
        self._begun = False

    def keep(self, _: object, on_renewed: Callable[[LeasedClient], None], *, every: float) -> None:
        """Begin."""
        assert every > 0
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._tell, args=(on_renewed,)).start()

    def _tell(self, on_renewed: Callable[[LeasedClient], None]) -> None:
        wait_until(self.up.exists)
        MadeUpLine.serial = "second"
        on_renewed(leased("second"))

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Signal handlers as they were, a manager that is made up, and a directory for what programs say."""
    handlers = {number: signal.getsignal(number) for number in client_commands._FORWARDED}
    monkeypatch.setattr(client_commands, "Line", MadeUpLine)
    monkeypatch.setattr(client_commands, "LeaseRenewals", MadeUpRenewals)
    monkeypatch.setattr(MadeUpLine, "serial", "first")
    monkeypatch.setattr(MadeUpLine, "failing", [], raising=False)
    monkeypatch.setattr(MadeUpRenewals, "up", tmp_path / "up", raising=False)
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(script: str, *, restart: bool) -> int:
    """The exit code of `exec alice -- sh -c SCRIPT`."""
    with pytest.raises(SystemExit) as ended:
        client_commands.run_program(
            "alice", ["sh", "-c", script], name=None, wait=5.0, require=None, restart=restart, route=Route(())
        )
    code = ended.value.code
    assert isinstance(code, int)
    return code


RESTARTED = "if [ -e {up} ]; then sleep 1; exit 0; fi; touch {up}; exec sleep 600"


def test_only_the_program_that_was_asked_to_end_is_killed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had its time and ended soon; the one that was started in its place is nobody's to kill when that time is over."""
    monkeypatch.setattr(client_commands, "_CLOSES_WITHIN", 0.4)
    assert run(RESTARTED.format(up=world / "up"), restart=True) == 0


def test_a_manager_that_stands_by_is_waited_for(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While leaders change nobody leads: neither the beginning nor a program to be started again gives up for that."""
    monkeypatch.setattr(client_commands, "_AGAIN_AFTER", 0.05)
    monkeypatch.setattr(MadeUpLine, "failing", [UnavailableError("This manager stands by, so it changes nothing.")])
    script = RESTARTED.format(up=world / "up")

    class StandsByThen(MadeUpRenewals):
        def _tell(self, on_renewed: Callable[[LeasedClient], None]) -> None:
            wait_until(self.up.exists)
            MadeUpLine.failing = [UnavailableError("This manager stands by."), UnavailableError("The store is away.")]
            super()._tell(on_renewed)

    monkeypatch.setattr(client_commands, "LeaseRenewals", StandsByThen)
    assert run(script, restart=True) == 0
    assert MadeUpLine.failing == []


def test_a_signal_while_the_program_is_started_reaches_it(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the command would end and leave the program behind, with a client id that nobody renews."""
    spawn = os.posix_spawnp
    spawned: list[int] = []

    def interrupted(*arguments: Any, **options: Any) -> int:
        spawned.append(spawn(*arguments, **options))
        signal.raise_signal(signal.SIGTERM)
        return spawned[0]

    monkeypatch.setattr(os, "posix_spawnp", interrupted)
    (world / "up").touch()
    assert run("sleep 20", restart=False) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(spawned[0], 0)
