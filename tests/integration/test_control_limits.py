"""The control socket under requests that nobody sane sends, and under what everybody types."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from spreadpilot_core.ibkr.http_api import limits, server
from spreadpilot_core.ibkr.http_api.address import SOCKET
from support.control import Control
from support.real_parts import need


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    control = Control(tmp_path)
    async with control.served():
        yield control


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain", "application/json"])
async def test_a_body_is_json_whatever_its_type_says(control: Control, content_type: str | None) -> None:
    """`curl -d` calls every body a form."""
    headers = {"content-type": content_type} if content_type else {}
    body = b'{"retry_login": true}'
    response = await control.raw("POST", "/gateways/alice/launch", content=body, headers=headers)
    assert response.status_code == 200
    assert ("launch_gateway", "alice", True) in control.manager.calls


async def test_curl_as_everybody_types_it(control: Control) -> None:
    """The line of the documentation, by the real program."""
    command = ["curl", "-sS", "--unix-socket", str(control.state_dir / SOCKET), "-d", '{"retry_login": true}']
    done = await asyncio.to_thread(
        subprocess.run, [*command, "http://manager/v1/gateways/alice/launch"], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["follower_id"] == "alice"
    assert ("launch_gateway", "alice", True) in control.manager.calls


@pytest.mark.parametrize(
    "body", [b"retry_login=true", b"[]", b"\xff", b'{"retry_login": "yes"}', b'{"no": 1}', b"{" * 9000]
)
async def test_what_is_no_such_json_is_refused(control: Control, body: bytes) -> None:
    """An override is said plainly; nothing else launches."""
    response = await control.raw("POST", "/gateways/alice/launch", content=body)
    assert response.status_code == 422
    assert set(response.json()) == {"error", "sentence", "hint"}
    assert not [call for call in control.manager.calls if call[0] == "launch_gateway"]


async def test_a_long_body_is_refused_before_it_was_read(control: Control) -> None:
    """Neither one whose length is stated, nor one that goes on and on, is kept; on whatever route."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 2**20

    stated = await _first_line(
        control, b"POST /v1/gateways/alice/launch HTTP/1.1\r\nhost: x\r\ncontent-length: 400000000\r\n\r\n"
    )
    assert b" 413 " in stated
    for path in ("/gateways/alice/launch", "/gateways/alice/stop"):
        with contextlib.suppress(httpx.TransportError):  # the connection may end under the sender
            assert (await control.raw("POST", path, content=endless())).status_code in (200, 413)
    assert not [call for call in control.manager.calls if call[0] == "launch_gateway"]
    assert (await control.raw("GET", "/gateways")).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that promises more than it sends is answered within its time."""
    monkeypatch.setattr(limits, "BODY_WITHIN", 0.2)
    answer = await _first_line(
        control, b"POST /v1/gateways/alice/launch HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"
    )
    assert b" 408 " in answer


async def test_connections_are_counted(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told so and closed; those that are there are served on."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 5)
    idle = [await _connect(control) for _ in range(5)]
    reader, writer = await _connect(control)
    answer = await reader.read()
    writer.close()
    assert b" 503 " in answer.partition(b"\r\n")[0]
    assert b"more are not served" in answer
    first_reader, first_writer = idle[0]
    first_writer.write(b"GET /v1/manager HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b" 200 " in (await first_reader.read()).partition(b"\r\n")[0]
    for _, each in idle:
        each.close()
    async with asyncio.timeout(60):
        while (await _raw(control, b"GET /v1/manager HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))[
            9:12
        ] != b"200":
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "said", [b"", b"GET /v1/gateways HTTP/1.1\r\nhost", b"GET /v1/manager HTTP/1.1\r\nhost: x\r\n\r\n"]
)
async def test_a_connection_that_says_nothing_more_is_closed(
    control: Control, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Before the first request, in the middle of one, and after an answer."""
    monkeypatch.setattr(server, "IDLE", 0.2)
    async with asyncio.timeout(60):
        await _raw(control, said)


async def test_the_api_describes_itself(control: Control) -> None:
    """`/v1/openapi.json` names every route, and the body that a launch takes."""
    described = (await control.raw("GET", "/openapi.json")).json()
    launch = described["paths"]["/v1/gateways/{follower_id}/launch"]["post"]
    assert "retry_login" in json.dumps(launch["requestBody"])
    assert all(path.startswith("/v1/") for path in described["paths"])
    named = {"gateways", "events", "history", "manager", "manager/detach", "followers/reload"}
    assert {f"/v1/{each}" for each in named} <= described["paths"].keys()


async def test_the_documentation_names_every_route_that_is_described(control: Control) -> None:
    """What `/v1/openapi.json` holds is in the table of the commands' page, with each word that a launch takes."""
    described = (await control.raw("GET", "/openapi.json")).json()
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    _, _, section = page.partition("## The control socket")
    for path in described["paths"]:
        name = path.replace("{follower_id}", "FOLLOWER").replace("{lease}", "LEASE")
        name = name.replace("{operation_id}", "ID").replace("{picture_id}", "ID")
        parts = name.split("/")
        short = [f"…/{'/'.join(parts[place:])}" for place in range(2, len(parts))]
        assert any(each in section for each in (name, *short)), path
    words = described["paths"]["/v1/gateways/{follower_id}/launch"]["post"]["requestBody"]["content"][
        "application/json"
    ]
    row = next(line for line in section.splitlines() if "FOLLOWER/launch" in line)
    assert {each for each in words["schema"]["properties"] if each not in row} == set()
    assert "/v1/openapi.json" in section


@pytest.mark.parametrize(
    ("given", "code", "called"),
    [
        (["-d", '{"retry_login": true}'], 200, ("alice", True)),
        (["-d", '{"live": true}'], 200, ("alice", False, "live")),
        (["-X", "POST"], 200, ("alice", False)),
        (["-d", ""], 200, ("alice", False)),
        (["-d", "retry_login=true"], 422, None),
        (["-d", '{"retry": true}'], 422, None),
        (["-H", "content-type: text/plain", "-d", '{"retry_login": true}'], 200, ("alice", True)),
    ],
)
async def test_curl_as_people_type_it(
    control: Control, given: list[str], code: int, called: tuple[object, ...] | None
) -> None:
    """`-d` says that it is a form, and is taken for the JSON that it is; what is none is refused in a sentence."""
    if shutil.which("curl") is None:
        need("curl", "apt-get install -y curl")
    asked = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-w", "\n%{http_code}", "--unix-socket", str(control.state_dir / SOCKET), *given),
        "http://manager/v1/gateways/alice/launch",
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        told, _ = await asked.communicate()
    answer, _, status = told.decode().rpartition("\n")
    assert int(status) == code, answer
    launches = [call for call in control.manager.calls if call[0] == "launch_gateway"]
    if called is None:
        assert launches == []
        assert json.loads(answer)["sentence"].startswith("The request can't be understood")
    else:
        assert json.loads(answer)["follower_id"] == "alice"
        assert launches == [("launch_gateway", *called)]


async def _connect(control: Control) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(control.state_dir / SOCKET)


async def _first_line(control: Control, said: bytes) -> bytes:
    """How the answer begins."""
    reader, writer = await _connect(control)
    try:
        writer.write(said)
        return await reader.readline()
    finally:
        writer.close()


async def _raw(control: Control, said: bytes) -> bytes:
    """What comes until the other side closes."""
    reader, writer = await _connect(control)
    try:
        writer.write(said)
        return await reader.read()
    finally:
        writer.close()
