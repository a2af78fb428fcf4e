"""Which sockets are trusted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import deliver
from spreadpilot_core.ibkr.errors import DeliveryError, RuntimeUnavailableError, SettingsError
from spreadpilot_core.ibkr.http_api.address import SOCKET
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.service.client import ControlClient, SilentManagerError
from spreadpilot_core.ibkr.state_dir import make_private
from spreadpilot_core.ibkr.system.peers import UntrustedError, must_be_ours, must_be_trusted
from support.control import Control
from support.runtimes import end_host

STRANGER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
LISTEN = f"""
import os, socket, sys
os.setgid({STRANGER}); os.setuid({STRANGER})
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o777); server.listen()
print("listening", flush=True)
connection, _ = server.accept()
print(connection.recv(1000), flush=True)
"""


KNOCK = f"""
import os, socket, sys
os.setgid({STRANGER}); os.setuid({STRANGER})
with socket.socket(socket.AF_UNIX) as knocking:
    knocking.settimeout(60)
    knocking.connect(sys.argv[1])
    try:
        knocking.sendall(sys.argv[2].encode())
        print(knocking.recv(1000))
    except ConnectionError:
        print(b"")
"""


@pytest.fixture(name="shared")
def shared_fixture() -> Iterator[Path]:
    """A directory that everybody may write to."""
    place = Path(tempfile.mkdtemp(prefix="gm-shared-", dir="/tmp"))
    place.chmod(0o777)
    yield place
    shutil.rmtree(place)


@contextlib.contextmanager
def planted(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A socket that a stranger listens on."""
    with subprocess.Popen([sys.executable, "-c", LISTEN, str(path)], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"listening\n"
        try:
            yield stranger
        finally:
            stranger.kill()


async def knock(path: Path, said: str) -> bytes:
    """What a stranger gets who says this to a socket."""
    stranger = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KNOCK, str(path), said, stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await stranger.communicate()
    assert stranger.returncode == 0
    return answer.strip()


@as_root
async def test_the_control_socket_answers_no_stranger(shared: Path) -> None:
    """Not even where somebody has opened its mode and its directory's; our own user is answered beside it."""
    control = Control(shared)
    async with control.served():
        (shared / SOCKET).chmod(0o777)
        assert await knock(shared / SOCKET, "GET /v1/gateways HTTP/1.1\r\nHost: manager\r\n\r\n") == b"b''"
        assert len(await control.ask(lambda client: client.gateways())) == 2
    assert [call for call in control.manager.calls if call[0] != "list_gateways"] == []


@as_root
@pytest.mark.parametrize("act", ["gateways", "stop"])
def test_no_command_is_given_to_a_strangers_control_socket(shared: Path, act: str) -> None:
    """Its answers are not believed, and it does not learn what was asked: a sentence says who is there."""
    with planted(shared / SOCKET) as stranger:
        with (
            pytest.raises(SilentManagerError, match=f"a process of the user {STRANGER} is at the other end"),
            ControlClient(shared) as client,
        ):
            client.act("alice", act) if act == "stop" else client.gateways()
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"b''\n"


@as_root
async def test_the_simulated_host_answers_no_stranger(shared: Path) -> None:
    """Whoever may reach its socket learns nothing of what runs, and starts nothing."""
    shared.chmod(0o755)
    runtime = SimulatedRuntime(shared, owner="me", manager_id="m")
    await runtime.open()
    try:
        place = Path(json.loads((shared / "simulated-host.json").read_text())["socket"])
        place.chmod(0o777)
        hello = {"op": "hello", "owner": "me", "manager": "m", "identities": []}
        assert await knock(place, json.dumps(hello) + "\n") == b"b''"
        assert await runtime.list() == []
    finally:
        await runtime.close()
        await asyncio.to_thread(end_host, shared)


@as_root
async def test_no_simulated_host_of_a_strangers_is_spoken_to(shared: Path) -> None:
    """Its address may lie in our directory: the process behind the socket decides."""
    with planted(shared / "host.sock") as stranger:
        shared.chmod(0o755)
        address = {"pid": stranger.pid, "host": "h", "socket": str(shared / "host.sock")}
        (shared / "simulated-host.json").write_text(json.dumps(address))
        runtime = SimulatedRuntime(shared, owner="me", manager_id="m")
        with pytest.raises(RuntimeUnavailableError, match=f"a process of the user {STRANGER} is at the other end"):
            await runtime.open()
        await runtime.close()
        assert stranger.stdout is not None
        assert await asyncio.to_thread(stranger.stdout.readline) == b"b''\n"


@as_root
def test_no_password_is_given_to_a_strangers_socket(shared: Path) -> None:
    """Whatever kind of door it pretends to be, nothing at all is sent through it."""
    for kind in ("simulated", "docker"):
        path = shared / kind
        delivery_target = {"kind": kind, "socket": str(path), "container": "c" * 64, "api_version": "1.41"}
        with planted(path) as stranger:
            with pytest.raises(DeliveryError, match=f"a process of the user {STRANGER} is at the other end"):
                deliver(delivery_target, b"secret")
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == b"b''\n"


@as_root
async def test_no_engine_of_a_strangers_is_spoken_to(shared: Path) -> None:
    """It is told instead, with the cure."""
    with planted(shared / "docker.sock"):
        engine = Engine(str(shared / "docker.sock"))
        try:
            with pytest.raises(RuntimeUnavailableError, match=r"is not trusted.*DOCKER_HOST"):
                await engine.open()
        finally:
            await engine.close()


async def test_a_directory_that_others_may_write_to_has_no_host(shared: Path) -> None:
    """Neither one that is there is asked, nor is one started there."""
    runtime = SimulatedRuntime(shared, owner="me", manager_id="m")
    with pytest.raises(RuntimeUnavailableError, match="others may write to"):
        await runtime.open()
    await runtime.close()
    assert list(shared.iterdir()) == []


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_root_manager_refuses_another_users_state_directory(tmp_path: Path, mode: int) -> None:
    """What lies in there is that user's word, and root would obey it; the directory stays as it is."""
    theirs = tmp_path / "state"
    theirs.mkdir(mode=mode)
    os.chown(theirs, STRANGER, STRANGER)
    with pytest.raises(SettingsError, match=f"it belongs to the user {STRANGER}"):
        make_private(theirs)
    with pytest.raises(UntrustedError, match=f"belongs to the user {STRANGER}"):
        must_be_ours(theirs)
    assert theirs.stat().st_mode & 0o777 == mode


def test_our_own_sockets_are_trusted(tmp_path: Path) -> None:
    """Both ends of a connection within one user are."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        connecting = threading.Thread(target=client.connect, args=(path,))
        connecting.start()
        accepted, _ = server.accept()
        connecting.join()
        must_be_trusted(client)
        must_be_trusted(accepted)
        accepted.close()
    must_be_ours(tmp_path)
    must_be_ours(tmp_path / "not there")
