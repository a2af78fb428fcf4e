"""The page in Chromium, of the installed command with simulated gateways: by keyboard, live, narrow, dark, and for a screen reader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from support.browser import aside, chromium, opened
from support.command import Command
from support.home import Home
from support.ports import free_ports
from support.waiting import wait_until

pytestmark = pytest.mark.real_part("chromium")
NARROW = {"width": 390, "height": 844}


@dataclass(frozen=True)
class Site:
    """A manager with two gateways, its address, and an operator's token."""

    home: Home
    command: Command
    address: str
    token: str

    def inject(self, follower_id: str, what: str, **options: Any) -> None:
        """Have something happen to a simulated gateway."""
        aside(self._inject(follower_id, what, options))

    async def _inject(self, follower_id: str, what: str, options: dict[str, Any]) -> None:
        runtime = self.home.runtime()
        await runtime.open()
        for gateway in await runtime.list():
            if gateway.follower_id == follower_id:
                await runtime.inject(gateway.follower_id, what, **options)
        await runtime.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    home = Home()
    aside(home.add("alice", "bob"))
    aside(home.add("carol", enabled=False))
    script = {"carol": {"laps": [{"wrong_password": True}]}}
    (home.directory / "scripts.json").write_text(json.dumps({"followers": script}))
    address = f"127.0.0.1:{free_ports(1)}"
    command = Command(home, http_address=address)
    try:
        with command.begun("run") as serving:
            serving.says("GatewayReady", times=2)
            token = command("tokens", "add", "olga", "--role", "operator").stdout.strip()
            yield Site(home, command, f"http://{address}", token)
    finally:
        aside(home.end())


def signed_in(page: Page, site: Site) -> Page:
    """By the link that a demo prints."""
    page.goto(f"{site.address}/sign-in#token={site.token}")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("needs you"))
    return page


def row(page: Page, follower_id: str) -> Any:
    """Of the table."""
    return page.locator(f'tr[data-follower="{follower_id}"]')


def tab_to(page: Page, target: Any) -> None:
    """Press Tab until it has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if target.evaluate("each => each === document.activeElement"):
            return
    raise AssertionError("Tab does not get there")


def test_all_of_it_by_keyboard(browser: Browser, site: Site) -> None:
    """Signing in, skipping to the content, searching, one gateway, and signing out, without a mouse."""
    with opened(browser) as page:
        page.goto(site.address)
        tab_to(page, page.get_by_label("Token"))
        page.keyboard.type(site.token)
        page.keyboard.press("Enter")
        expect(row(page, "alice")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        tab_to(page, page.get_by_label("Search"))
        page.keyboard.type("bob")
        expect(row(page, "alice")).to_have_count(0)
        expect(row(page, "bob")).to_be_visible()
        expect(page.get_by_label("Search")).to_be_focused()
        assert page.url.endswith("search=bob&status=&sort=need")
        tab_to(page, page.get_by_role("link", name="bob"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
        expect(page.locator("#log")).to_contain_text("login completed")
        tab_to(page, page.get_by_role("button", name="Sign out"))
        page.keyboard.press("Enter")
        expect(page.get_by_label("Token")).to_be_visible()


def test_a_gateway_breaks_and_recovers_on_the_screen(browser: Browser, site: Site) -> None:
    """Without a reload, and only its own row is drawn anew."""
    with opened(browser) as page:
        signed_in(page, site)
        expect(page.locator("#connection")).to_have_text("Live")
        page.evaluate("document.querySelector('tr[data-follower=bob]').kept = true")
        expect(row(page, "alice")).to_contain_text("ready")
        site.inject("alice", "crash")
        expect(row(page, "alice")).not_to_contain_text("ready")
        expect(row(page, "alice")).to_contain_text("ready")
        assert page.evaluate("document.querySelector('tr[data-follower=bob]').kept")


def test_who_needs_somebody_comes_and_goes(browser: Browser, site: Site) -> None:
    """A rejected password opens the page with one article and its button; what was unfolded stays so; a new password ends it."""
    with opened(browser) as page:
        signed_in(page, site)
        expect(page.locator("#connection")).to_have_text("Live")
        assert site.command("followers", "enable", "carol").returncode == 0
        article = page.get_by_role("article", name="carol")
        expect(article).to_contain_text("IBKR did not accept user name and password")
        expect(article.get_by_role("button", name="Start all the same: one login")).to_be_visible()
        article.get_by_text("Evidence").click()
        expect(article).to_contain_text("PASSWORD_REJECTED")
        expect(page.get_by_role("status").filter(has_text="carol")).to_have_count(1)
        (site.home.directory / "scripts.json").write_text("{}")
        aside(site.home.set_password("carol", "the-right-one"))
        expect(page.get_by_role("heading", name="Nothing needs you")).to_be_visible()
        expect(row(page, "carol")).to_contain_text("ready")


def test_one_gateway_is_live_too(browser: Browser, site: Site) -> None:
    """Its state, its timeline and its log go on by themselves."""
    with opened(browser) as page:
        signed_in(page, site)
        row(page, "bob").get_by_role("link", name="bob").click()
        expect(page.locator("#connection")).to_have_text("Live")
        site.inject("bob", "link_lost", seconds=3)
        expect(page.locator("#now")).to_contain_text("degraded")
        expect(page.locator("#timeline")).to_contain_text("IbkrLinkLost")
        expect(page.locator("#now")).to_contain_text("ready")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_hides_nothing_from_a_screen_reader(browser: Browser, site: Site, scheme: Any) -> None:
    """At 390 px nothing is wider than the screen; axe finds no violation, in either colour scheme, narrow or wide."""
    with opened(browser, color_scheme=scheme, viewport=NARROW) as page:
        page.goto(site.address)
        page.get_by_label("Token").wait_for()
        checked(page)
        signed_in(page, site)
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        checked(page)
        row(page, "alice").get_by_role("link", name="alice").click()
        page.get_by_role("heading", name="Timeline").wait_for()
        checked(page)
        page.set_viewport_size({"width": 1200, "height": 900})
        checked(page)
        page.goto(site.address)
        checked(page)


def checked(page: Page) -> None:
    """Whatever axe knows, and nothing is cut off at the side."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def test_all_of_it_without_javascript(browser: Browser, site: Site) -> None:
    """Signing in, searching, stopping after a question, and starting again, with forms alone."""
    with opened(browser, java_script_enabled=False) as page:
        page.goto(site.address)
        page.get_by_label("Token").fill(site.token)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Search").fill("alice")
        page.get_by_role("button", name="Show", exact=True).click()
        expect(row(page, "bob")).to_have_count(0)
        row(page, "alice").get_by_role("link", name="alice").click()
        page.get_by_role("button", name="Stop …").click()
        page.get_by_role("button", name="Stop alice").click()
        expect(page.get_by_text("alice stops.")).to_be_visible()
        wait_until(lambda: _state(site, "alice") == "stopped")
        page.reload()
        page.get_by_role("button", name="Start: one login").click()
        expect(page.get_by_text("The start of alice was begun.")).to_be_visible()
        wait_until(lambda: _state(site, "alice") == "ready")


def _state(site: Site, follower_id: str) -> str:
    (found,) = site.command.json("status", follower_id)
    return str(found["state"])


def test_a_row_comes_and_goes_with_what_the_table_is_asked_for(browser: Browser, site: Site) -> None:
    """A table of those that run loses the one that does not, and gets it back."""
    with opened(browser) as page:
        signed_in(page, site)
        page.get_by_label("Status").select_option("RUNNING")
        expect(page.locator(".matching")).to_contain_text("2 of" if _state(site, "carol") != "ready" else "3 of")
        expect(page.locator("#connection")).to_have_text("Live")
        site.inject("bob", "crash")
        expect(row(page, "bob")).to_have_count(0)
        expect(row(page, "bob")).to_contain_text("ready")
