"""What its own OpenAPI says may be sent to the control socket of a real manager, and what it says must not be.

Requests are made by schemathesis, in both kinds, and go over the Unix socket of the installed command. Whatever comes: an answer as
it is described, no defect of the manager's, no growth, and a gateway beside it that stays as it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.generation.case import Case

from spreadpilot_core.ibkr.http_api.address import SOCKET
from support.command import Begun, Command
from support.fuzzing import for_a_while, fuzzed, some
from support.home import Home
from support.waiting import wait_until

NOT_ASKED = {"/v1/manager/detach", "/v1/events"}
"""The one ends the manager, the other never ends: both have tests of their own."""
NEIGHBOUR = "anna"
IDLE = "idle"
"""A follower who is disabled: commands reach it, and may not start it."""
AWAY = 503
_GROWTH_MIB = 60


class Manager:
    """The installed command with one gateway, and a client of its socket."""

    def __init__(self, home: Home, serving: Begun, http: httpx.Client) -> None:
        self._home = home
        self._serving = serving
        self.http = http
        self._before = self._neighbour()
        self._size = self._resident()

    def _neighbour(self) -> dict[str, Any]:
        shown = self.http.get(f"/v1/gateways/{NEIGHBOUR}").json()
        return {name: shown[name] for name in ("state", "container", "endpoint", "client_id")}

    def _resident(self) -> int:
        status = Path(f"/proc/{self._serving.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) // 1024

    def is_well(self) -> None:
        """The neighbour is as it was, nothing has piled up, and no defect was told."""
        assert self._neighbour() == self._before
        assert self._resident() - self._size < _GROWTH_MIB
        said = self._serving.stderr
        assert "Traceback" not in said
        assert '"level": "error"' not in said


@pytest.fixture
def manager() -> Iterator[Manager]:
    home = Home()
    asyncio.run(home.add(NEIGHBOUR))
    command = Command(home)
    command("followers", "add", IDLE, "--vault-secret-ref", "ibkr/idle", "--disabled")
    transport = httpx.HTTPTransport(uds=str(home.directory / SOCKET))
    with (
        command.begun("run") as serving,
        httpx.Client(transport=transport, base_url="http://manager", timeout=60) as http,
    ):
        serving.says("manager started")
        wait_until(lambda: http.get(f"/v1/gateways/{NEIGHBOUR}").json().get("state") == "ready")
        yield Manager(home, serving, http)
    asyncio.run(home.end())


def requests_of(manager: Manager) -> st.SearchStrategy[Case]:
    """By the description that the manager gives of itself."""
    schema = schemathesis.openapi.from_dict(manager.http.get("/v1/openapi.json").json())
    schema.config.update(base_url="http://manager")
    load_all_checks()
    operations = [each.ok() for each in schema.get_all_operations()]
    asked = [each for each in operations if each.path not in NOT_ASKED]
    assert len(operations) - len(asked) == len(NOT_ASKED)
    return st.one_of(
        each.as_strategy(generation_mode=mode)
        for each in asked
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    )


@fuzzed
def test_every_request_has_an_answer_as_it_is_described(manager: Manager, seconds: float) -> None:
    """Those that fit the description and those that don't, to gateways that are there and to names that are not."""

    @some
    @given(requests_of(manager), st.booleans())
    def answered(case: Case, reaches: bool) -> None:
        if reaches and "follower_id" in case.path_parameters:
            case.path_parameters["follower_id"] = IDLE
        if case.path_parameters.get("follower_id") == NEIGHBOUR:
            return
        asked = case.as_transport_kwargs(base_url="http://manager")
        request = {name: asked[name] for name in ("params", "headers", "json", "data") if asked.get(name) is not None}
        if "data" in request:
            request["content"] = request.pop("data")
        response = manager.http.request(asked["method"], asked["url"], **request)
        case.validate_response(response, excluded_checks=[not_a_server_error])
        assert response.status_code < 500 or response.status_code == AWAY, response.text
        if response.is_error:
            assert json.loads(response.content)["sentence"]

    for_a_while(seconds, answered)
    manager.is_well()
