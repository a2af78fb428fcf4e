"""A manager inside a program serves the commands as a service does: on the program's loop, and without touching its signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from spreadpilot_core.ibkr import tasks
from spreadpilot_core.ibkr.errors import NotStartedError, SettingsError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.http_api import server
from spreadpilot_core.ibkr.http_api.address import SOCKET, listening_socket
from spreadpilot_core.ibkr.http_api.on_demand import OnDemand, Part
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.service.client import ControlClient, NoManagerError
from spreadpilot_core.ibkr.state_dir import HOLDER, LOCK, holder_of
from support.command import Command
from support.home import PATIENCE, Home, eventually


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


async def _command(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(Command(home), *arguments)


async def test_every_command_works_beside_a_program(home: Home) -> None:
    """Status, stop, launch and detach, while the program goes on using its manager; its signals stay its own."""
    await home.add("anna")
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    manager = home.manager()
    await manager.start()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    await eventually(lambda: manager.is_healthy("anna"))
    shown = await _command(home, "status")
    assert (shown.returncode, "anna" in shown.stdout) == (0, True), shown.stderr
    assert (await _command(home, "stop", "anna")).returncode == 0
    assert not manager.is_healthy("anna")
    assert (await _command(home, "launch", "anna")).returncode == 0
    await eventually(lambda: manager.is_healthy("anna"))
    ended = asyncio.create_task(manager.until_ended())
    detached = await _command(home, "detach")
    assert detached.returncode == 0, detached.stderr
    await asyncio.wait_for(ended, 60)
    with pytest.raises(NotStartedError):
        manager.list_gateways()
    assert holder_of(home.directory) is None
    assert not (home.directory / SOCKET).exists()
    async with home.manager(on_exit="stop") as next_manager:
        await eventually(lambda: next_manager.is_healthy("anna"))


async def test_asking_for_one_gateway_builds_one_snapshot(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the fleet is: a program that asks for one often costs the loop no more for the others."""
    await home.add("anna", "bert", "cleo")
    built: list[str] = []
    init = GatewaySnapshot.__init__

    def counted(snapshot: GatewaySnapshot, **fields: Any) -> None:
        built.append(fields["follower_id"])
        init(snapshot, **fields)

    async with home.manager() as manager:
        await eventually(lambda: manager.is_healthy("bert"))
        monkeypatch.setattr(GatewaySnapshot, "__init__", counted)
        shown = await _command(home, "status", "bert", "--json")
        assert (shown.returncode, built) == (0, ["bert"])
        shown = await _command(home, "status", "--json")
        assert (shown.returncode, sorted(built[1:])) == (0, ["anna", "bert", "cleo"])


async def test_the_cure_of_a_failed_gateway_can_be_run(home: Home) -> None:
    """What a FAILED gateway says to run is a command line that works as it stands, also where the program chose the directory."""
    await home.add("anna smith", user="smith")
    await asyncio.to_thread(
        (home.directory / "scripts.json").write_text,
        '{"followers": {"anna smith": {"laps": [{"wrong_password": true}, {}]}}}',
    )
    async with home.manager() as manager:
        await eventually(lambda: "--retry-login" in (manager.list_gateways()[0].next_action or ""))
        said = manager.list_gateways()[0].next_action or ""
        cure = next(each for each in said.split("`") if "--retry-login" in each)
        command = Command(home)
        environment = {name: value for name, value in command.environment.items() if "STATE_DIR" not in name}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = await asyncio.to_thread(
            subprocess.run, ["sh", "-c", cure], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        await eventually(lambda: manager.is_healthy("anna smith"))


async def test_a_manager_without_control_socket_says_so(home: Home) -> None:
    """Nobody is told to try again soon what will never work."""
    async with home.manager(control_socket=False):
        assert not (home.directory / SOCKET).exists()
        with pytest.raises(NoManagerError, match="control_socket"):
            await asyncio.to_thread(_ask, home)


def _ask(home: Home) -> None:
    with ControlClient(home.directory) as client:
        client.gateways()


async def test_a_dead_managers_note_is_not_believed(home: Home) -> None:
    """Lock file and note of a manager that was killed are left, the note names a process that lives: nobody runs all the same."""
    (home.directory / LOCK).touch()
    (home.directory / HOLDER).write_text("process 1\n")
    done = await _command(home, "status")
    assert done.returncode == 1
    assert "No manager is running" in done.stderr


async def test_a_socket_that_can_not_be_made_is_a_wrong_setting(home: Home) -> None:
    """The start stops with the directory, what is wrong and how to do without, and owns nothing afterwards."""
    (home.directory / SOCKET / "below").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"control_socket=False does without"):
        await home.manager().start()
    assert holder_of(home.directory) is None


@pytest.mark.parametrize("setting", ["http_address", "metrics_address", "control_socket"])
async def test_what_can_not_be_served_costs_no_login(home: Home, setting: str) -> None:
    """The start fails before anything is launched: no gateway is left that nobody watches."""
    await home.add("anna")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings: dict[str, Any] = {setting: str(taken.getsockname()[1])}
        if setting == "control_socket":
            settings = {}
            (home.directory / SOCKET / "below").mkdir(parents=True)
        manager = home.manager(**settings)
        with pytest.raises(SettingsError):
            await manager.start()
    runtime = home.runtime()
    await runtime.open()
    try:
        assert await runtime.list() == []
    finally:
        await runtime.close()
    assert not (home.directory / "operations.jsonl").exists()


@pytest.mark.parametrize("how", ["stop", "detach"])
async def test_on_exit_says_what_the_end_of_a_block_does(home: Home, how: str) -> None:
    """`async with` stops the gateways, or leaves them for the next manager."""
    await home.add("anna")
    async with home.manager(on_exit=how) as manager:
        await eventually(lambda: manager.is_healthy("anna"))
    runtime = home.runtime()
    await runtime.open()
    try:
        assert len(await runtime.list()) == (how == "detach")
    finally:
        await runtime.close()


async def test_a_program_that_ends_in_an_exception_leaves_no_socket(home: Home) -> None:
    """The block's end is the same however it comes."""
    manager = home.manager()
    with pytest.raises(ZeroDivisionError):
        await _fails_inside(manager)
    assert not (home.directory / SOCKET).exists()
    await manager.until_ended()


async def test_a_web_framework_is_loaded_for_the_first_who_asks(home: Home) -> None:
    """Not before: a program whose manager nobody asks anything does without; whoever comes first waits a moment, and is answered."""
    await home.add("anna")
    program = (
        "import asyncio, sys\n"
        "from spreadpilot_core.ibkr import GatewayManager\n"
        "async def main():\n"
        f"    async with GatewayManager(**{home.settings | {'state_dir': str(home.directory)}!r}) as manager:\n"
        "        print(await manager.get_client('anna') is not None, 'fastapi' in sys.modules, flush=True)\n"
        "        await asyncio.to_thread(sys.stdin.readline)\n"
        "        print('fastapi' in sys.modules, flush=True)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"True False\n"
    asked = await asyncio.gather(*(_command(home, "status", "--json") for _ in range(3)))
    assert [each.returncode for each in asked] == [0, 0, 0]
    assert await process.communicate(b"\n") == (b"True\n", None)
    assert process.returncode == 0
    assert not (home.directory / SOCKET).exists()


async def test_an_end_while_what_serves_is_being_loaded_leaves_no_socket(tmp_path: Path) -> None:
    """The thread that loads it can't be cancelled: what it makes too late serves nobody, and whoever waits is told."""
    loading, go_on = threading.Event(), threading.Event()

    def slowly(listening: socket.socket) -> Sequence[Part]:
        loading.set()
        go_on.wait(PATIENCE)
        return [server.ControlServer(FastAPI(), tmp_path, listening)]

    control = OnDemand(tmp_path, slowly)
    await control.start()
    with socket.socket(socket.AF_UNIX) as first:
        first.settimeout(PATIENCE)
        first.connect(str(tmp_path / SOCKET))
        await eventually(loading.is_set)
        await control.close()
        go_on.set()
        with contextlib.suppress(ConnectionError):  # as good as the end
            assert await asyncio.to_thread(first.recv, 1) == b""
    assert not (tmp_path / SOCKET).exists()
    await control.close()


async def test_what_can_not_be_loaded_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is gone from the disk: the notice says so, and ends once it is back."""
    monkeypatch.setattr(tasks, "RETRY_FIRST", 0.01)
    notices: dict[str, str | None] = {}
    broken = [True]

    def make(listening: socket.socket) -> Sequence[Part]:
        if broken[0]:
            raise ImportError("no module named fastapi")
        return [server.ControlServer(FastAPI(), tmp_path, listening)]

    control = OnDemand(tmp_path, make, tell=notices.__setitem__)
    await control.start()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
    await eventually(lambda: any("fastapi" in (each or "") for each in notices.values()), notices)
    broken[0] = False
    writer.write(b"GET /v1/nothing HTTP/1.1\r\nhost: manager\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 404")
    writer.close()
    await control.close()
    assert not (tmp_path / SOCKET).exists()


async def _fails_inside(manager: GatewayManager) -> None:
    async with manager:
        raise ZeroDivisionError


async def test_a_start_that_is_cancelled_while_it_listens_leaves_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that makes the socket can't be cancelled: what it makes too late is closed."""
    made: list[socket.socket] = []
    reached, go_on = threading.Event(), threading.Event()

    def slowly(state_dir: Path) -> socket.socket:
        reached.set()
        go_on.wait(PATIENCE)
        made.append(listening_socket(state_dir))
        return made[0]

    monkeypatch.setattr(server, "listening_socket", slowly)
    control = server.ControlServer(FastAPI(), tmp_path)
    starting = asyncio.create_task(control.start())
    await eventually(reached.is_set)
    starting.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert [each.fileno() for each in made] == [-1]
    await control.close()
    assert not (tmp_path / SOCKET).exists()
