"""After a fleet was launched through Vault on a real Docker Engine, no password is left outside its containers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.docker_bench import own_engine_fixture  # noqa: F401  # a fixture
from support.docker_engine import EngineUnderTest
from support.docker_images import GENERATIONS, simulator_image
from support.memory import search_all
from support.planted import NEEDLES, core_of, found_in, found_in_files, password
from support.ports import free_ports
from support.searched_fleet import FLEET, PATIENCE, SearchedFleet, searched_fleet
from support.vault import BaoServer
from support.waiting import wait_until

pytestmark = [pytest.mark.real_part("docker"), pytest.mark.real_part("vault")]

PREFIX = f"gm-test-{os.getpid()}-search"


@pytest.fixture
def fleet(own_engine: EngineUnderTest, tmp_path: Path) -> Iterator[SearchedFleet]:
    first = free_ports(FLEET)
    settings = {
        "GATEWAY_MANAGER_RUNTIME_URL": "docker:",
        "GATEWAY_MANAGER_DOCKER_HOST": f"unix://{own_engine.socket}",
        "GATEWAY_MANAGER_CONTAINER_PREFIX": PREFIX,
        "PORT_RANGE_START": str(first),
        "PORT_RANGE_END": str(first + FLEET - 1),
    }
    with own_engine.inside(), BaoServer(tmp_path / "bao") as bao, ExitStack() as held:
        held.callback(own_engine.api.remove_everything_of, f"spreadpilot.gateway-manager.owner={PREFIX}")
        images = [simulator_image(own_engine.api, each) for each in GENERATIONS]
        yield held.enter_context(searched_fleet(bao, tmp_path, images, settings))


def told(fleet: SearchedFleet, engine: EngineUnderTest) -> str:
    """Everything that API and engine tell of the fleet."""
    api = engine.api
    containers = [row["Id"] for row in api.containers(f"spreadpilot.gateway-manager.owner={PREFIX}")]
    assert len(containers) == FLEET
    of_engine = [json.dumps(api.inspect(each)) + api.logs(each) for each in containers]
    return json.dumps(fleet.snapshots(), ensure_ascii=False) + "".join(of_engine)


def engine_files(engine: EngineUnderTest) -> Iterator[Path]:
    """Every file of the engine and its containerd but what is inside a container: its own writable layer, its tmpfs."""
    root = Path(engine.socket).parent
    for directory, below, names in os.walk(root):
        if directory == str(root / "data"):
            below[:] = [name for name in below if name != "overlay2"]
        below[:] = [name for name in below if name != "rootfs"]
        yield from (Path(directory) / name for name in names)


def test_nothing_is_left_outside_the_containers(fleet: SearchedFleet, own_engine: EngineUnderTest) -> None:
    """Manager, living children, log, control socket, `docker inspect`, files of host and engine, core dump: none of them.

    And a password that a container's environment holds on purpose is found by the same search.
    """
    api = own_engine.api
    wait_until(
        lambda: fleet.is_launched(lambda container: api.execute(container, "ls", "/run/gateway-manager")),
        within=PATIENCE,
    )
    assert search_all(fleet.process.pid, NEEDLES) == set()
    said = told(fleet, own_engine).encode()
    assert [name for name, needle in NEEDLES.items() if needle in said] == []
    files = list(engine_files(own_engine))
    assert {"config.v2.json", "hostconfig.json", "dockerd.log"} <= {path.name for path in files}
    assert found_in_files([fleet.said, *fleet.state.rglob("*"), *files]) == {}

    image = simulator_image(api, "ibc")
    body = {"Image": image, "Env": [f"COPY={password(0)}"]}
    copy = api.ask("POST", "/containers/create", body=body)["Id"]
    try:
        assert any(copy in path for path in found_in_files(engine_files(own_engine)))
    finally:
        api.remove(copy)

    core = core_of(fleet.process.pid, fleet.cwd)
    assert core is not None
    assert found_in(core) == set()
    core.unlink()
