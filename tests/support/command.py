"""The installed command as a user runs it: its own process, its own environment, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.home import Home
from support.waiting import PATIENCE, wait_until

PROGRAM = Path(sys.executable).with_name("gateway-manager")
_BARE = {
    *("port_range_start", "port_range_end", "healthcheck_interval", "max_startup_time", "vault_enabled"),
    *("container_prefix", "docker_host"),
}


class Command:
    """`gateway-manager` with the settings of one home."""

    def __init__(self, home: Home, **settings: object) -> None:
        self.home = home
        self.environment = {**os.environ}
        for name, value in (home.settings | settings).items():
            variable = name.upper() if name in _BARE else f"GATEWAY_MANAGER_{name.upper()}"
            self.environment[variable] = str(value)

    def __call__(
        self, *arguments: str, said: bytes | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end. `said` is its standard input."""
        done = subprocess.run(
            [PROGRAM, *arguments],
            env=self.environment | environment,
            input=said if said is not None else b"",
            capture_output=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        """What it prints with `--json`."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert isinstance(answer, list)
        return answer

    @contextmanager
    def begun(self, *arguments: str) -> Iterator[Begun]:
        """It runs while the block does; what still runs afterwards is killed."""
        begun = Begun(self, arguments)
        try:
            yield begun
        finally:
            begun.close()


class Begun:
    """A command that runs."""

    def __init__(self, command: Command, arguments: tuple[str, ...]) -> None:
        self._out = (command.home.directory.parent / f"{command.home.directory.name}.{id(self)}.out").open("w+b")
        self._err = Path(f"{self._out.name}.err").open("w+b")  # noqa: SIM115  # closed by close()
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            env=command.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return Path(self._out.name).read_text()

    @property
    def stderr(self) -> str:
        """What it has said on standard error so far."""
        return Path(self._err.name).read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def says(self, words: str, *, times: int = 1) -> None:
        """Wait until it has said that, on either stream."""

        def said() -> bool:
            assert self.process.poll() is None or (self.stdout + self.stderr).count(words) >= times, self.stderr
            return (self.stdout + self.stderr).count(words) >= times

        wait_until(said, within=2 * PATIENCE)

    def ends(self, within: float = 2 * PATIENCE) -> int:
        """Wait for its exit code."""
        return self.process.wait(within)

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self._out, self._err):
            stream.close()
            Path(stream.name).unlink()
