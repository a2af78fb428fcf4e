"""The host of simulated gateways, started many times at once, killed, stopped, starved of its directory; and 300 gateways."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import GatewayManagerError, RuntimeUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.runtimes.simulated import host
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.simulator.engine.files import read_address
from support.ports import free_ports, leases
from support.runtimes import (
    PATIENCE,
    SimulatedPlace,
    end_host,
    following,
    found,
    hosts_in,
    is_alive,
    until,
    watching,
)

HOST = [sys.executable, "-m", "spreadpilot_core.ibkr.simulator.host"]
MANAGER = """
import asyncio, sys
from pathlib import Path
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from support.runtimes import SimulatedPlace, make_spec
from spreadpilot_core.ibkr.runtimes.host_ports import PortLeases

async def main():
    place = SimulatedPlace.__new__(SimulatedPlace)
    ports = PortLeases(int(sys.argv[3]), int(sys.argv[3]) + 1)
    runtime = SimulatedRuntime(Path(sys.argv[1]), owner=sys.argv[2], manager_id="killed", ports=ports)
    await runtime.open()
    await place.launch(runtime, make_spec("alice"))
    await place.cut_off(runtime, make_spec("bob"), with_secret=False)
    print("launched", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture(name="place")
async def place_fixture() -> AsyncIterator[SimulatedPlace]:
    """A directory without a host yet."""
    place = SimulatedPlace()
    yield place
    await place.close()


def open_files(process: str) -> set[str]:
    """What a process holds open, by the kernel's names."""
    names = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            names.add(str(descriptor.readlink()))
    return names


async def start_host(directory: Path, *options: str) -> int:
    """Start a host as a command, and give its process id."""
    command = [*HOST, "--detach", "--directory", str(directory), *options]
    ended = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stderr
    address = read_address(directory)
    assert address is not None
    return address.pid


# ---------------------------------------------------------------------------------------------- one host


async def test_many_runtimes_that_start_at_once_share_one_host(place: SimulatedPlace) -> None:
    """However many ask for a host at the same moment, from however many processes, one lives and serves all."""
    commands = [start_host(place.directory) for _ in range(3)]
    opened = await asyncio.gather(*(place.runtime(f"{place.owner}-{each}") for each in range(4)), *commands)
    assert len({pid for pid in opened if isinstance(pid, int)}) == 1
    await until(lambda: hosts_in(place.directory) == {place.host_pid}, lambda: hosts_in(place.directory))
    for runtime in opened[:4]:
        assert isinstance(runtime, SimulatedRuntime)
        assert list(await runtime.list()) == []


async def test_the_host_stands_alone(place: SimulatedPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of its own, no standard streams, no working directory, no child of ours, and no secret of the manager."""
    monkeypatch.setenv("VAULT_TOKEN", "planted")
    monkeypatch.setenv("MONGO_URI", "mongodb://planted")
    await place.runtime()
    pid = place.host_pid
    assert pid is not None
    assert os.getsid(pid) == pid
    assert {str(Path(f"/proc/{pid}/fd/{stream}").readlink()) for stream in range(3)} == {os.devnull}
    assert str(Path(f"/proc/{pid}/cwd").readlink()) == "/"
    assert b"planted" not in await asyncio.to_thread(Path(f"/proc/{pid}/environ").read_bytes)
    parent = (await asyncio.to_thread(Path(f"/proc/{pid}/stat").read_text)).rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()
    assert not {name for name in open_files("self") & open_files(str(pid)) if name.startswith(("socket:", "pipe:"))}


async def test_a_directory_with_a_long_path_has_a_host_too(place: SimulatedPlace) -> None:
    """Its socket is elsewhere, in a directory for its owner alone, and nothing of it is left afterwards."""
    directory = place.directory / ("long-" * 20) / ("é" * 60)
    runtime = SimulatedRuntime(directory, owner="long", manager_id="m", ports=leases(1))
    await runtime.open()
    try:
        address = read_address(directory)
        assert address is not None
        elsewhere = Path(address.socket).parent
        assert elsewhere.stat().st_mode & 0o777 == 0o700
        gateway = await place.launch(runtime)
        assert gateway.phase is GatewayPhase.RUNNING
    finally:
        await runtime.close()
        await asyncio.to_thread(end_host, directory)
    assert not elsewhere.exists()


# ---------------------------------------------------------------------------------------------- its end


async def test_an_idle_host_ends_by_itself_and_cleans_up(place: SimulatedPlace) -> None:
    """Not while it has a client or a container, in whatever state; then within its time, and a new one is started on demand."""
    pid = await start_host(place.directory, "--linger", "0.3")
    address = read_address(place.directory)
    assert address is not None
    _, first = await asyncio.open_unix_connection(address.socket)  # a client, until there is the one that is meant
    runtime = await place.runtime()
    async with watching(runtime):
        first.close()
        await asyncio.sleep(1)
        assert is_alive(pid)
        waiting = await place.cut_off(runtime, with_secret=False)
    await asyncio.sleep(1)
    assert is_alive(pid)
    await runtime.remove(waiting, grace=0)
    await until(lambda: not is_alive(pid), "for the end of the idle host")
    assert {file.name for file in place.directory.iterdir()} == {"operations.jsonl", "simulated-host.lock"}
    assert list(await runtime.list()) == []
    assert place.host_pid not in (None, pid)


async def test_asked_to_end_a_host_closes_its_gateways_first(place: SimulatedPlace) -> None:
    """SIGTERM: tidy logs to the last line, files gone, ports free."""
    runtime = await place.runtime()
    gateway = await place.launch(runtime)
    pid = place.host_pid
    assert pid is not None
    async with following(runtime, gateway) as (lines, _):
        await until(lambda: any("-> READY" in line for line in lines), lambda: lines)
        os.kill(pid, signal.SIGTERM)
        await until(lambda: any("SIGTERM" in line for line in lines), lambda: lines)
    await until(lambda: not is_alive(pid), "for the end of the host")
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", gateway.endpoint.port):
        pass


async def test_a_host_whose_directory_is_gone_ends(place: SimulatedPlace) -> None:
    """A temporary directory that was cleaned up leaves no process behind, not even one with gateways."""
    runtime = await place.runtime()
    await place.launch(runtime)
    pid = place.host_pid
    assert pid is not None
    await runtime.close()
    await asyncio.to_thread(shutil.rmtree, place.directory)
    await until(lambda: not is_alive(pid), "for the end of the host")
    place.directory.mkdir()


# ---------------------------------------------------------------------------------------------- killed, stopped


async def test_a_killed_host_takes_its_gateways_with_it(place: SimulatedPlace) -> None:
    """Sockets close, logs end, `changes` says None, and the next host starts empty on the same ports."""
    runtime = await place.runtime()
    async with watching(runtime) as events:
        gateway = await place.launch(runtime)
        reader, writer = await asyncio.open_connection(gateway.endpoint.host, gateway.endpoint.port)
        async with following(runtime, gateway) as (lines, log):
            await until(lambda: len(lines) > 5, lambda: lines)
            pid = place.host_pid
            await asyncio.to_thread(end_host, place.directory, signal.SIGKILL)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            await asyncio.wait_for(log, PATIENCE)
        await until(lambda: events.count(None) == 2, lambda: events)
        writer.close()
        assert list(await runtime.list()) == []
        assert await runtime.inspect(gateway.container_id) is None
        await runtime.remove(gateway.container_id, grace=5)
        assert place.host_pid not in (None, pid)
        again = await place.launch(runtime, port=gateway.endpoint.port)
        await until(lambda: again.container_id in events, lambda: events)


async def test_a_host_killed_again_and_again_is_always_replaced(place: SimulatedPlace) -> None:
    """Also when it dies during a call: that call fails or is done, the next one works."""
    runtime = await place.runtime()
    for round_ in range(5):
        call = asyncio.ensure_future(place.launch(runtime))
        await asyncio.sleep(0.001 * round_)
        await asyncio.to_thread(end_host, place.directory, signal.SIGKILL)
        with contextlib.suppress(GatewayManagerError):
            await call
        for gateway in await runtime.list():
            await runtime.remove(gateway.container_id, grace=0)
        assert list(await runtime.list()) == []


async def test_a_killed_manager_leaves_its_gateways_running(place: SimulatedPlace) -> None:
    """The next manager finds the same containers, the created one that never got its secret included."""
    port = free_ports(2)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", MANAGER, str(place.directory), place.owner, str(port)]
    manager = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    assert manager.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while b"launched" not in (line := await manager.stdout.readline()):
            assert line, "the manager ended"
    manager.kill()
    await manager.wait()
    runtime = await place.runtime()
    states = {gateway.follower_id: gateway.phase for gateway in await runtime.list()}
    assert states == {"alice": GatewayPhase.RUNNING, "bob": GatewayPhase.AWAITING_SECRET}
    (alice,) = [gateway for gateway in await runtime.list() if gateway.follower_id == "alice"]
    async with following(runtime, alice) as (lines, _):
        await until(lambda: any("login completed" in line for line in lines), lambda: lines)


async def test_a_stopped_host_counts_as_away(place: SimulatedPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls give up with a sentence instead of hanging, and work again when it goes on."""
    runtime = await place.runtime()
    gateway = await place.launch(runtime)
    pid = place.host_pid
    assert pid is not None
    monkeypatch.setattr(host, "_GREETING_WITHIN", 0.5)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RuntimeUnavailableError, match="doesn't answer"):
            await runtime.list()
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert (await found(runtime, gateway.container_id)).started_at == gateway.started_at


async def test_a_directory_held_by_something_else_is_told(place: SimulatedPlace) -> None:
    """Whoever holds the lock and doesn't serve is named as the reason; freed, the same runtime works."""
    runtime = SimulatedRuntime(place.directory, owner="o", manager_id="m")
    lock = os.open(place.directory / "simulated-host.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(RuntimeUnavailableError, match="holds its lock"):
        await runtime.open()
    os.close(lock)
    await runtime.open()
    await runtime.close()


async def test_a_directory_that_can_not_be_one_is_told(place: SimulatedPlace) -> None:
    """A file in its place is named, with the system's reason."""
    await asyncio.to_thread((place.directory / "file").write_text, "")
    runtime = SimulatedRuntime(place.directory / "file" / "below", owner="o", manager_id="m")
    with pytest.raises(RuntimeUnavailableError, match="Not a directory"):
        await runtime.open()
    await runtime.close()


async def test_somebody_else_on_the_socket_is_told(place: SimulatedPlace) -> None:
    """A program that speaks another language is not mistaken for a host."""
    await start_host(place.directory)
    address = read_address(place.directory)
    assert address is not None
    Path(address.socket).unlink()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answers.pop())
        writer.close()

    answers = [b'{"ok": true, "protocol": 99, "pid": 4711}\n', b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    async with await asyncio.start_unix_server(answer, address.socket):
        for sentence in ("make no sense", "4711 speaks another version"):
            runtime = SimulatedRuntime(place.directory, owner="o", manager_id="m")
            with pytest.raises(RuntimeUnavailableError, match=sentence):
                await runtime.open()
            await runtime.close()


# ---------------------------------------------------------------------------------------------- many


async def test_three_hundred_gateways_in_one_host(place: SimulatedPlace) -> None:
    """All log in, each with its log followed; a list shows all, a mass death is told one by one, nothing is left."""
    count = 300
    runtime = await place.runtime(ports=leases(count))
    ready: set[ContainerId] = set()

    async with watching(runtime) as events, contextlib.AsyncExitStack() as follows:
        gateways = await asyncio.gather(
            *(place.launch(runtime, place.spec(f"f{n}"), client_id=1000 + n) for n in range(count))
        )

        async def follow(container: int) -> None:
            async for line in runtime.log(gateways[container]):
                if "-> READY" in line:
                    ready.add(gateways[container].container_id)

        tasks = [asyncio.create_task(follow(n)) for n in range(count)]
        follows.callback(lambda: [task.cancel() for task in tasks])
        await until(lambda: len(ready) == count, lambda: len(ready))
        assert len(await runtime.list()) == count
        assert set(events) == {None, *(gateway.container_id for gateway in gateways)}
        del events[1:]
        await asyncio.gather(*(runtime.kill(FollowerId(f"f{n}")) for n in range(0, count, 2)))
        await until(lambda: len(events) == 1 + count / 2, lambda: len(events))
        assert len(set(events)) == len(events)
        del events[1:]
        await asyncio.gather(*(runtime.remove(gateway.container_id, grace=30) for gateway in gateways))
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        await until(lambda: len(set(events)) == 1 + count, lambda: len(events))
    assert list(await runtime.list()) == []
    assert events.count(None) == 1


def test_the_command_says_what_is_wrong() -> None:
    """A second host in the foreground refuses with one sentence; a wrong directory too."""
    directory = Path(tempfile.mkdtemp(prefix="gm-sim-", dir="/tmp"))
    try:
        command = [*HOST, "--directory", str(directory)]
        assert (
            subprocess.run([*command, "--detach"], capture_output=True, check=False, timeout=PATIENCE).returncode == 0
        )
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert second.returncode == 1
        assert "another one runs there" in second.stderr
        wrong = subprocess.run([*HOST, "--directory", "/dev/null/x"], capture_output=True, text=True, check=False)
        assert wrong.returncode == 1
        assert "/dev/null/x" in wrong.stderr
        assert "Traceback" not in wrong.stderr
    finally:
        end_host(directory)
        shutil.rmtree(directory)
