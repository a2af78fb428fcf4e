"""The page at `http_address`, as a browser without script has it: what it shows to whom, and what its forms do."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.errors import LoginRefusedError
from spreadpilot_core.ibkr.http_api.needs import needs_of
from spreadpilot_core.ibkr.http_api.page import assets, routes, screen
from spreadpilot_core.ibkr.http_api.page.fleet import element_id
from spreadpilot_core.ibkr.model.availability import AvailabilityDay, Spell, SpellKind, Verdict
from spreadpilot_core.ibkr.model.details import PhoneQueue
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.records import HistoryEntry
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State
from support.address import Address
from support.fake_manager import SINCE, a_snapshot

HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>&lt;"
TURNED = "\u202egnp.exe\x1b[31m"
PAGE = {"Accept": "text/html"}
DOCUMENT = Path(__file__).parents[2] / "docs" / "page.md"
BEGIN, END = "<!-- roles: written by tests/integration/test_page.py -->", "<!-- until here -->"
WRITE = "WRITE_DOCS"
"""Set in the environment, the table in the page is written anew instead of compared."""


class Read(HTMLParser):
    """Which elements and attributes a page has, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep it."""
        self.texts.append(data)

    @property
    def text(self) -> str:
        """On one line."""
        return " ".join(" ".join(self.texts).split())


@asynccontextmanager
async def browser(address: Address, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """One without script, signed in where a token is given."""
    base = f"http://127.0.0.1:{address.port}"
    async with httpx.AsyncClient(base_url=base, headers=PAGE, timeout=60) as http:
        if token is not None:
            signed_in = await http.post("/sign-in", data={"token": token})
            assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/")
        yield http


def a_need(follower_id: str = "carol", **facts: Any) -> GatewaySnapshot:
    """One that waits for a human."""
    plausible = {
        "reason": "IBKR did not accept it.",
        "reason_code": ReasonCode.PASSWORD_REJECTED,
        "severity": Severity.ERROR,
    }
    return a_snapshot(follower_id, State.NEEDS_HUMAN, **(plausible | facts))


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[Address]:
    address = Address(tmp_path, a_snapshot("alice", accounts=("DU1000001",)), a_snapshot("bob"), a_need())
    async with address.served():
        yield address


def csrf_of(page: str) -> str:
    """Of its forms."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None
    return found[1]


# ---------------------------------------------------------------------------------------------- signing in and out


async def test_signing_in_and_out(address: Address) -> None:
    """Whoever is not signed in is asked to, goes on where they were, and is out again after signing out."""
    async with browser(address) as http:
        asked = await http.get("/gateway?follower=alice")
        assert (asked.status_code, asked.headers["location"]) == (303, "/sign-in?next=%2Fgateway%3Ffollower%3Dalice")
        assert 'value="/gateway?follower=alice"' in (await http.get(asked.headers["location"])).text
        wrong = await http.post("/sign-in", data={"token": "gm_wrong", "next": "/"})
        assert wrong.status_code == 401
        assert "not valid" in wrong.text
        token = await address.token("viewer")
        following = {"token": token, "next": "/gateway?follower=alice"}
        right = await http.post("/sign-in", data=following)
        assert (right.status_code, right.headers["location"]) == (303, "/gateway?follower=alice")
        page = await http.get("/gateway?follower=alice")
        assert page.status_code == 200
        out = await http.post("/sign-out", data={"csrf_token": csrf_of(page.text)})
        assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
        assert (await http.get("/")).status_code == 303


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\n/x"]
)
async def test_nobody_is_sent_elsewhere(address: Address, elsewhere: str) -> None:
    """A link to the sign-in form goes on to this page alone."""
    async with browser(address) as http:
        token = await address.token("viewer")
        assert (await http.post("/sign-in", data={"token": token, "next": elsewhere})).headers["location"] == "/"


async def test_a_page_says_where_its_forms_come_from(address: Address) -> None:
    """Browsers send `Origin: null` with forms of a page that wants no referrer, and such forms are refused."""
    async with browser(address, await address.token("operator")) as http:
        page = await http.get("/")
        assert page.headers["referrer-policy"] == "same-origin"
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"


# ---------------------------------------------------------------------------------------------- what is shown


async def test_it_opens_with_what_needs_somebody(address: Address) -> None:
    """The sentence, the evidence behind a fold, and one button with its cost; then each gateway as a row."""
    address.manager.details.asked = {"carol": "Carol"}
    async with browser(address, await address.token("operator")) as http:
        page = Read((await http.get("/")).text)
        assert (
            page.text.index("What needs you")
            < page.text.index("IBKR did not accept it.")
            < page.text.index("Gateways All 3")
        )
        assert "Start all the same: one login, a prompt on the phone of Carol, which IBKR counts" in page.text
        rows = [facts["data-follower"] for tag, facts in page.tags if tag == "tr" and "data-follower" in facts]
        assert rows == ["carol", "alice", "bob"]


async def test_whose_phone_must_act_comes_first_and_has_no_button(address: Address) -> None:
    """A phone has minutes, and what it must do is done on it."""
    waiting = a_snapshot("dora", State.AWAITING_2FA, reason="The phone of Dora must approve it.")
    address.manager.snapshots["dora"] = waiting
    address.manager.details.queues = (PhoneQueue("Dora", ("dora",), ("emil", "fritz")),)
    async with browser(address, await address.token("operator")) as http:
        page = await http.get("/")
        first, second = re.findall(r'<article class="need.*?</article>', page.text, re.DOTALL)
        assert ("dora" in first, "<button" in first) == (True, False)
        assert "carol" in second
        assert "Dora: asked now for dora; next emil, then fritz." in Read(page.text).text.replace(" :", ":")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("search=ali", ["alice"]),
        ("search=du1000001", ["alice"]),
        ("status=RUNNING", ["alice", "bob"]),
        ("status=RUNNING&sort=follower&down=1", ["bob", "alice"]),
        ("sort=state", ["carol", "alice", "bob"]),
        ("sort=nonsense&status=%00&page=-7&search=", ["carol", "alice", "bob"]),
        ("search=nobody", []),
    ],
)
async def test_the_table_obeys_its_query(address: Address, query: str, expected: list[str]) -> None:
    """Search, status and order are in the address; what can't be understood is left out."""
    async with browser(address, await address.token("viewer")) as http:
        page = Read((await http.get(f"/?{query}")).text)
        rows = [facts["data-follower"] for tag, facts in page.tags if tag == "tr" and "data-follower" in facts]
        assert rows == expected


async def test_a_large_fleet_comes_in_pages_and_its_changes_row_by_row(address: Address) -> None:
    """Of 500 gateways one page has a hundred rows, and a change brings the rows that it is about."""
    names = [f"follower-{number:03}" for number in range(500)]
    address.manager.snapshots = {each: a_snapshot(each) for each in names}
    async with browser(address, await address.token("viewer")) as http:
        second = await http.get("/?page=2&sort=follower")
        assert re.findall(r'data-follower="([^"]+)"', second.text) == names[100:200]
        assert 'rel="prev"' in second.text
        assert 'rel="next"' in second.text
        changed = await http.get(f"/changes?page=2&sort=follower&follower={names[150]}&follower={names[0]}")
        assert re.findall(r'data-follower="([^"]+)"', changed.text) == [names[150]]
        shown = re.search(r'data-rows="([^"]+)"', second.text)
        assert shown is not None
        assert "hx-trigger" not in (await http.get(f"/changes?page=2&sort=follower&rows={shown[1]}")).headers
        address.manager.snapshots.pop(names[0])
        assert (await http.get(f"/changes?page=2&sort=follower&rows={shown[1]}")).headers["hx-trigger"] == "other-rows"
        assert len(changed.text) < 8000


async def test_availability_is_a_bar_with_words_and_a_table_of_causes(address: Address) -> None:
    """As much as is known, and never more than was."""
    day = f"{datetime.now(UTC):%Y-%m-%d}"

    def spell(verdict: Verdict, code: str | None, seconds: float) -> Spell:
        return Spell(SpellKind(verdict, code, in_reset_hours=False, exchange_open=True), seconds)

    spells = (spell(Verdict.READY, None, 35_999.0), spell(Verdict.DOWN, "HEARTBEAT_MISSED", 1.0))
    known = AvailabilityDay(id="x", day=day, follower_id=FollowerId("alice"), spells=spells)
    address.manager.details.days = (known,)
    async with browser(address, await address.token("viewer")) as http:
        assert 'aria-label="today 9 h 59 min ready, 1 s down"' in (await http.get("/")).text
        page = Read((await http.get("/gateway?follower=alice")).text).text
        assert "99.99 %" in page
        assert "HEARTBEAT_MISSED" in page


async def test_one_gateway_has_its_timeline_log_and_settings(address: Address) -> None:
    """Everything that is known of one, with what is named a password masked before it comes here."""
    happened = HistoryEntry(
        id="1", at=SINCE, follower_id=FollowerId("alice"), name="LoginCompleted", sentence="The login completed."
    )
    address.manager.history = [happened]
    address.manager.details.lines = ["first line", "second line"]
    address.manager.details.settings = {"gateway.vnc": "true"}
    async with browser(address, await address.token("viewer")) as http:
        page = Read((await http.get("/gateway?follower=alice")).text).text
        for shown in ("The login completed.", "first line second line", "gateway.vnc true", "DU1000001"):
            assert shown in page
        missing = await http.get("/gateway?follower=nobody")
        assert (missing.status_code, "Not found" in missing.text) == (404, True)
        log = await http.get("/gateway/log?follower=alice")
        assert log.headers["content-type"].startswith("text/event-stream")
        assert 'data: "first line"' in log.text


async def test_nothing_from_outside_becomes_markup(address: Address) -> None:
    """Ids, reasons, facts, notices, log lines, settings and history are text, and can't turn it around or hide in it."""
    hostile = HOSTILE + TURNED
    snapshot = a_need(
        HOSTILE,
        reason=hostile,
        next_action=hostile,
        facts={hostile: hostile},
        notices=(hostile,),
        accounts=(hostile,),
        image=hostile,
        container=hostile,
    )
    address.manager.snapshots = {HOSTILE: snapshot}
    address.manager.notices = (hostile,)
    address.manager.history = [
        HistoryEntry(
            id="1", at=SINCE, follower_id=FollowerId(HOSTILE), name=hostile, reason_code=hostile, sentence=hostile
        )
    ]
    address.manager.details.lines = [hostile]
    address.manager.details.settings = {hostile: hostile}
    address.manager.details.queues = (PhoneQueue(hostile, (hostile,), (hostile,)),)
    address.manager.details.asked = {HOSTILE: hostile}
    named = {"follower": HOSTILE}
    async with browser(address, await address.token("operator")) as http:
        for path, query in (
            ("/", {"search": "<script>"}),
            ("/", {"done": "launch", "follower": HOSTILE}),
            ("/gateway", named),
            ("/changes", named),
            ("/gateway/changes", named),
            ("/sign-in", {"next": f"/{HOSTILE}"}),
        ):
            answer = await http.get(path, params=query)
            page = Read(answer.text)
            assert answer.status_code == 200, path
            assert not [tag for tag, _ in page.tags if tag == "img"]
            assert all(set(facts) <= {"src", "defer", "type"} for tag, facts in page.tags if tag == "script")
            assert not [name for _, facts in page.tags for name in facts if name.startswith("on") or name == "style"]
            assert "\u202e" not in answer.text
            assert "\x1b" not in answer.text
            if path in ("/gateway", "/"):
                assert "alert('x')" in page.text or query.get("search")
        refused = await http.get("/gateway", params={"follower": "<b>nobody</b>"})
        assert "<b>" not in refused.text


async def test_what_was_not_fetched_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without htmx and noVNC the page is whole, loads nothing that is not there, and says what gets them."""
    bare = Address(tmp_path, a_snapshot("alice", vnc="127.0.0.1:5900"))
    there = await asyncio.to_thread(assets.Assets.read)
    own = {name: each for name, each in there._files.items() if not name.startswith(assets.VENDOR)}
    monkeypatch.setattr(assets.Assets, "read", classmethod(lambda cls: cls(own)))
    async with bare.served(), browser(bare, await bare.token("operator")) as http:
        page = await http.get("/gateway?follower=alice")
        assert "htmx is not installed here" in page.text
        assert "noVNC is not installed here" in page.text
        for source in re.findall(r'(?:src|href)="(/static[^"]+)"', page.text):
            assert (await http.get(source)).status_code == 200


# ---------------------------------------------------------------------------------------------- what is done


async def test_a_button_starts_a_gateway(address: Address) -> None:
    """With the word that it stands for, and under the token's name in the audit trail."""
    async with browser(address, await address.token("operator", name="olga")) as http:
        csrf = csrf_of((await http.get("/")).text)
        done = await http.post("/gateway/launch?follower=carol", data={"csrf_token": csrf, "retry_login": "yes"})
        assert (done.status_code, done.headers["location"]) == (303, "/gateway?follower=carol&done=launch")
        assert ("launch_gateway", "carol", True) in address.manager.calls
        assert "The start of carol was begun." in (await http.get(done.headers["location"])).text
        (line,) = [each for each in address.audited.lines if each["act"] == "request" and each.get("follower")]
        assert (line["follower"], str(line["who"]).startswith("token olga")) == ("carol", True)


@pytest.mark.parametrize("act", ["stop", "restart"])
async def test_what_logs_a_gateway_out_is_asked_once_more(address: Address, act: str) -> None:
    """On a page that says what it costs; without that word nothing is done."""
    async with browser(address, await address.token("operator")) as http:
        csrf = csrf_of((await http.get("/")).text)
        asked = await http.post(f"/gateway/{act}?follower=alice", data={"csrf_token": csrf})
        assert "that costs one login" in asked.text or "secret: one login" in asked.text
        assert (f"{act}_gateway", "alice") not in address.manager.calls
        done = await http.post(f"/gateway/{act}?follower=alice", data={"csrf_token": csrf, "confirmed": "yes"})
        assert done.status_code == 303
        assert (f"{act}_gateway", "alice") in address.manager.calls


async def test_a_refusal_is_a_page(address: Address) -> None:
    """With the sentence and what to do."""
    address.manager.failing["launch_gateway"] = LoginRefusedError("It would lock the account.", hint="Wait a day.")
    async with browser(address, await address.token("operator")) as http:
        csrf = csrf_of((await http.get("/")).text)
        refused = await http.post("/gateway/launch?follower=carol", data={"csrf_token": csrf})
        assert refused.status_code == 409
        assert "It would lock the account." in refused.text
        assert "Wait a day." in refused.text


async def test_a_form_without_its_token_does_nothing(address: Address) -> None:
    """Another site's page could have sent it."""
    async with browser(address, await address.token("operator")) as http:
        for data in ({}, {"csrf_token": "wrong"}):
            assert (await http.post("/gateway/launch?follower=carol", data=data)).status_code == 403
        assert not [each for each in address.manager.calls if each[0] == "launch_gateway"]


# ---------------------------------------------------------------------------------------------- who may


async def test_the_table_of_roles_is_what_happens(address: Address) -> None:
    """Nobody, and each role, at each route: what it declares is what happens, and the documentation has what came of it."""
    given: dict[Role | None, str | None] = {None: None, **{role: await address.token(role) for role in Role}}
    rows = ["| route | nobody | viewer | trader | operator |", "|---|---|---|---|---|"]
    for route in (*routes.router.routes, *screen.router.routes):
        assert isinstance(route, APIRoute | APIWebSocketRoute)
        declared = needs_of(route)
        assert declared is not None
        path = route.path.replace("{version}", "x").replace("{name:path}", "page.css")
        methods = route.methods or () if isinstance(route, APIRoute) else ("WebSocket",)
        for method in methods:
            found = {role: await _asked(address, method, path, token) for role, token in given.items()}
            shown = {role: str(code) if code in (401, 403) else "✓" for role, code in found.items()}
            if declared.role is None:
                shown = dict.fromkeys(shown, "✓")
            for role in given:
                allowed = declared.role is None or (role is not None and role.covers(declared.role))
                assert (shown[role] == "✓") == allowed, (method, path, role)
            name = path.replace("/x/page.css", "/VERSION/NAME")
            rows.append(f"| `{method} {name}` | {' | '.join(shown.values())} |")
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    table = "\n".join(rows)
    written = f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"
    if WRITE in os.environ:
        DOCUMENT.write_text(written, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == written, f"run this test with {WRITE}=1"


async def _asked(address: Address, method: str, path: str, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if method == "WebSocket":
        with pytest.raises(InvalidStatus) as refused:  # nobody here has a screen
            await connect(
                f"ws://127.0.0.1:{address.port}{path}?follower=alice", additional_headers=headers, proxy=None
            ).__aenter__()
        return refused.value.response.status_code
    async with browser(address) as http:
        answer = await http.request(method, f"{path}?follower=alice", headers=headers | {"Accept": "*/*"})
    return answer.status_code


async def test_a_limited_token_sees_nothing_of_others(address: Address) -> None:
    """Neither rows nor counts, phones, sums, or names in sentences; and another's page is none."""
    other = "zz-other"
    address.manager.snapshots = {
        "alice": a_snapshot("alice", State.QUEUED, reason=f"It waits for the login of {other}."),
        other: a_need(other, accounts=("DU7777777",)),
    }
    address.manager.notices = (f"{other} is in trouble.",)
    address.manager.details.queues = (PhoneQueue("Dora", (other,), ("alice",)), PhoneQueue("Emil", (other,), ()))
    address.manager.details.lines = [f"a line of {other}"]
    async with browser(address, await address.token("trader", followers=["alice"])) as http:
        for path in (
            "/",
            f"/changes?follower={other}&follower=alice",
            "/gateway?follower=alice",
            "/gateway/log?follower=alice",
        ):
            answer = await http.get(path)
            assert answer.status_code == 200, path
            shown = answer.text.replace(f'id="{element_id(other)}"', "")
            for planted in (other, "DU7777777", "Emil"):
                assert planted not in shown, path
        assert "asked now for another follower; next alice" in Read((await http.get("/")).text).text
        for path in (f"/gateway?follower={other}", f"/gateway/log?follower={other}"):
            assert (await http.get(path)).status_code == 404
