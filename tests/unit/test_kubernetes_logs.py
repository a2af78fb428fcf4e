"""A pod's log that breaks and comes back, by script, over a real connection: each line is told once, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER
from spreadpilot_core.ibkr.kubernetes.streams import log_lines
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from support.scripted_kubernetes import answered_by

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
FLOOD = 10_000
"""Lines; more than are remembered one by one."""


def stamped(seconds: float, text: str, zone: tzinfo = UTC) -> bytes:
    """A line as a kubelet tells it."""
    at = (NOON + timedelta(seconds=seconds)).astimezone(zone)
    offset = "Z" if zone is UTC else at.isoformat()[-6:]
    return f"{at:%Y-%m-%dT%H:%M:%S.%f}000{offset} {text}\n".encode()


class LogServer:
    """One pod whose node tells its log: of each request the lines from `sinceTime` on, up to where the connection is cut."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.cuts: list[int] = []
        """After how many bytes each connection ends, as where a node's went; the next one is whole, and the pod has ended then."""
        self.since: list[str | None] = []
        self.asked: list[str] = []
        self.pod: dict[str, Any] = {"metadata": {"name": "alice", "uid": "u-1", "resourceVersion": "1"}, "status": {}}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        if request.path == "/version":
            return web.json_response({"gitVersion": "v1"})
        self.asked.append(request.path.rpartition("/")[2])
        if not request.path.endswith("/log"):
            status = {"containerStatuses": [{"name": CONTAINER, "state": {} if self.cuts else {"terminated": {}}}]}
            return web.json_response({**self.pod, "status": status, "items": []})
        since = request.query.get("sinceTime")
        self.since.append(since)
        begin = datetime.fromisoformat(since) if since else NOON - timedelta(days=1)
        shown = [each for each in self.lines if datetime.fromisoformat(each.split()[0].decode()) >= begin]
        return await self._stream(request, shown, self.cuts.pop(0) if self.cuts else None)

    async def _stream(self, request: web.Request, lines: Sequence[bytes], cut: int | None) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"".join(lines)[:cut])
        return response


@pytest.fixture(name="server")
def server_fixture() -> LogServer:
    """Of a pod that has printed nothing."""
    return LogServer()


@pytest.fixture(name="api")
async def api_fixture(server: LogServer, tmp_path: Path) -> AsyncIterator[Api]:
    """A client of it."""
    async with answered_by(server.answer, tmp_path) as api:
        yield api


async def told(api: Api, phase: GatewayPhase = GatewayPhase.RUNNING) -> list[str]:
    """All lines until the pod has ended; so it was found last."""
    gateway: Any = SimpleNamespace(container_id="u-1", follower_id="alice", phase=phase)
    async with asyncio.timeout(60):
        return [line async for line in log_lines(api, "alice", gateway)]


async def test_a_log_that_comes_back_tells_each_line_once(server: LogServer, api: Api) -> None:
    """It goes on shortly before its last line, whatever the node's clock is set to."""
    for zone in (UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))):
        server.lines = [stamped(number, f"line {number}", zone) for number in range(100)]
        server.cuts, server.since = [len(b"".join(server.lines[:60]))], []
        assert await told(api) == [f"line {number}" for number in range(100)]
        assert server.since == [None, "2026-11-24T12:00:58Z"]


async def test_a_flood_is_not_told_again(server: LogServer, api: Api) -> None:
    """Of ten thousand lines of one second, all of which come again."""
    server.lines = [stamped(number / FLOOD, f"line {number}") for number in range(FLOOD)]
    server.lines += [stamped(2, "the last")]
    server.cuts = [len(b"".join(server.lines[:FLOOD]))]
    assert await told(api) == [*(f"line {number}" for number in range(FLOOD)), "the last"]


async def test_what_the_other_channel_says_late_is_told(server: LogServer, api: Api) -> None:
    """Two channels are stamped apart, and stand in the log in another order than their stamps say."""
    server.lines = [stamped(0, "one"), stamped(1.01, "two"), stamped(0.99, "late"), stamped(1.02, "three")]
    server.cuts = [len(b"".join(server.lines[:2]))]
    assert await told(api) == ["one", "two", "late", "three"]


async def test_a_line_that_was_cut_in_two_is_told_once(server: LogServer, api: Api) -> None:
    """Whole; the last one of a pod that has ended is told even where its node ends it with nothing."""
    server.lines = [stamped(0, "one"), stamped(1, "login completed"), stamped(2, "the end").rstrip()]
    server.cuts = [len(b"".join(server.lines[:2])) - 5]
    assert await told(api) == ["one", "login completed", "the end"]


async def test_a_line_of_any_length_ends_no_log(server: LogServer, api: Api) -> None:
    """Its beginning is told."""
    server.lines = [stamped(0, "one"), stamped(1, "x" * 9_000_000), stamped(2, "three")]
    one, long, three = await told(api)
    assert (one, three) == ("one", "three")
    assert long.startswith("xxx")
    assert 1000 < len(long) < 100_000


async def test_a_gateway_that_was_found_to_run_is_read_at_once(server: LogServer, api: Api) -> None:
    """Twenty that start at once are not asked for once more; whether it has ended is asked when its log ends."""
    server.lines, server.cuts = [stamped(0, "one"), stamped(1, "two")], [len(stamped(0, "one"))]
    assert await told(api) == ["one", "two"]
    assert server.asked == ["log", "alice", "log"]
    server.asked.clear()
    assert await told(api, GatewayPhase.EXITED) == ["one", "two"]
    assert server.asked == ["alice", "log"]


async def test_a_log_ends_where_the_name_is_another_pods(server: LogServer, api: Api) -> None:
    """What that one prints says nothing of the first."""
    server.pod["metadata"]["uid"] = "u-2"
    server.lines = [stamped(0, "one")]
    assert await told(api, GatewayPhase.EXITED) == []
