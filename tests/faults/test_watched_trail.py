"""`gateway-manager run` while its audit trail, or the system under it, fails: told, survived, and nothing goes unwatched."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.service.client import ControlClient
from support.command import Command
from support.home import PATIENCE, Home
from support.service import Service


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


@pytest.fixture
async def service(home: Home) -> AsyncIterator[Service]:
    """A running manager without followers that looks at everything every second."""
    service = Service(home, full_comparison_interval=1.0)
    await service.start()
    yield service
    service.close()


async def append(home: Home, lines: int) -> None:
    """As the commands do beside it."""
    trail = AuditTrail(home.directory)
    for number in range(lines):
        await asyncio.to_thread(trail.append, "set", who="tester", ref=f"ibkr/f{number}")


async def until(condition: Callable[[], bool]) -> None:
    """Wait, with the condition looked at off the loop."""
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def recorded(home: Home) -> str | None:
    """The hash that the record store keeps."""
    with closing(sqlite3.connect(home.directory / "records.sqlite3")) as records:
        found = records.execute("SELECT hash FROM audit_heads").fetchone()
    return str(found[0]) if found else None


def is_whole(home: Home) -> bool:
    """What `audit verify` would say."""
    return AuditTrail(home.directory).verify(recorded(home)).is_whole


async def kept(home: Home, serial: int) -> None:
    """Wait until the record store has the hash of this line, the newest."""
    newest = (await asyncio.to_thread(AuditTrail(home.directory).verify)).head
    assert newest is not None
    assert newest.serial == serial
    await until(lambda: recorded(home) == newest.hash)


async def cut(home: Home, lines: int) -> None:
    """Take lines off its end, behind everybody's back."""

    def cut() -> None:
        path = home.directory / "audit.jsonl"
        content = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(content[:-lines]))

    await asyncio.to_thread(cut)


async def notices(service: Service, *, there: bool) -> list[str]:
    """What the manager says of itself, once there is something, or nothing any more."""
    async with asyncio.timeout(PATIENCE):
        while bool(found := (await service.ask(ControlClient.manager))["notices"]) is not there:
            await asyncio.sleep(0.05)
    return found


async def test_a_cut_is_missed_whatever_lies_beside_the_trail(home: Home, service: Service) -> None:
    """A directory, a pipe and a forged number neither end the watch nor hide that lines went; status says it."""
    await append(home, 10)
    (home.directory / "audit.jsonl.x").mkdir()
    os.mkfifo(home.directory / "audit-000000007.jsonl")
    await append(home, 1)
    await kept(home, 11)
    await cut(home, 7)
    await until(lambda: not is_whole(home))
    verdict = await asyncio.to_thread(Command(home), "audit", "verify")
    assert verdict.returncode == 1
    assert "not in the chain" in verdict.stderr
    assert "Lines of the audit trail are gone or altered" in (await notices(service, there=True))[0]
    status = await asyncio.to_thread(Command(home), "status")
    assert "Lines of the audit trail are gone or altered" in status.stdout
    with (home.directory / "audit.jsonl").open("a") as file:
        file.write('{"serial": 1' + "0" * 30 + ', "previous": ""}\n')
    await append(home, 1)
    assert len(await notices(service, there=True)) == 1
    assert service.faults() == [line for line in service.faults() if "lines of the audit trail are gone" in line]


async def test_a_trail_that_is_away_is_a_notice_and_then_a_line(home: Home, service: Service) -> None:
    """While no hash can be kept status says so; when one can again the trail tells of the time between."""
    await append(home, 3)
    await kept(home, 3)
    path: Path = home.directory / "audit.jsonl"
    path.rename(home.directory / "elsewhere")
    path.mkdir()
    [notice] = await notices(service, there=True)
    assert "The newest hash of the audit trail can't be kept, so lines that go now are not missed: " in notice
    assert "Is a directory" in notice
    path.rmdir()
    (home.directory / "elsewhere").rename(path)
    assert await notices(service, there=False) == []
    await append(home, 1)
    told: list[str] = []

    def is_told() -> bool:
        told[:] = [each["detail"] for each in AuditTrail(home.directory).entries() if each["act"] == "unkept"]
        return bool(told)

    await until(is_told)
    assert "no newest hash was kept: The audit trail" in told[0]
    assert await asyncio.to_thread(is_whole, home)


async def test_too_many_open_files_end_no_work(home: Home, service: Service) -> None:
    """Without a single descriptor left for a while nothing that the manager does ends; afterwards all of it goes on."""
    await home.add("anna", enabled=False)
    await append(home, 5)
    await kept(home, 5)
    assert service._process is not None
    pid = service._process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        await until(lambda: "Too many open files" in service.log.read_text())
        await append(home, 2)
        await asyncio.sleep(1)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert await notices(service, there=False) == []
    await home.add("bert", enabled=False)
    async with asyncio.timeout(PATIENCE):
        while {"anna", "bert"} != set(await service.gateways()):
            await asyncio.sleep(0.1)
    await until(lambda: any(each["act"] == "unkept" for each in AuditTrail(home.directory).entries()))
    await until(lambda: (head := AuditTrail(home.directory).verify().head) is not None and recorded(home) == head.hash)
    await cut(home, 1)
    await until(lambda: not is_whole(home))
