"""`gateway-manager demo --page` in Chromium: the address that it prints signs in, and the page shows what goes wrong, live."""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from support.browser import aside, chromium, opened
from support.command import Command
from support.home import Home

pytestmark = pytest.mark.real_part("chromium")

KEEP_STATES = """() => {
    window.seen = {};
    const keep = () => document.querySelectorAll("tr[data-follower]").forEach((row) =>
        (window.seen[row.dataset.follower] ??= new Set()).add(row.querySelector(".badge").textContent.trim()));
    new MutationObserver(keep).observe(document.querySelector("#fleet"), { childList: true, subtree: true });
    keep();
}"""
STATES = "() => Object.fromEntries(Object.entries(window.seen).map(([name, states]) => [name, [...states]]))"
"""What each row has said since, however short it was."""


@pytest.fixture
def command() -> Iterator[Command]:
    home = Home()
    command = Command(home)
    with tempfile.TemporaryDirectory(prefix="gm-demo-", dir="/tmp") as place:
        command.environment["TMPDIR"] = place
        yield command
    aside(home.end())


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_the_page_shows_the_three_mishaps(command: Command, browser: Browser) -> None:
    """A newcomer opens the address; a frozen gateway, a lost link and a rejected password come and go before their eyes."""
    with command.begun("demo", "--page") as demo:
        demo.says("waits until you have opened the page")
        found = re.search(r"^http://127\.0\.0\.1:\d+/sign-in#token=\S+$", demo.stdout, re.MULTILINE)
        assert found is not None, demo.stdout
        with opened(browser) as page:
            page.goto(found[0])
            expect(page.locator("#connection")).to_have_text("Live")
            assert "token" not in page.url
            page.evaluate(KEEP_STATES)
            demo.says("recovered.", times=3)
            seen = page.evaluate(STATES)
            assert "reconnecting" in seen["alice"], seen
            assert "degraded" in seen["bob"], seen
            assert "needs human" in seen["carol"], seen
            for follower_id in ("alice", "bob", "carol"):
                expect(page.locator(f'tr[data-follower="{follower_id}"] .badge')).to_have_text("ready")
            expect(page.get_by_role("heading", name="Nothing needs you")).to_be_visible()
        demo.signal(signal.SIGINT)
        assert demo.ends() == 0, demo.stderr
