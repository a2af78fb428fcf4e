"""The engine's refusals and absences, against small servers of our own on a unix socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

import pytest

from spreadpilot_core.ibkr.errors import LeadershipLostError, NoSpaceError, RuntimeUnavailableError, SettingsError
from spreadpilot_core.ibkr.runtimes.docker import engine as engine_module
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine, EngineRefusedError
from spreadpilot_core.ibkr.runtimes.docker.images import PullProgress
from spreadpilot_core.ibkr.runtimes.docker.naming import Naming
from spreadpilot_core.ibkr.runtimes.docker.runtime import DockerRuntime
from spreadpilot_core.ibkr.runtimes.docker.streams import container_changes
from spreadpilot_core.ibkr.settings import Settings

Answer = Callable[[str], tuple[int, object]]


@asynccontextmanager
async def fake_engine(path: Path, answer: Answer) -> AsyncIterator[Engine]:
    """Answers each request by its path; a status of 0 never answers."""
    ended = asyncio.Event()
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(cast("asyncio.Task[None]", asyncio.current_task()))
        while request := await reader.readline():
            length = 0
            while (header := await reader.readline()) not in {b"\r\n", b""}:
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            await reader.readexactly(length)
            status, body = answer(request.decode().split()[1])
            if status == 0:
                await ended.wait()
                break
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    engine = Engine(str(path))
    try:
        yield engine
    finally:
        await engine.close()
        ended.set()
        await asyncio.gather(*serving, return_exceptions=True)  # a client may go in the middle of an answer
        server.close()


def version(newest: str, oldest: str = "1.12") -> Answer:
    return lambda path: (200, {"Version": "99.1", "ApiVersion": newest, "MinAPIVersion": oldest, "Path": path})


@pytest.mark.parametrize(
    ("newest", "oldest", "agreed"),
    [
        ("1.41", "1.12", "1.41"),
        ("1.47", "1.24", "1.47"),
        ("1.56", "1.44", "1.56"),
        ("1.90", "1.44", "1.56"),
        ("1.90", "1.60", "1.60"),
    ],
)
async def test_the_version_is_agreed_on(tmp_path: Path, newest: str, oldest: str, agreed: str) -> None:
    """The newest that both know; an engine that forgot ours is spoken to in its oldest."""
    async with fake_engine(tmp_path / "s", version(newest, oldest)) as engine:
        await engine.open()
        assert engine.api_version == agreed


async def test_an_engine_that_is_too_old_is_told(tmp_path: Path) -> None:
    """What it speaks, and what is needed."""
    async with fake_engine(tmp_path / "s", version("1.40")) as engine:
        with pytest.raises(RuntimeUnavailableError, match=r"99\.1 .* up to 1\.40.*20\.10"):
            await engine.open()


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, {}), (200, None), (200, []), (200, {"ApiVersion": "new"}), (404, {"message": "page not found"}), (503, "")],
)
async def test_something_else_that_answers(tmp_path: Path, status: int, body: object) -> None:
    """A proxy without its engine, or another program: unavailable like an engine that is away, never an unforeseen error."""
    async with fake_engine(tmp_path / "s", lambda _: (status, body)) as engine:
        with pytest.raises(RuntimeUnavailableError, match=r"is no Docker Engine at work: .*DOCKER_HOST"):
            await engine.open()


async def test_an_absent_engine(tmp_path: Path) -> None:
    """No socket: install and start it."""
    engine = Engine(str(tmp_path / "none"))
    with pytest.raises(RuntimeUnavailableError, match=r"There is no Docker Engine at .*systemctl start docker"):
        await engine.open()
    await engine.close()


async def test_an_engine_that_does_not_listen(tmp_path: Path) -> None:
    """A socket without a listener: start it."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    engine = Engine(str(tmp_path / "s"))
    with pytest.raises(RuntimeUnavailableError, match=r"No Docker Engine listens"):
        await engine.open()
    await engine.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes on another user, which needs root")
async def test_a_user_without_permission(tmp_path: Path) -> None:
    """The socket is there and not for this user: the group, and what it means."""
    (tmp_path / "s").touch()
    async with fake_engine(tmp_path / "t", version("1.41")) as engine:
        (tmp_path / "t").chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(RuntimeUnavailableError, match=r"permission denied on the socket.*group `docker`"):
                await engine.open()
        finally:
            os.seteuid(0)


async def test_an_engine_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unavailable after a while, not waited for for ever."""
    monkeypatch.setattr(engine_module, "_ANSWER_SECONDS", 0.2)
    async with fake_engine(
        tmp_path / "s", lambda path: version("1.41")(path) if "version" in path else (0, None)
    ) as engine:
        await engine.open()
        with pytest.raises(RuntimeUnavailableError, match="did not list networks"):
            async with engine._asking("list networks", seconds=0.2):
                await engine._client.networks.list()


async def test_a_fleet_of_followed_logs_holds_up_no_other_call(tmp_path: Path) -> None:
    """Each followed log is a connection that stays; the client library's own limit would be 100 in all."""

    def answer(path: str) -> tuple[int, object]:
        return (0, None) if "logs" in path else version("1.41")(path) if "version" in path else (200, [])

    async with fake_engine(tmp_path / "s", answer) as engine, asyncio.timeout(30):
        await engine.open()

        async def follow() -> None:
            async with engine.stream("containers/c/logs"):
                pass

        logs = [asyncio.create_task(follow()) for _ in range(150)]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                assert await engine.networks() == []
        finally:
            for log in logs:
                log.cancel()
            await asyncio.gather(*logs, return_exceptions=True)


async def test_events_are_asked_for_from_before_the_engine_subscribes(tmp_path: Path) -> None:
    """The engine answers before it subscribes: what happens in between must come from its memory, and nothing older."""
    asked: list[tuple[str, float]] = []

    def answer(path: str) -> tuple[int, object]:
        asked.append((path, time.time()))
        return version("1.41")(path) if "version" in path else (200, {})

    async with fake_engine(tmp_path / "s", answer) as engine:
        await engine.open()
        before = time.time()
        async for changed in container_changes(engine, Naming("gw")):
            assert changed is None
            break
    ((path, at),) = [each for each in asked if "/events" in each[0]]
    query = parse_qs(urlsplit(path).query)
    assert before - 0.001 <= float(query["since"][0]) <= at
    filters = json.loads(query["filters"][0])
    assert filters["label"] == ["spreadpilot.gateway-manager.owner"]
    assert "exec_start" not in filters["event"]


async def test_a_full_disk_has_its_own_cure(tmp_path: Path) -> None:
    """Whatever the call was."""
    full = "mkdir /var/lib/docker/x: no space left on device"
    async with fake_engine(
        tmp_path / "s", lambda path: version("1.41")(path) if "version" in path else (500, {"message": full})
    ) as engine:
        await engine.open()
        with pytest.raises(NoSpaceError, match=r"no space left to create the container a.*docker system df"):
            await engine.create_container("a", {})


async def test_a_refusal_keeps_the_engines_words(tmp_path: Path) -> None:
    """What was asked, the status and the answer."""
    async with fake_engine(
        tmp_path / "s", lambda path: version("1.41")(path) if "version" in path else (409, {"message": "in use."})
    ) as engine:
        await engine.open()
        with pytest.raises(EngineRefusedError, match=r"refused to remove the network n: in use\.$") as caught:
            await engine.delete_network("n")
        assert caught.value.is_conflict


async def test_what_is_gone_is_none(tmp_path: Path) -> None:
    """A container that does not exist is no error."""
    async with fake_engine(
        tmp_path / "s", lambda path: version("1.41")(path) if "version" in path else (404, {"message": "No such x"})
    ) as engine:
        await engine.open()
        assert await engine.inspect_container("x") is None
        assert await engine.inspect_image("x") is None


async def test_a_runtime_that_was_never_opened_closes() -> None:
    """Closing is safe at any time, and twice."""
    runtime = DockerRuntime(socket="/nonexistent", prefix="p")
    await runtime.close()
    with pytest.raises(RuntimeUnavailableError):
        await runtime.open()
    await runtime.close()
    await runtime.close()
    with pytest.raises(RuntimeUnavailableError, match="not open"):
        await runtime.list()


@pytest.mark.parametrize("host", ["tcp://10.0.0.1:2375", "ssh://a@b", "/var/run/docker.sock", "unix://"])
def test_another_hosts_engine_is_refused(host: str) -> None:
    """Gateways publish on loopback, so an engine elsewhere is of no use."""
    with pytest.raises(SettingsError, match="docker_host"):
        DockerRuntime.from_settings(Settings.read(docker_host=host), manager_id="m")


def test_settings_name_socket_and_owner() -> None:
    """The prefix is the owner, the socket is DOCKER_HOST's."""
    settings = Settings.read(docker_host="unix:///run/user/1000/docker.sock", container_prefix="mine")
    runtime = DockerRuntime.from_settings(settings, manager_id="m")
    assert runtime._engine.socket == "/run/user/1000/docker.sock"
    assert runtime._naming.prefix == "mine"


async def test_a_pulls_lines_that_make_no_sense_are_passed_over(tmp_path: Path) -> None:
    """Whatever stands between the engine's own lines, the pull goes on, and its progress is told by those that are."""
    nested = b"[" * 100_000
    lines = [
        *(b"no json", b"[]", b"7", b"null", b'"x"', b"{", b"\xff\xfe", nested, b""),
        b'{"id": ["aa"], "status": "Downloading"}',
        b'{"id": "aa", "status": "Downloading", "progressDetail": [1]}',
        b'{"id": "aa", "status": "Downloading", "progressDetail": {"current": "much", "total": 1e400}}',
        b'{"id": "aa", "status": ["Downloading"], "progressDetail": 3}',
        b'{"id": "aa", "status": "Downloading", "progressDetail": {"current": -5, "total": 9437184}}',
        b'{"id": "aa", "status": "Pull complete"}',
    ]

    def answer(path: str) -> tuple[int, object]:
        return (200, b"\n".join(lines) + b"\n") if "/images/create" in path else version("1.44")(path)

    progress = PullProgress("r/x:y")
    async with fake_engine(tmp_path / "docker.sock", answer) as engine:
        await engine.open()
        async for line in engine.pull("r/x:y", None):
            progress.take(line)
    assert progress.sentence == "Pulling r/x:y: 1 of 1 layer, 0 of 9 MiB loaded."


async def test_a_pull_whose_line_has_no_end_fails_alone(tmp_path: Path) -> None:
    """It is an engine that went away, as far as this pull is concerned; the next request is answered."""

    def answer(path: str) -> tuple[int, object]:
        return (200, b"x" * (4 << 20)) if "/images/create" in path else version("1.44")(path)

    async with fake_engine(tmp_path / "docker.sock", answer) as engine:
        await engine.open()
        with pytest.raises(RuntimeUnavailableError):
            async for _ in engine.pull("r/x:y", None):
                pass
        assert (await engine.facts())["Version"] == "99.1"


@pytest.mark.parametrize(
    "change",
    [
        lambda engine: engine.create_container("alice", {}),
        lambda engine: engine.start_container("c" * 64),
        lambda engine: engine.stop_container("c" * 64, grace=1),
        lambda engine: engine.kill_container("c" * 64),
        lambda engine: engine.delete_container("c" * 64),
    ],
    ids=["create", "start", "stop", "kill", "delete"],
)
async def test_leadership_that_is_lost_while_it_connects(
    tmp_path: Path, change: Callable[[Engine], Awaitable[object]]
) -> None:
    """A process can be frozen in there for longer than its lease lasts: nothing that changes anything is sent."""
    is_leader = True

    def must_act() -> None:
        if not is_leader:
            raise LeadershipLostError

    engine = Engine(str(tmp_path / "s"))
    engine.guard = must_act
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first_in_line:
        listening.bind(engine.socket)
        listening.listen()
        await asyncio.gather(engine.open(), asyncio.to_thread(say_version_twice, listening))
        listening.listen(0)
        first_in_line.connect(engine.socket)
        asked = asyncio.ensure_future(change(engine))
        await asyncio.sleep(0.1)  # nobody lets it in
        assert not asked.done()
        is_leader = False
        listening.accept()[0].close()
        let_in = (await asyncio.to_thread(listening.accept))[0]
        with pytest.raises(LeadershipLostError):
            await asked
        assert await asyncio.to_thread(let_in.recv, 1) == b""
        let_in.close()
    await engine.close()


def say_version_twice(listening: socket.socket) -> None:
    """The library asks once for itself. Each connection is closed afterwards."""
    body = b'{"Version": "99.1", "ApiVersion": "1.41"}'
    for _ in range(2):
        with listening.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 x\r\nContent-Type: application/json\r\nConnection: close\r\n")
            connection.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
