"""Tokens and sessions at `http_address`: who is let in, for how long, what a browser can be made to do, and what is written down."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from spreadpilot_core.ibkr.access import sessions, tokens
from spreadpilot_core.ibkr.access.attempts import WRONG_AT_ONCE
from spreadpilot_core.ibkr.errors import AuditError, SettingsError, StoreUnavailableError
from spreadpilot_core.ibkr.http_api.routes import events
from spreadpilot_core.ibkr.model.events import LoginRejected
from spreadpilot_core.ibkr.service.client import ControlClient, RefusedByManagerError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import utc_now
from support.address import Address
from support.fake_manager import SINCE, a_snapshot
from support.waiting import until


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[Address]:
    address = Address(tmp_path)
    async with address.served():
        yield address


# ---------------------------------------------------------------------------------------------- tokens


async def test_a_token_is_kept_as_its_digest(address: Address) -> None:
    """Nothing that is stored lets anybody in."""
    token = await address.token("viewer", name="watcher")
    (document,) = (await address.shared.all(tokens.KIND)).values()
    assert token not in json.dumps(document)
    assert document["digest"] == tokens.digest(token)
    assert (await address.ask("GET", "/gateways", document["digest"])).status_code == 401


@pytest.mark.parametrize(
    "shown", ["Bearer", "Basic {}", "{}", "Bearer {} x", "Bearer x{}", "bearer gm_ü", "Bearer " + "x" * 9000]
)
async def test_what_is_no_token_lets_nobody_in(address: Address, shown: str) -> None:
    """Neither another scheme, nor half a token, nor a very long one."""
    token = await address.token("operator")
    headers = {"Authorization": shown.format(token).encode("utf-8")}
    assert (await address.ask("GET", "/gateways", headers=headers)).status_code == 401


async def test_a_token_ends(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it expires, and soon after it is revoked; so does a stream that it has open."""
    monkeypatch.setattr(tokens, "FRESH", 0.05)
    monkeypatch.setattr(events, "CHECK_EVERY", 0.05)
    short = await address.token("viewer", expires_at=utc_now() + timedelta(seconds=1))
    revoked = await address.token("viewer", name="revoked")
    assert (await address.ask("GET", "/gateways", short)).status_code == 200
    async with address.http(revoked) as http, http.stream("GET", "/events") as stream:
        assert stream.status_code == 200
        await until(lambda: ("events",) in address.manager.calls)
        await tokens.revoke(address.shared, "revoked")
        async with asyncio.timeout(60):
            assert [line async for line in stream.aiter_lines()] == []
    assert (await address.ask("GET", "/gateways", revoked)).status_code == 401
    async with asyncio.timeout(60):
        while (await address.ask("GET", "/gateways", short)).status_code != 401:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"name": ""},
        {"name": "x" * 65},
        {"followers": ["alice"], "role": "operator"},
        {"followers": []},
        {"expires_at": utc_now()},
    ],
)
async def test_what_can_be_no_token_is_not_made(address: Address, wrong: dict[str, Any]) -> None:
    """Nothing is kept of it."""
    with pytest.raises(tokens.TokenError):
        await address.token(**{"role": "viewer", "name": "x", **wrong})
    assert dict(await address.shared.all(tokens.KIND)) == {}


async def test_what_somebody_has_spoilt_lets_nobody_in(address: Address) -> None:
    """A document that is no token is nobody's, and spoils no other."""
    good = await address.token("viewer", name="good")
    for number, wrong in enumerate(
        (
            {},
            {"role": "king"},
            {"role": "operator", "digest": tokens.digest("x"), "followers": None, "expires_at": None},
        )
    ):
        await address.shared.put(tokens.KIND, f"spoilt-{number}", wrong)
    assert (await address.ask("GET", "/gateways", "x")).status_code == 401
    assert (await address.ask("GET", "/gateways", good)).status_code == 200


async def test_the_store_may_be_away_for_a_while(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known tokens stay valid, nobody else is let in, and after too long nobody is."""
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    token = await address.token("viewer")
    assert (await address.ask("GET", "/gateways", token)).status_code == 200

    async def away(*_: Any) -> Any:
        raise StoreUnavailableError("MongoDB is away.")

    monkeypatch.setattr(address.shared, "all", away)
    assert (await address.ask("GET", "/gateways", token)).status_code == 200
    assert (await address.ask("GET", "/gateways", "gm_other")).status_code == 401
    monkeypatch.setattr(tokens, "OFFLINE", 0.0)
    refused = await address.ask("GET", "/gateways", token)
    assert (refused.status_code, refused.json()["error"]) == (503, "StoreUnavailableError")


async def test_wrong_tokens_are_slowed_down_and_reported(address: Address) -> None:
    """Each answer takes longer, then there are none for a while; trail and notice say where they come from; others are let in."""
    good = await address.token("viewer")
    async with address.http("gm_wrong") as http:
        answers = await asyncio.gather(*(http.get("/gateways") for _ in range(WRONG_AT_ONCE + 5)))
    codes = [each.status_code for each in answers]
    assert set(codes) == {401, 429}, {each.text for each in answers}
    assert codes.count(401) == WRONG_AT_ONCE
    assert all(int(each.headers["retry-after"]) >= 1 for each in answers if each.status_code == 429)
    lines = [each for each in address.audited.lines if each["act"] == "wrong-token"]
    assert lines == [
        {
            "act": "wrong-token",
            "who": None,
            "outcome": "refused",
            "detail": "1 request with a wrong token, from 127.0.0.1",
        }
    ]
    assert "127.0.0.1" in str(address.notices["http_address"])
    assert (await address.ask("GET", "/gateways", good)).status_code == 200


async def test_every_act_of_a_token_is_audited_before_it_is_done(address: Address) -> None:
    """Under its name, with where it comes from and what was asked; what can't be written down is not done."""
    token = await address.token("trader", name="bot")
    await address.ask("GET", "/gateways", token)
    assert address.audited.lines == []
    assert (await address.ask("POST", "/gateways/alice/reconnect", token)).status_code == 200
    assert (await address.ask("POST", "/gateways/alice/stop", token)).status_code == 403
    assert address.audited.lines == [
        {
            "act": "request",
            "who": "token bot, from 127.0.0.1",
            "follower": "alice",
            "detail": "POST /v1/gateways/alice/reconnect",
        }
    ]
    address.audited.failing = AuditError("The trail can't be written.")
    before = list(address.manager.calls)
    assert (await address.ask("POST", "/gateways/alice/reconnect", token)).status_code == 503
    assert address.manager.calls == before


# ---------------------------------------------------------------------------------------------- sessions


async def _signed_in(address: Address, http: httpx.AsyncClient, role: str = "operator", **rest: Any) -> dict[str, Any]:
    answer = await http.post("/session", json={"token": await address.token(role, **rest)})
    assert answer.status_code == 201, answer.text
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {each.strip() for each in cookie.split(";")}
    view = answer.json()
    assert isinstance(view, dict)
    return view


async def test_a_browser_signs_in_and_out(address: Address) -> None:
    """The cookie is let in until the session ends, knows what its token knows, and is kept as a digest."""
    async with address.http() as http:
        view = await _signed_in(address, http, "viewer", name="me", followers=["alice"])
        assert (view["name"], view["role"], view["followers"]) == ("me", "viewer", ["alice"])
        assert [each["follower_id"] for each in (await http.get("/gateways")).json()] == ["alice"]
        assert (await http.get("/session")).json() == view
        cookie = http.cookies["session"]
        assert cookie not in json.dumps(dict(await address.shared.all(sessions.KIND)))
        out = await http.delete("/session", headers={"X-CSRF-Token": view["csrf_token"]})
        assert out.status_code == 204
        assert (await http.get("/gateways")).status_code == 401
        assert (await http.get("/gateways", headers={"Cookie": f"session={cookie}"})).status_code == 401
    assert [each["act"] for each in address.audited.lines] == ["sign-in", "request"]


async def test_a_session_ends_with_its_token(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoked token takes its sessions along, also where another token has its name afterwards."""
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    async with address.http() as http:
        await _signed_in(address, http, name="me")
        await tokens.revoke(address.shared, "me")
        await address.token("operator", name="me")
        assert (await http.get("/gateways")).status_code == 401


async def test_sessions_of_one_token_are_counted(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes for the next, and those that are over leave nothing behind."""
    monkeypatch.setattr(sessions, "MOST_OF_A_TOKEN", 3)
    token = await address.token("viewer")
    clients = []
    for _ in range(5):
        async with address.http() as http:
            assert (await http.post("/session", json={"token": token})).status_code == 201
            clients.append(http.cookies["session"])
    assert len(await address.shared.all(sessions.KIND)) == 3
    codes = [
        (await address.ask("GET", "/session", headers={"Cookie": f"session={each}"})).status_code for each in clients
    ]
    assert codes == [401, 401, 200, 200, 200]


OWN = "http://127.0.0.1:{}"


@pytest.mark.parametrize(
    ("headers", "form", "code"),
    [
        ({}, False, 403),
        ({"X-CSRF-Token": "wrong"}, False, 403),
        ({"X-CSRF-Token": "{csrf}"}, False, 200),
        ({"X-CSRF-Token": "{csrf}", "Origin": OWN}, False, 200),
        ({"X-CSRF-Token": "{csrf}", "Origin": "http://evil.example"}, False, 403),
        ({"X-CSRF-Token": "{csrf}", "Origin": "null"}, False, 403),
        ({"X-CSRF-Token": "{csrf}", "Sec-Fetch-Site": "cross-site"}, False, 403),
        ({"X-CSRF-Token": "{csrf}", "Sec-Fetch-Site": "same-site"}, False, 403),
        ({"Origin": OWN, "Sec-Fetch-Site": "same-origin"}, True, 200),
        ({"Origin": "http://evil.example"}, True, 403),
    ],
)
async def test_no_other_page_can_use_a_session(
    address: Address, headers: dict[str, str], form: bool, code: int
) -> None:
    """A cookie alone does nothing: a request brings the CSRF token, in a header or a form's field, and comes from our own page."""
    async with address.http() as http:
        view = await _signed_in(address, http)
        filled = {
            name: value.replace("{csrf}", view["csrf_token"]).replace("{}", str(address.port))
            for name, value in headers.items()
        }
        body = {"data": {"csrf_token": view["csrf_token"]}} if form else {}
        answer = await http.post("/gateways/alice/reconnect", headers=filled, **body)
    assert answer.status_code == code, answer.text
    assert (("reconnect", "alice") in address.manager.calls) is (code == 200)


async def test_another_page_can_not_sign_a_browser_in(address: Address) -> None:
    """As somebody else, who then reads what is done there."""
    token = await address.token("viewer")
    answer = await address.ask("POST", "/session", json={"token": token}, headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_by_a_proxy_the_cookie_is_for_https_alone(tmp_path: Path) -> None:
    """And the peer is the one that the proxy saw, not one that a caller makes up."""
    address = Address(tmp_path, http_behind_proxy=True, http_allowed_hosts=["gateways.example"])
    async with address.served(), address.http() as http:
        token = await address.token("operator", name="me")
        asked = {
            "Host": "gateways.example",
            "Origin": "https://gateways.example",
            "X-Forwarded-For": "6.6.6.6, 10.0.0.9",
        }
        answer = await http.post("/session", json={"token": token}, headers=asked)
        assert answer.status_code == 201
        assert answer.headers["set-cookie"].startswith("__Host-session=")
        assert "Secure" in answer.headers["set-cookie"]
    assert address.audited.lines[0]["who"] == "token me, from 10.0.0.9"


# ---------------------------------------------------------------------------------------------- where


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:{}", 200),
        ("localhost:{}", 200),
        ("LOCALHOST.", 200),
        ("[::1]:{}", 200),
        ("gateways.example", 200),
        ("gateways.example:{}", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:{}", 421),
        ("gateways.example.evil.example", 421),
        ("", 421),
        ("gateways.example@evil.example", 421),
    ],
)
async def test_the_host_must_be_one_of_ours(tmp_path: Path, host: str, code: int) -> None:
    """A page of another site can have its own name point to loopback; nothing is answered by that name."""
    address = Address(tmp_path, http_allowed_hosts=["Gateways.example"])
    async with address.served():
        token = await address.token("viewer")
        answer = await address.ask("GET", "/gateways", token, headers={"Host": host.format(address.port)})
    assert answer.status_code == code
    if code != 200:
        assert set(answer.json()) == {"error", "sentence", "hint"}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"http_address": "0.0.0.0:8443"}, "http_cert_file"),
        ({"http_address": "gateways.example:8443"}, "http_behind_proxy"),
        ({"http_address": "[::]:8443"}, "http_cert_file"),
        ({"http_address": "8443", "http_cert_file": "/c.pem"}, "http_key_file"),
        ({"http_allowed_hosts": ["a b"]}, "http_allowed_hosts"),
        ({"http_url": "gateways.example"}, "http_url"),
    ],
)
def test_an_address_that_others_reach_needs_tls(tmp_path: Path, settings: dict[str, Any], wanted: str) -> None:
    """One sentence that names what is missing, before anything starts."""
    with pytest.raises(SettingsError, match=wanted):
        Settings.read(state_dir=tmp_path, **settings)


@pytest.mark.parametrize("where", ["127.0.0.1:8443", "8443", "localhost:8443", "[::1]:8443", "127.9.9.9:8443"])
def test_loopback_needs_none(tmp_path: Path, where: str) -> None:
    """Nor does what a proxy stands before."""
    Settings.read(state_dir=tmp_path, http_address=where)
    Settings.read(state_dir=tmp_path, http_address="0.0.0.0:8443", http_behind_proxy=True)


# ---------------------------------------------------------------------------------------------- answers


async def test_every_answer_tells_browsers_what_they_may_not_do(address: Address) -> None:
    """Also a refusal; no answer says which program, or which version, it is, and no other site may read it."""
    token = await address.token("viewer")
    for path, shown in (("/gateways", token), ("/gateways", None), ("/nothing", token), ("/gateways?limit=0", token)):
        headers = (await address.ask("GET", path, shown, headers={"Origin": "http://evil.example"})).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control") or name == "server"]


async def test_a_defect_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither what failed nor in which version."""
    address = Address(tmp_path)
    async with address.served():
        address.manager.failing["list_gateways"] = RuntimeError("details")
        answer = await address.ask("GET", "/gateways", await address.token("viewer"))
    assert (answer.status_code, answer.json()["error"]) == (500, "InternalError")
    assert "details" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    capfd.readouterr()


async def test_what_takes_long_goes_on_and_is_fetched_later(address: Address) -> None:
    """202 with the snapshot and where; the same answer is there when it is done, for who asked and for operators alone."""
    one, other = await address.token("trader"), await address.token("trader")
    operator = await address.token("operator")
    goes_on = asyncio.Event()

    async def slowly(_: str) -> bool:
        await goes_on.wait()
        return True

    address.manager.reconnect = slowly  # type: ignore[method-assign]
    begun = await address.ask("POST", "/gateways/alice/reconnect?wait=0", one)
    assert begun.status_code == 202
    assert begun.json()["gateway"]["follower_id"] == "alice"
    where = begun.headers["location"].removeprefix("/v1")
    assert where == f"/operations/{begun.json()['operation']}"
    assert (await address.ask("GET", f"{where}?wait=0", one)).status_code == 202
    assert (await address.ask("GET", f"{where}?wait=0", other)).status_code == 404
    goes_on.set()
    for token in (one, operator):
        done = await address.ask("GET", f"{where}?wait=60", token)
        assert (done.status_code, done.json()["reconnected"]) == (200, True)


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("POST", "/gateways/alice/clients?wait=60", "lease"),
        ("PUT", "/gateways/alice/clients/10000-x?wait=60", "renew"),
        ("GET", "/endpoints/alice?wait=60", "endpoint"),
        ("POST", "/gateways/alice/reconnect?wait=60", "reconnect"),
    ],
)
async def test_who_is_revoked_while_it_waits_gets_nothing(
    address: Address, monkeypatch: pytest.MonkeyPatch, method: str, path: str, call: str
) -> None:
    """The gateway is ready a minute later, and the token no token any more: no client id, no endpoint, no answer."""
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    token = await address.token("trader", name="leaving", followers=["alice"])
    waits, goes_on = asyncio.Event(), asyncio.Event()
    holder = address.manager if call == "reconnect" else address.manager.clients
    at_once = getattr(holder, call)

    async def slowly(*arguments: Any, **options: Any) -> Any:
        waits.set()
        await goes_on.wait()
        return await at_once(*arguments, **options)

    monkeypatch.setattr(holder, call, slowly)
    asking = asyncio.ensure_future(address.ask(method, path, token))
    await waits.wait()
    await tokens.revoke(address.shared, "leaving")
    goes_on.set()
    answer = await asking
    assert (answer.status_code, answer.json()["error"]) == (401, "NotSignedInError")
    assert (("give_back", "alice") in address.manager.calls) == (call == "lease")


async def test_a_program_that_asks_without_end_leaves_room_for_others(address: Address) -> None:
    """What it has begun about its gateway and has not ended is counted, so that an operator's stop is always heard."""
    one, other = await address.token("trader", followers=["alice"]), await address.token("operator")
    goes_on = asyncio.Event()

    async def slowly(_: str) -> bool:
        await goes_on.wait()
        return True

    address.manager.reconnect = slowly  # type: ignore[method-assign]
    async with address.http(one) as http:
        codes = [(await http.post("/gateways/alice/reconnect?wait=0")).status_code for _ in range(25)]
    assert codes == [202] * 20 + [503] * 5
    assert (await address.ask("POST", "/gateways/alice/stop?wait=60", other)).status_code == 200
    goes_on.set()


async def test_a_name_that_is_used_again_finds_nothing_of_its_forerunner(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another token of the same name, for another follower, is somebody else."""
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    first = await address.token("trader", name="bot", followers=["alice"])
    goes_on = asyncio.Event()

    async def slowly(_: str) -> bool:
        await goes_on.wait()
        return True

    address.manager.reconnect = slowly  # type: ignore[method-assign]
    begun = await address.ask("POST", "/gateways/alice/reconnect?wait=0", first)
    operation = begun.json()["operation"]
    goes_on.set()
    await tokens.revoke(address.shared, "bot")
    second = await address.token("trader", name="bot", followers=["bob"])
    assert (await address.ask("GET", f"/operations/{operation}", second)).status_code == 404


@pytest.mark.parametrize("path", ["/manager/", "/session/", "/events/", "/gateways/alice/stop/"])
async def test_nobody_is_sent_elsewhere(tmp_path: Path, path: str) -> None:
    """Behind a proxy that speaks TLS our side knows http alone: whoever followed would show the token in the clear."""
    address = Address(tmp_path, http_behind_proxy=True)
    async with address.served():
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            answer = await address.ask(method, path, await address.token("operator"))
            assert answer.status_code in (404, 405)
            assert "location" not in answer.headers


async def test_a_late_refusal_is_fetched_as_well(address: Address) -> None:
    """What fails after the first answer is told to who asks for its end, as if it had waited."""
    token = await address.token("operator")
    address.manager.failing["stop_gateway"] = StoreUnavailableError("MongoDB is away.")
    begun = await address.ask("POST", "/gateways/alice/stop?wait=60", token)
    assert begun.status_code == 503
    address.manager.failing = {}
    assert (await address.ask("POST", "/gateways/nobody/stop?wait=60", token)).status_code == 404
    assert (await address.ask("POST", "/gateways/alice/stop?wait=-1", token)).status_code == 422
    assert (await address.ask("POST", "/gateways/alice/stop?wait=nan", token)).status_code == 422


async def test_events_go_on_after_the_last_one_as_server_sent_events(address: Address) -> None:
    """With the id that a browser sends back by itself, in its header or in the address."""
    token = await address.token("viewer")
    for number in range(3):
        address.manager.bus.publish(LoginRejected(at=SINCE, follower_id="alice", sentence=f"Number {number}."))
    first = int(SINCE.timestamp() * 1000)
    for after in ({"headers": {"Last-Event-ID": str(first)}}, {"params": {"after": str(first)}}):
        asked = {"headers": {}, **after}
        asked["headers"]["Accept"] = "text/event-stream"
        async with address.http(token) as http, http.stream("GET", "/events", **asked) as response:  # type: ignore[arg-type]
            assert response.headers["content-type"].startswith("text/event-stream")
            said = ""
            async for text in response.aiter_text():
                said += text
                if said.count("data:") == 2:
                    break
        fields = [line for line in said.splitlines() if line.startswith("id:")]
        assert fields == [f"id: {first + 1}", f"id: {first + 2}"]
        assert "event: LoginRejected\n" in said
        assert json.loads(said.partition("data: ")[2].partition("\n")[0])["sentence"] == "Number 1."


async def test_lists_come_in_pages(address: Address) -> None:
    """`Link` names the next page until the last; without a limit the list is whole."""
    token = await address.token("viewer")
    address.manager.snapshots = {each: a_snapshot(each) for each in ("a", "b/1 ü", "c", "d")}
    shown, path = [], "/gateways?limit=3"
    while True:
        page = await address.ask("GET", path, token)
        shown.append([each["follower_id"] for each in page.json()])
        if "link" not in page.headers:
            break
        path = page.headers["link"].partition(">")[0].removeprefix("</v1")
    assert shown == [["a", "b/1 ü", "c"], ["d"]]
    assert len((await address.ask("GET", "/gateways", token)).json()) == 4


async def test_a_manager_that_stands_by_changes_nothing(address: Address) -> None:
    """It answers what it knows, says that it stands by, and refuses the rest with where the leader is."""
    token = await address.token("operator")
    leader = {"host": "other", "pid": 7, "socket": "/x/control.sock", "url": "https://other:8443"}
    address.manager.is_leader = False
    await address.shared.put("manager", "leader", leader)
    shown = (await address.ask("GET", "/manager", token)).json()
    assert (shown["leader"], shown["leader_address"]) == (False, leader)
    assert (await address.ask("GET", "/gateways", token)).status_code == 200
    for path in ("launch", "stop", "restart", "reconnect"):
        refused = await address.ask("POST", f"/gateways/alice/{path}", token)
        assert (refused.status_code, refused.json()["error"], refused.json()["leader"]) == (503, "NOT_LEADER", leader)
        assert "https://other:8443" in refused.json()["hint"]
    assert not [
        call for call in address.manager.calls if call[0] not in ("list_gateways", "left_alone", "list_notices")
    ]


async def test_a_command_at_a_standby_says_so_where_the_leader_has_ended(address: Address, tmp_path: Path) -> None:
    """What the store says of the leader may be old: the refusal is what the command tells."""
    address.manager.is_leader = False
    gone = {"host": socket.gethostname(), "pid": 7, "socket": str(tmp_path / "gone" / "control.sock"), "url": None}
    await address.shared.put("manager", "leader", gone)

    def stop() -> None:
        with ControlClient(address.state_dir) as client:
            client.act("alice", "stop")

    with pytest.raises(RefusedByManagerError, match="This manager changes nothing"):
        await asyncio.to_thread(stop)


async def test_the_leader_says_where_it_is(address: Address) -> None:
    """In what all managers of its store share, so that the others can name it."""

    async def written() -> bool:
        document = await address.shared.get("manager", "leader")
        return document is not None and document["url"] == f"http://127.0.0.1:{address.port}"

    async with asyncio.timeout(60):
        while not await written():
            await asyncio.sleep(0.05)


async def test_the_description_has_an_example_of_every_answer(address: Address) -> None:
    """And says for each route which role it needs, and how a caller shows who it is."""
    described = (await address.ask("GET", "/openapi.json", await address.token("viewer"))).json()
    assert set(described["components"]["securitySchemes"]) == {"token", "session"}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert "x-role" in operation, (method, path)
            assert {"401", "403", "429"} <= operation["responses"].keys()
            for code, answer in operation["responses"].items():
                for content in answer.get("content", {}).values():
                    assert int(code) >= 400 or "example" in content, (method, path, code)
