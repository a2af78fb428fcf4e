"""A gateway's screen in a browser: who may open it, what reaches it, what is written down, and a real VNC server in Chromium."""

from __future__ import annotations

import asyncio
import shutil
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import async_playwright, expect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from spreadpilot_core.ibkr.access import tokens
from spreadpilot_core.ibkr.errors import AuditError
from spreadpilot_core.ibkr.http_api.page import screen
from spreadpilot_core.ibkr.model.details import ScreenAddress
from spreadpilot_core.ibkr.screens.picture import Pixels
from spreadpilot_core.ibkr.screens.rfb import VERSION
from support.address import Address
from support.browser import INSTALL as INSTALL_CHROMIUM
from support.fake_manager import a_snapshot
from support.real_parts import need
from support.vnc import PASSWORD, SERVER_INIT, WritingServer, tigervnc
from support.waiting import PATIENCE, until

UPDATE = struct.pack(">BBHHHH", 3, 0, 0, 0, 640, 480)
KEY = struct.pack(">BBxxI", 4, 1, 0x61)
POINTER = struct.pack(">BBHH", 5, 1, 10, 10)
CUT = struct.pack(">BxxxI4s", 6, 4, b"text")


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[Address]:
    address = Address(tmp_path, a_snapshot("alice", vnc="127.0.0.1:5900"), a_snapshot("bob"))
    async with address.served():
        yield address


@asynccontextmanager
async def opened(
    address: Address, token: str | None, query: str = "follower=alice", **headers: str
) -> AsyncIterator[ClientConnection]:
    """The WebSocket."""
    shown = ({"Authorization": f"Bearer {token}"} if token else {}) | headers
    url = f"ws://127.0.0.1:{address.port}/gateway/screen?{query}"
    async with connect(url, additional_headers=shown, open_timeout=PATIENCE, proxy=None) as socket:
        yield socket


async def begun(socket: ClientConnection) -> bytes:
    """As a browser begins; all that it was sent."""
    heard = await read(socket, len(VERSION))
    await socket.send(VERSION)
    heard += await read(socket, 2)
    await socket.send(b"\x01")
    heard += await read(socket, 4)
    await socket.send(b"\x00")
    return heard + await read(socket, len(SERVER_INIT))


async def read(socket: ClientConnection, count: int) -> bytes:
    """So many bytes, or more."""
    heard = b""
    while len(heard) < count:
        heard += bytes(await socket.recv())  # type: ignore[arg-type]
    return heard


@pytest.mark.parametrize(
    ("query", "reaches", "written"),
    [
        ("follower=alice", UPDATE + UPDATE, "view only"),
        ("follower=alice&control=true", UPDATE + KEY + POINTER + CUT + UPDATE, "with keyboard and mouse"),
    ],
)
async def test_what_reaches_the_gateway(address: Address, query: str, reaches: bytes, written: str) -> None:
    """View-only drops what a browser sends all the same; each opening is written down; the password stays here."""
    server = WritingServer()
    async with server.served() as place:
        address.manager.details.screens["alice"] = place
        async with opened(address, await address.token("operator", name="olga"), query) as socket:
            heard = await begun(socket)
            assert heard == VERSION + b"\x01\x01" + bytes(4) + SERVER_INIT
            assert PASSWORD.encode() not in heard
            await socket.send(UPDATE + KEY + POINTER + CUT)
            await socket.send(UPDATE)
            await until(lambda: len(server.heard) >= len(reaches))
        await until(lambda: server.open == 0)
    assert server.heard == reaches
    (line,) = [each for each in address.audited.lines if each["act"] == "screen-open"]
    assert (line["follower"], line["detail"], str(line["who"]).startswith("token olga")) == ("alice", written, True)


@pytest.mark.parametrize(("role", "code"), [(None, 401), ("viewer", 403), ("trader", 403)])
async def test_operators_alone_see_screens(
    address: Address, role: str | None, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever sees one sees an account."""
    server = WritingServer()
    async with server.served() as place:
        address.manager.details.screens["alice"] = place
        assert await _refused(address, await address.token(role) if role else None) == code
    assert server.let_in == 0
    assert "uvicorn" not in {each.name.partition(".")[0] for each in caplog.records if each.levelname == "ERROR"}


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null"])
async def test_another_sites_page_opens_none(address: Address, origin: str | None) -> None:
    """A browser sends a session's cookie with whichever page's WebSocket."""
    async with address.http(base_url=f"http://127.0.0.1:{address.port}") as http:
        await http.post("/sign-in", data={"token": await address.token("operator")})
        cookie = {"Cookie": f"session={http.cookies['session']}"}
    assert await _refused(address, None, **cookie, **({"Origin": origin} if origin else {})) == 403
    own = f"http://127.0.0.1:{address.port}"
    assert await _refused(address, None, **cookie, Origin=own) == 409  # it shows none, and nothing worse


async def _refused(address: Address, token: str | None, **headers: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        async with opened(address, token, **headers):
            pass
    return refused.value.response.status_code


async def test_what_can_not_be_shown_is_refused(address: Address) -> None:
    """No screen, no server, a server that takes another password, and an audit trail that can't be written."""
    token, server = await address.token("operator"), WritingServer()
    assert await _refused(address, token) == 409
    async with server.served("another") as place:
        address.manager.details.screens["alice"] = place
        assert await _refused(address, token) == 409
    async with server.served() as place:
        address.manager.details.screens["alice"] = place
        address.audited.failing = AuditError("The audit trail can't be written.")
        assert await _refused(address, token) == 503
    address.audited.failing = None
    address.manager.details.screens["alice"] = ScreenAddress("127.0.0.1", 1, PASSWORD)
    assert await _refused(address, token) == 409
    assert server.let_in == 0


async def test_a_revoked_token_ends_it(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon, and whatever is shown at that moment."""
    monkeypatch.setattr(tokens, "FRESH", 0.05)
    monkeypatch.setattr(screen, "CHECK_EVERY", 0.05)
    server = WritingServer()
    async with server.served() as place:
        address.manager.details.screens["alice"] = place
        async with opened(address, await address.token("operator", name="olga")) as socket:
            await begun(socket)
            await tokens.revoke(address.shared, "olga")
            with pytest.raises(ConnectionClosed):
                async with asyncio.timeout(PATIENCE):
                    await socket.recv()


async def test_last_pictures_are_for_operators_and_audited(address: Address) -> None:
    """As the screen is: below `/v1` and on the page, whose viewers don't even learn that there are any."""
    content = Pixels(1, 1, bytes(4)).as_png()
    address.manager.details.kept = {"20261124T093512004211": content}
    operator, viewer = await address.token("operator", name="olga"), await address.token("viewer")
    listed = (await address.ask("GET", "/gateways/alice/pictures", operator)).json()
    assert listed == [{"id": "20261124T093512004211", "at": "2026-11-24T09:35:12.004211Z", "size": len(content)}]
    assert [each["act"] for each in address.audited.lines] == []
    path = f"/gateways/alice/pictures/{listed[0]['id']}"
    answer = await address.ask("GET", path, operator)
    assert (answer.headers["content-type"], answer.content) == ("image/png", content)
    assert answer.headers["cache-control"] == "no-store"
    (line,) = address.audited.lines
    assert (line["act"], line["follower"], line["detail"]) == ("picture-open", "alice", listed[0]["id"])
    assert str(line["who"]).startswith("token olga")
    missing = await address.ask("GET", "/gateways/alice/pictures/20200101T000000000000", operator)
    assert (missing.status_code, missing.json()["error"]) == (404, "UnknownPictureError")
    assert (await address.ask("GET", "/gateways/nobody/pictures", operator)).status_code == 404
    for refused in (path, "/gateways/alice/pictures"):
        assert (await address.ask("GET", refused, viewer)).status_code == 403
    for token, shows in ((operator, True), (viewer, False)):
        async with address.http(token, base_url=f"http://127.0.0.1:{address.port}") as http:
            page = await http.get("/gateway?follower=alice")
            assert ("2026-11-24 09:35:12 UTC" in page.text, page.text.count("<img")) == (shows, int(shows))
    address.audited.failing = AuditError("The audit trail can't be written.")
    assert (await address.ask("GET", path, operator)).status_code == 503


@pytest.mark.real_part("tigervnc")
@pytest.mark.parametrize(
    ("button", "said"), [("Show the screen", "Shown, view only"), ("Show it, with keyboard and mouse", "Shown, with")]
)
async def test_a_real_server_in_a_browser(address: Address, button: str, said: str) -> None:
    """NoVNC draws TigerVNC's screen in Chromium, under the page's policy, with no password in the browser."""
    program = shutil.which("chromium") or need("Chromium", INSTALL_CHROMIUM)
    wrong: list[Any] = []
    with tigervnc() as place:
        address.manager.details.screens["alice"] = place
        token = await address.token("operator")
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = await browser.new_page()
            page.set_default_timeout(PATIENCE * 1000)
            page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            await page.goto(f"http://127.0.0.1:{address.port}/sign-in?next=/gateway?follower=alice#token={token}")
            await page.get_by_role("button", name=button, exact=True).click()
            await expect(page.locator("#screen-said")).to_contain_text(said, timeout=PATIENCE * 1000)
            canvas = page.locator("#screen-view canvas")
            await expect(canvas).to_be_visible(timeout=PATIENCE * 1000)
            assert await canvas.evaluate("each => [each.width, each.height]") == [640, 480]
            await page.get_by_role("button", name="Close").click()
            await expect(page.locator("#screen-said")).to_have_text("Closed", timeout=PATIENCE * 1000)
            await browser.close()
    assert wrong == []


async def test_a_last_picture_is_loaded_when_it_is_unfolded_and_not_before(address: Address) -> None:
    """In Chromium, under the page's policy: whoever looks at a gateway's page alone has opened no picture."""
    program = shutil.which("chromium") or need("Chromium", INSTALL_CHROMIUM)
    wrong: list[Any] = []
    address.manager.details.kept = {"20261124T093512004211": Pixels(40, 30, bytes([200, 0, 0, 0]) * 1200).as_png()}
    token = await address.token("operator")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        await page.goto(f"http://127.0.0.1:{address.port}/sign-in?next=/gateway?follower=alice#token={token}")
        summary, image = page.locator("details.picture summary"), page.locator("details.picture img")
        await summary.scroll_into_view_if_needed()
        await expect(page.locator("#log")).to_be_visible()
        assert "picture-open" not in [each["act"] for each in address.audited.lines]
        await summary.click()
        await expect(image).to_have_js_property("naturalWidth", 40, timeout=PATIENCE * 1000)
        await expect(image).to_be_visible()
        assert [each["act"] for each in address.audited.lines].count("picture-open") == 1
        await browser.close()
    assert wrong == []
