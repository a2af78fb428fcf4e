"""A manager's process, as the command runs it, with a fleet whose planted passwords are looked for everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.service.client import ControlClient, NoManagerError
from spreadpilot_core.ibkr.store.local.followers_file import add_follower
from support.command import PROGRAM
from support.memory import children
from support.planted import password
from support.vault import BaoServer

FLEET = 4
PATIENCE = 120.0


class SearchedFleet:
    """Of as many gateways as `FLEET`, on these images in turn, whose secrets are in Vault."""

    def __init__(
        self, bao: BaoServer, place: Path, state: Path, images: Sequence[str], settings: Mapping[str, str]
    ) -> None:
        self.state = state
        self.said = place / "said"
        self.cwd = place / "cwd"
        self.cwd.mkdir()
        for number in range(FLEET):
            bao.put(f"ibkr/f{number}", IB_USER=f"user{number}-{state.name}", IB_PASS=password(number))
            add_follower(state / "followers.toml", f"f{number}", vault_secret_ref=f"ibkr/f{number}")
            with (state / "followers.toml").open("a") as file:
                file.write(f'\n[follower.gateway]\nimage = "{images[number % len(images)]}"\n')
        environment = {
            "VAULT_ADDR": bao.address,
            "VAULT_TOKEN": bao.root.token,
            "GATEWAY_MANAGER_STATE_DIR": str(state),
            "GATEWAY_MANAGER_STORE_URL": "local:",
            "MAX_STARTUP_TIME": str(PATIENCE),
            **settings,
        }
        with self.said.open("wb") as told:
            self.process = subprocess.Popen(
                [PROGRAM, "run"], env=os.environ | environment, cwd=self.cwd, stdout=told, stderr=told
            )

    def snapshots(self) -> list[dict[str, Any]]:
        """What the control socket tells; nothing before the manager answers."""
        assert self.process.poll() is None, self.said.read_text()
        with suppress(NoManagerError), ControlClient(self.state) as client:
            return client.gateways()
        return []

    def couriers(self) -> list[int]:
        """Those that live."""
        return children(self.process.pid, running="credentials.courier")

    def is_launched(self, password_files: Callable[[str], str]) -> bool:
        """All RUNNING, no courier left, and no password file either; `password_files` lists them in a container."""
        ready = [each for each in self.snapshots() if each["state"] == "ready"]
        return (
            len(ready) == FLEET
            and not self.couriers()
            and all(password_files(each["container"]).strip() == "" for each in ready)
        )


@contextmanager
def searched_fleet(
    bao: BaoServer, place: Path, images: Sequence[str], settings: Mapping[str, str]
) -> Iterator[SearchedFleet]:
    """One that is launching, killed in the end; its gateways stay."""
    state = Path(tempfile.mkdtemp(prefix="gm-", dir="/tmp"))  # short: it holds Unix sockets
    fleet = SearchedFleet(bao, place, state, images, settings)
    try:
        yield fleet
    finally:
        fleet.process.kill()
        fleet.process.wait()
        shutil.rmtree(state)
