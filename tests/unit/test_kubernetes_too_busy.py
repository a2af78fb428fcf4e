"""An API server that is too busy (429), by script, over a real connection: it is asked again, and that is said; nothing is given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.naming import FOLLOWED, GATEWAY, ROLE, Naming
from spreadpilot_core.ibkr.kubernetes.pod_watch import PodWatch
from spreadpilot_core.ibkr.kubernetes.streams import PodChanges
from spreadpilot_core.ibkr.model.records import Identities
from support.scripted_kubernetes import answered_by

POD: dict[str, Any] = {"metadata": {"name": "alice", "uid": "u-1", "resourceVersion": "1", "labels": {ROLE: GATEWAY}}}
STATUS = {"kind": "Status", "message": "Too many requests, please try again later.", "reason": "TooManyRequests"}


class BusyServer:
    """Answers what it is told; how often it is too busy, of lists and of watches, is counted down."""

    def __init__(self) -> None:
        self.refuses = 0
        self.refuses_watches = 0
        self.asked = 0
        self.watched = 0
        self.pause = "0"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        if request.path == "/version":
            return web.json_response({"gitVersion": "v1"})
        if "watch" in request.query:
            return await self._watch(request)
        self.asked += 1
        if self.refuses:
            self.refuses -= 1
            return self._too_busy()
        return web.json_response(POD if request.path.endswith("/alice") else {**POD, "items": []})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watched += 1
        if self.refuses_watches:
            self.refuses_watches -= 1
            return self._too_busy()
        response = web.StreamResponse()
        await response.prepare(request)
        changed = {**POD, "metadata": {**POD["metadata"], "resourceVersion": "2"}}
        await response.write(json.dumps({"type": "MODIFIED", "object": changed}).encode() + b"\n")
        await asyncio.sleep(3600)
        return response

    def _too_busy(self) -> web.Response:
        return web.json_response(STATUS, status=429, headers={"Retry-After": self.pause})


@pytest.fixture(name="server")
def server_fixture() -> BusyServer:
    """One that is not busy yet."""
    return BusyServer()


@pytest.fixture(name="api")
async def api_fixture(server: BusyServer, tmp_path: Path) -> AsyncIterator[Api]:
    """A client of it."""
    async with answered_by(server.answer, tmp_path) as api:
        yield api


async def test_a_request_waits_as_long_as_it_is_told_and_is_asked_again(server: BusyServer, api: Api) -> None:
    """Whoever asked hears nothing of it."""
    server.refuses = 3
    assert (await api.ask("list pods", api.place("pods")))["items"] == []
    assert server.asked == 4


async def test_one_that_stays_too_busy_is_told_in_its_own_words(server: BusyServer, api: Api) -> None:
    """As something that passes by itself: whoever asked asks again."""
    server.refuses, server.pause = 1000, "5"
    with pytest.raises(RuntimeUnavailableError, match=r"too busy to list pods \(429\): Too many requests") as told:
        await api.ask("list pods", api.place("pods"), seconds=3.0)
    assert "asked again" in str(told.value)
    assert server.asked == 1


async def test_a_launch_that_follows_its_pod_goes_on_following_it(server: BusyServer, api: Api) -> None:
    """A watch that is refused for now is no reason to give up the pod."""
    server.refuses_watches = 2
    watch = PodWatch(api, FOLLOWED)
    with watch.follow("alice") as followed:
        async with asyncio.timeout(30), aclosing(followed.states(POD)) as states:
            async for seen in states:
                assert seen is not None
                if seen["metadata"]["resourceVersion"] == "2":
                    break
    await watch.close()
    assert server.watched == 3


async def test_the_watch_of_all_pods_comes_back(server: BusyServer, api: Api) -> None:
    """None for the break, so that whoever lists is told why, and None for the return."""
    server.refuses_watches = 2
    watch = PodWatch(api, FOLLOWED)
    changes = PodChanges(watch, Naming("fleet", Identities("own"))).follow()
    async with asyncio.timeout(30):
        assert [await anext(changes), await anext(changes)] == [None, None]
    await watch.close()
    assert server.watched == 3
