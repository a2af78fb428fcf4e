"""A manager that loses its lease while it connects to the API server: it sends nothing that changes anything."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from spreadpilot_core.ibkr.errors import LeadershipLostError
from spreadpilot_core.ibkr.kubernetes.api import Api
from support.scripted_kubernetes import answered_by


class Manager:
    """Its lease, and what the API server got of it."""

    def __init__(self, *, keeps_connections: bool) -> None:
        self.keeps_connections = keeps_connections
        self.is_leader = False
        self.connections = 0
        self.got: list[str] = []

    def must_act(self) -> None:
        """What a runtime's guard asks."""
        if not self.is_leader:
            raise LeadershipLostError

    def connecting(self) -> None:
        """From the second connection on the lease is lost while it is made."""
        self.connections += 1
        self.is_leader = self.connections == 1

    async def answer(self, request: web.Request) -> web.Response:
        """Everything is fine."""
        self.got.append(request.method)
        response = web.json_response({"gitVersion": "v1"})
        if not self.keeps_connections:
            response.force_close()
        return response


async def create(api: Api) -> object:
    """A pod."""
    return await api.create("create a pod", api.place("pods"), {"metadata": {"name": "alice"}})


async def change(api: Api) -> object:
    """A pod."""
    return await api.patch("change a pod", api.place("pods", "alice"), {"metadata": {"uid": "u-1"}})


async def remove(api: Api) -> object:
    """A pod."""
    return await api.delete("remove a pod", api.place("pods", "alice"), uid="u-1")


CHANGES = pytest.mark.parametrize("do", [create, change, remove])


@CHANGES
async def test_a_lease_that_is_lost_while_it_connects(tmp_path: Path, do: Callable[[Api], Awaitable[object]]) -> None:
    """A process can be frozen in there for longer than its lease lasts."""
    manager = Manager(keeps_connections=False)
    async with answered_by(manager.answer, tmp_path, connecting=manager.connecting) as api:
        api.guard = manager.must_act
        with pytest.raises(LeadershipLostError):
            await do(api)
    assert (manager.connections, manager.got) == (2, ["GET"])
    gc.collect()  # a connection that was left open would be told now


@CHANGES
async def test_a_lease_that_was_lost_before(tmp_path: Path, do: Callable[[Api], Awaitable[object]]) -> None:
    """On a connection that is there already; what only looks is asked all the same."""
    manager = Manager(keeps_connections=True)
    async with answered_by(manager.answer, tmp_path, connecting=manager.connecting) as api:
        api.guard = manager.must_act
        await do(api)
        manager.is_leader = False
        with pytest.raises(LeadershipLostError):
            await do(api)
        await api.ask("list pods", api.place("pods"))
    assert manager.got[:1] + manager.got[2:] == ["GET", "GET"]
