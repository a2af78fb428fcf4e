"""After a fleet was launched through Vault on a real Docker Engine, no password is left outside its containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.service.client import ControlClient, NoManagerError
from spreadpilot_core.ibkr.store.local.followers_file import add_follower
from support.command import PROGRAM
from support.docker_bench import own_engine_fixture  # noqa: F401  # a fixture
from support.docker_engine import EngineUnderTest
from support.docker_images import GENERATIONS, simulator_image
from support.memory import children, search_all
from support.planted import NEEDLES, core_of, found_in, found_in_files, password
from support.ports import free_ports
from support.vault import BaoServer
from support.waiting import wait_until

pytestmark = [pytest.mark.real_part("docker"), pytest.mark.real_part("vault")]

FLEET = 4
PATIENCE = 120.0


class DockerFleet:
    """A manager's process, as the command runs it, with a fleet of both generations on an engine of our own."""

    def __init__(self, engine: EngineUnderTest, bao: BaoServer, place: Path, state: Path) -> None:
        self.api = engine.api
        self.state = state
        self.said = place / "said"
        self.cwd = place / "cwd"
        self.cwd.mkdir()
        self.prefix = f"gm-test-{os.getpid()}-search"
        for number in range(FLEET):
            bao.put(f"ibkr/f{number}", IB_USER=f"user{number}", IB_PASS=password(number))
            add_follower(state / "followers.toml", f"f{number}", vault_secret_ref=f"ibkr/f{number}")
            image = simulator_image(self.api, GENERATIONS[number % 2])
            with (state / "followers.toml").open("a") as file:
                file.write(f'\n[follower.gateway]\nimage = "{image}"\n')
        first = free_ports(FLEET)
        environment = {
            "VAULT_ADDR": bao.address,
            "VAULT_TOKEN": bao.root.token,
            "GATEWAY_MANAGER_STATE_DIR": str(state),
            "GATEWAY_MANAGER_STORE_URL": "local:",
            "GATEWAY_MANAGER_RUNTIME_URL": "docker:",
            "GATEWAY_MANAGER_DOCKER_HOST": f"unix://{engine.socket}",
            "GATEWAY_MANAGER_CONTAINER_PREFIX": self.prefix,
            "PORT_RANGE_START": str(first),
            "PORT_RANGE_END": str(first + FLEET - 1),
            "MAX_STARTUP_TIME": str(PATIENCE),
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

    def is_launched(self) -> bool:
        """All RUNNING, no courier left, and no password file either."""
        ready = [each for each in self.snapshots() if each["state"] == "ready"]
        return (
            len(ready) == FLEET
            and not children(self.process.pid, running="credentials.courier")
            and all(self.api.execute(each["container"], "ls", "/run/gateway-manager").strip() == "" for each in ready)
        )

    def told(self) -> str:
        """Everything that API and engine tell of the fleet."""
        owner = f"spreadpilot.gateway-manager.owner={self.prefix}"
        containers = [row["Id"] for row in self.api.containers(owner)]
        assert len(containers) == FLEET
        of_engine = [json.dumps(self.api.inspect(each)) + self.api.logs(each) for each in containers]
        return json.dumps(self.snapshots(), ensure_ascii=False) + "".join(of_engine)


@pytest.fixture
def fleet(own_engine: EngineUnderTest, tmp_path: Path) -> Iterator[DockerFleet]:
    state = Path(tempfile.mkdtemp(prefix="gm-", dir="/tmp"))  # short: it holds Unix sockets
    with ExitStack() as held:
        held.callback(shutil.rmtree, state)
        held.enter_context(own_engine.inside())
        bao = held.enter_context(BaoServer(tmp_path / "bao"))
        fleet = DockerFleet(own_engine, bao, tmp_path, state)
        held.callback(own_engine.api.remove_everything_of, f"spreadpilot.gateway-manager.owner={fleet.prefix}")
        held.callback(fleet.process.wait)
        held.callback(fleet.process.kill)
        yield fleet


def engine_files(engine: EngineUnderTest) -> Iterator[Path]:
    """Every file of the engine and its containerd but what is inside a container: its own writable layer, its tmpfs."""
    root = Path(engine.socket).parent
    for directory, below, names in os.walk(root):
        if directory == str(root / "data"):
            below[:] = [name for name in below if name != "overlay2"]
        below[:] = [name for name in below if name != "rootfs"]
        yield from (Path(directory) / name for name in names)


def test_nothing_is_left_outside_the_containers(fleet: DockerFleet, own_engine: EngineUnderTest) -> None:
    """Manager, living children, log, control socket, `docker inspect`, files of host and engine, core dump: none of them.

    And a password that a container's environment holds on purpose is found by the same search.
    """
    wait_until(fleet.is_launched, within=PATIENCE)
    assert search_all(fleet.process.pid, NEEDLES) == set()
    assert [name for name, needle in NEEDLES.items() if needle in fleet.told().encode()] == []
    files = list(engine_files(own_engine))
    assert {"config.v2.json", "hostconfig.json", "dockerd.log"} <= {path.name for path in files}
    assert found_in_files([fleet.said, *fleet.state.rglob("*"), *files]) == {}

    image = simulator_image(fleet.api, "ibc")
    body = {"Image": image, "Env": [f"COPY={password(0)}"]}
    copy = fleet.api.ask("POST", "/containers/create", body=body)["Id"]
    try:
        assert any(copy in path for path in found_in_files(engine_files(own_engine)))
    finally:
        fleet.api.remove(copy)

    core = core_of(fleet.process.pid, fleet.cwd)
    assert core is not None
    assert found_in(core) == set()
    core.unlink()
