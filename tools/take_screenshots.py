"""Takes the pictures of docs/pictures from a real run: a simulated fleet in trouble, as Debian's Prometheus shows it in Chromium.

python tools/take_screenshots.py docs/pictures     (needs the packages prometheus and chromium; with --page chromium alone)
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.command import Command  # noqa: E402  # the tests' own parts
from support.home import Home  # noqa: E402
from support.ports import free_ports  # noqa: E402
from support.prometheus import Prometheus, rules, shortened  # noqa: E402
from support.waiting import wait_until  # noqa: E402

QUIET, TROUBLE = 60, 50
"""Seconds of the run before and after something goes wrong."""
WIDTH, HEIGHT = 1200, 1000
PAGES: dict[str, Any] = {
    "page": {"viewport": {"width": 1100, "height": 800}},
    "page-phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "device_scale_factor": 2},
}
GRAPH = {
    "g0.expr": 'sum by (state) (gateway_manager_gateways{job="gateway-manager"}) > 0',
    "g0.tab": 0,
    "g0.stacked": 1,
    "g0.range_input": "2m",
    "g0.step_input": 1,
}


@contextmanager
def fleet_in_trouble() -> Iterator[Prometheus]:
    """Two gateways that lost IBKR, a phone that waits, a rejected password; the fifth is ready."""
    home, port, directory = Home(), free_ports(1), Path(tempfile.mkdtemp())
    asyncio.run(home.add("alice", "bob", "carol"))
    asyncio.run(home.add("dora", live=True, enabled=False))
    asyncio.run(home.add("emil", enabled=False))
    script = {"dora": {"laps": [{"second_factor": "pending"}]}, "emil": {"laps": [{"wrong_password": True}]}}
    (home.directory / "scripts.json").write_text(json.dumps({"followers": script}))
    command = Command(home, metrics_address=port, login_budget=2, full_login_limit=12)
    prometheus = Prometheus(directory, [port])
    prometheus.load(shortened({rule["alert"]: "10s" for rule in rules()}, {}))
    try:
        with prometheus, command.begun("run") as serving:
            serving.says("manager started")
            wait_until(lambda: serving.stderr.count("GatewayReady") == 3)  # noqa: PLR2004  # alice, bob, carol
            time.sleep(QUIET)
            asyncio.run(lose_ibkr(home, "alice", "bob"))
            command("followers", "enable", "dora")
            command("followers", "enable", "emil")
            time.sleep(TROUBLE)
            yield prometheus
    finally:
        asyncio.run(home.end())
        shutil.rmtree(directory)


async def lose_ibkr(home: Home, *follower_ids: str) -> None:
    """As when IBKR's servers go away."""
    runtime = home.runtime()
    await runtime.open()
    for gateway in await runtime.list():
        if gateway.follower_id in follower_ids:
            await runtime.inject(gateway.follower_id, "link_lost")
    await runtime.close()


def take(page: Page, address: str, file: Path, *, opened: tuple[str, ...] = ()) -> None:
    """One page, when everything on it has come, and these lines of it were opened."""
    page.goto(address)
    page.wait_for_load_state("networkidle")
    for each in opened:
        page.get_by_text(each, exact=True).first.click()
    time.sleep(2)  # its graph is drawn after its data came
    page.screenshot(path=file)


@contextmanager
def fleet_with_page() -> Iterator[tuple[str, str]]:
    """Where the page of a fleet is, and a token: one is without IBKR, one waits for a phone, one was rejected, three are ready."""
    home, port = Home(), free_ports(1)
    asyncio.run(home.add("alice", "bob", "carol", "frank"))
    asyncio.run(home.add("dora", live=True, enabled=False))
    asyncio.run(home.add("emil", enabled=False))
    script = {"dora": {"laps": [{"second_factor": "pending"}]}, "emil": {"laps": [{"wrong_password": True}]}}
    (home.directory / "scripts.json").write_text(json.dumps({"followers": script}))
    command = Command(home, http_address=f"127.0.0.1:{port}")
    try:
        with command.begun("run") as serving:
            serving.says("GatewayReady", times=4)
            time.sleep(QUIET)
            command("followers", "set", "dora", "phone_owner=Dora")
            command("followers", "enable", "dora")
            command("followers", "enable", "emil")
            serving.says("SecondFactorRequested")
            serving.says("LoginRejected")
            asyncio.run(lose_ibkr(home, "bob"))
            token = command("tokens", "add", "olga", "--role", "operator").stdout.strip()
            time.sleep(TROUBLE)
            yield f"http://127.0.0.1:{port}", token
    finally:
        asyncio.run(home.end())


def take_page(folder: Path) -> None:
    """The page as a wide screen in the light and a phone in the dark have it, and one gateway."""
    with fleet_with_page() as (address, token), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, options in PAGES.items():
            page = browser.new_page(**options)
            page.goto(f"{address}/sign-in#token={token}")
            page.get_by_text("Live", exact=True).wait_for()
            page.screenshot(path=folder / f"{name}.png", full_page=name == "page")
        browser.close()


def main(folder: Path) -> None:
    """The page; the alerts, and the states of the fleet."""
    folder.mkdir(parents=True, exist_ok=True)
    take_page(folder)
    if "--page" in sys.argv:
        return
    with fleet_in_trouble() as prometheus, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        address = f"http://127.0.0.1:{prometheus.port}/classic"
        take(page, f"{address}/alerts", folder / "alerts.png", opened=("Show annotations", "GatewayDown"))
        take(page, f"{address}/graph?{urlencode(GRAPH)}", folder / "states.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
