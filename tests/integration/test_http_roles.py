"""Who may do what at `http_address`: every route and every role, and what a token that is limited to followers finds out."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.errors import (
    ClientIdsExhaustedError,
    GatewayManagerError,
    LaunchError,
    LoginRefusedError,
    NameTakenError,
    PinnedPortError,
    PortsExhaustedError,
    UserTakenError,
)
from spreadpilot_core.ibkr.http_api.needs import must_declare_needs, needs, needs_of
from spreadpilot_core.ibkr.http_api.routes import ADDRESS_ROUTERS
from spreadpilot_core.ibkr.model.availability import Availability
from spreadpilot_core.ibkr.model.events import FollowersLoaded, GatewayReady, LoginRejected, NoticeGiven, StateChanged
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import HistoryEntry
from spreadpilot_core.ibkr.model.states import State
from support.address import Address
from support.fake_manager import SINCE, a_snapshot
from support.waiting import until

PAGE = Path(__file__).parents[2] / "docs" / "http-api.md"
BEGIN, END = "<!-- roles: written by tests/integration/test_http_roles.py -->", "<!-- until here -->"
WRITE = "WRITE_DOCS"
"""Set in the environment, the table in the page is written anew instead of compared."""
OTHER = "zz-other-bob"
PLANTED = (OTHER, "DU7777777", "4199", "carol")
"""What tells of another follower: its id, its account, its port, and one whose gateway is gone."""
BODIES: dict[str, Any] = {"/session": {"token": "wrong"}}


def routes() -> Iterator[tuple[str, str, APIRoute]]:
    """Every route with its method and path."""
    for router in ADDRESS_ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            for method in sorted(route.methods or ()):
                yield method, route.path_format, route


def path_of(path: str, follower_id: str = "alice") -> str:
    """The path with something in each place."""
    return (
        path.replace("{follower_id}", follower_id)
        .replace("{operation_id}", "none")
        .replace("{lease}", "10000-x")
        .replace("{picture_id}", "none")
    )


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[Address]:
    address = Address(
        tmp_path,
        a_snapshot("alice", accounts=("DU1000001",)),
        a_snapshot(OTHER, accounts=("DU7777777",), container=f"ibgateway-{OTHER}", endpoint="127.0.0.1:4199"),
    )
    async with address.served():
        yield address


async def test_the_table_of_roles_is_what_happens(address: Address) -> None:
    """Each route is asked by each role and by nobody; the page has what came of it, and declares no role that differs."""
    given = {role.value: await address.token(role) for role in Role}
    limited = await address.token("trader", followers=["alice"])
    rows = ["| route | nobody | viewer | trader | operator | trader of another follower |", "|---|---|---|---|---|---|"]
    for method, path, route in routes():
        declared = needs_of(route)
        assert declared is not None
        found = {}
        for who, token in {"nobody": None, **given}.items():
            code = await _asked(address, method, path_of(path), token)
            found[who] = str(code) if code in (401, 403) else "✓"
        expected = {
            who: "✓" if declared.role is None or Role(who).covers(declared.role) else "403" for who in given
        } | {"nobody": "✓" if declared.role is None else "401"}
        if declared.role is None:
            expected = dict.fromkeys(expected, found["nobody"])  # it looks at what is sent, whoever sends it
        assert found == expected, (method, path)
        others = await _asked(address, method, path_of(path, OTHER), limited) if "{follower_id}" in path else None
        assert others in (None, 403, 404), (method, path)
        shown = path.replace("{follower_id:path}", "FOLLOWER").replace("{follower_id}", "FOLLOWER")
        shown = shown.replace("{operation_id}", "ID").replace("{lease}", "LEASE").replace("{picture_id}", "ID")
        cells = [*(found[who] for who in ("nobody", *given)), str(others or "")]
        if declared.role is None:
            cells = ["with a token in its body", *([""] * 4)]
        rows.append(f"| `{method} /v1{shown}` | {' | '.join(cells)} |")
    table = "\n".join(rows)
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    written = f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"
    if WRITE in os.environ:
        PAGE.write_text(written, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == written, f"run this test with {WRITE}=1"


async def _asked(address: Address, method: str, path: str, token: str | None) -> int:
    if path == "/events":
        async with address.http(token) as http, http.stream(method, path) as response:
            return response.status_code
    return (await address.ask(method, path, token, json=BODIES.get(path))).status_code


def test_a_route_that_declares_no_role_is_not_served() -> None:
    """Whoever forgets it finds out at the start, not when somebody uses the route."""
    router = APIRouter()
    router.add_api_route("/fine", lambda: None, dependencies=[needs(Role.VIEWER)])
    must_declare_needs(router)
    router.add_api_route("/open", lambda: None)
    with pytest.raises(RuntimeError, match="/open"):
        must_declare_needs(router)


async def test_a_route_that_is_there_and_one_that_is_not_look_alike_to_nobody(address: Address) -> None:
    """Who has not signed in learns nothing about followers: the same answer, whoever is asked for."""
    answers = [await address.ask("GET", f"/gateways/{each}") for each in ("alice", OTHER, "nobody")]
    assert {each.text for each in answers} == {answers[0].text}
    assert answers[0].status_code == 401
    assert answers[0].headers["www-authenticate"] == "Bearer"


# ---------------------------------------------------------------------------------------------- other followers


def _plant(address: Address) -> None:
    """Everything that may name another follower does."""
    manager = address.manager
    waiting = f"It waits for the login of {OTHER}: the phone of carol is asked for one at a time."
    manager.snapshots["alice"] = a_snapshot(
        "alice",
        State.BACKING_OFF,
        reason=waiting,
        reason_code=ReasonCode.WAITING_FOR_PERMIT,
        facts={"other": OTHER},
        next_action=f"It goes on after {OTHER}.",
        notices=(f"Like {OTHER}, at 127.0.0.1:4199, with DU7777777 in ibgateway-{OTHER}.",),
    )
    manager.notices = (f"The gateways of {OTHER} and carol could not be confirmed gone.",)
    manager.adopted_identities = (OTHER,)
    manager.ready_times = tuple(
        Availability(follower_id=FollowerId(each), month="2026-11") for each in ("alice", OTHER)
    )
    manager.history = [
        HistoryEntry(
            id=f"{number}-x",
            at=SINCE + timedelta(seconds=number),
            follower_id=FollowerId(who) if who else None,
            name="StateChanged",
            reason_code=ReasonCode.WAITING_FOR_PERMIT.value if number % 2 else None,
            sentence=f"{who} after {OTHER}" if number % 2 == 0 else waiting,
        )
        for number, who in enumerate(["alice", OTHER, None, "alice", OTHER, "alice"])
    ][::-1]


def _happen(address: Address) -> None:
    bus = address.manager.bus
    bus.publish(GatewayReady(at=SINCE, follower_id=OTHER, sentence="x", endpoint="x", client_id=1, accounts=()))
    bus.publish(NoticeGiven(at=SINCE, sentence=f"{OTHER} is well."))
    bus.publish(FollowersLoaded(at=SINCE, sentence="2 followers.", usable=2, faulty=0))
    bus.publish(
        StateChanged(
            at=SINCE,
            follower_id="alice",
            reason_code=ReasonCode.USER_LOGGED_IN_ELSEWHERE,
            sentence=f"alice: its user is logged in for {OTHER}.",
            before=State.READY,
            after=State.BACKING_OFF,
            reason=f"For {OTHER}.",
            next_action=f"Stop {OTHER}.",
            facts={"holder": OTHER},
        )
    )
    bus.publish(LoginRejected(at=SINCE, follower_id="alice", sentence=f"Rejected, as {OTHER}'s was."))


ERRORS = [
    LoginRefusedError(f"alice: {OTHER} logs in.", hint=f"Wait for {OTHER} at 4199."),
    LaunchError(f"alice can't be started now: ibgateway-{OTHER} is in the way."),
    PortsExhaustedError(4100, 4200, {4199: OTHER, 4198: "carol"}, 0),
    ClientIdsExhaustedError(1000, 1001, {1000: "carol"}),
    PinnedPortError("alice", 4100, "carol"),
    NameTakenError("carol has it."),
    UserTakenError("user", "the gateway of carol"),
    GatewayManagerError(f"The gateways of {OTHER} could not be confirmed gone."),
]


@pytest.mark.parametrize("role", ["viewer", "trader"])
async def test_a_token_for_one_follower_finds_nothing_of_the_others(address: Address, role: str) -> None:
    """Every route, also as it fails, and the stream of events: no id, account, port or name of another one is in any answer."""
    _plant(address)
    token = await address.token(role, followers=["alice"])
    async with address.http(token) as http:
        for method, path, _ in routes():
            if path != "/events":
                _must_be_free_of_others(await http.request(method, path_of(path), json=BODIES.get(path)))
        for failing in ERRORS:
            calls = {*dir(address.manager), *dir(address.manager.clients)} - {"list_gateways"}
            address.manager.failing = dict.fromkeys(calls, failing)
            for method, path, _ in routes():
                if path not in ("/events", "/session", "/manager/detach"):
                    _must_be_free_of_others(await http.request(method, path_of(path)))
    address.manager.failing = {}
    assert (await address.ask("GET", "/gateways", token)).json()[0]["follower_id"] == "alice"
    assert len((await address.ask("GET", "/gateways", token)).json()) == 1
    assert [each["follower_id"] for each in (await address.ask("GET", "/availability", token)).json()] == ["alice"]
    # a token for all of them finds what was planted, so that the above proves something
    seen = await address.ask("GET", "/gateways", await address.token("viewer"))
    assert OTHER in seen.text


def _must_be_free_of_others(answer: httpx.Response) -> None:
    if answer.request.url.path.endswith("/openapi.json"):
        return  # the same for everybody
    said = f"{answer.text} {answer.headers}"
    assert not [word for word in PLANTED if word in said], f"{answer.request.method} {answer.request.url}: {said}"


async def test_another_ones_name_is_a_name_that_nobody_has(address: Address) -> None:
    """What exists and is not the token's is answered word for word as what does not exist."""
    token = await address.token("trader", followers=["alice"])
    for method, path in (
        ("GET", "/gateways/{}"),
        ("POST", "/gateways/{}/reconnect"),
        ("GET", "/history?follower_id={}"),
    ):
        theirs = await address.ask(method, path.format(OTHER), token)
        nobodys = await address.ask(method, path.format("zz-other-bot"), token)
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.text.replace(OTHER, "X") == nobodys.text.replace("zz-other-bot", "X")
    assert not [call for call in address.manager.calls if call[0] == "reconnect"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_the_stream_of_events_is_about_the_tokens_followers(address: Address, accept: str) -> None:
    """Others' events, and those of the whole manager, are left out, and sentences name nobody else."""
    _plant(address)
    token = await address.token("trader", followers=["alice"])
    async with address.http(token) as http, http.stream("GET", "/events", headers={"Accept": accept}) as response:
        lines = response.aiter_lines()
        reading = asyncio.ensure_future(_read_until(lines, "LoginRejected"))
        await until(lambda: ("events",) in address.manager.calls)
        _happen(address)
        said = await asyncio.wait_for(reading, 60)
    assert not [word for word in PLANTED if word in said], said
    assert "StateChanged" in said
    assert "FollowersLoaded" not in said
    assert "NoticeGiven" not in said


async def _read_until(lines: AsyncIterator[str], word: str) -> str:
    said = ""
    async for line in lines:
        said += f"{line}\n"
        if word in line and "sentence" in line:
            return said
    return said


async def test_the_history_of_a_few_followers_is_theirs_in_pages(address: Address) -> None:
    """Merged, newest first, whole over all pages, and nothing of the others or of the whole manager."""
    _plant(address)
    token = await address.token("viewer", followers=["alice", "absent"])
    shown: list[str] = []
    older: str | None = None
    while True:
        query = {"limit": 2} | ({"before": older} if older is not None else {})
        page = await address.ask("GET", "/history", token, params=query)
        _must_be_free_of_others(page)
        shown += [each["id"] for each in page.json()["entries"]]
        if (older := page.json()["older"]) is None:
            break
    assert shown == ["5-x", "3-x", "0-x"]


async def test_who_knows_all_followers_sees_sentences_as_they_are(address: Address) -> None:
    """Nothing is taken out for an operator, or for a viewer of the whole fleet."""
    _plant(address)
    for role in ("viewer", "operator"):
        shown = (await address.ask("GET", "/gateways/alice", await address.token(role))).json()
        assert json.dumps(shown) == address.manager.snapshots["alice"].model_dump_json() or OTHER in shown["reason"]
        answer = await address.ask("GET", "/manager", await address.token(role))
        manager = answer.json()
        assert answer.status_code == 200, manager
        assert manager["notices"] == list(address.manager.notices)
