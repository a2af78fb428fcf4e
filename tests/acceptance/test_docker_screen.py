"""A gateway's screen in a real container, with a real VNC server: in the page, and in the picture that is kept of it."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from playwright.async_api import async_playwright, expect

from support.browser import INSTALL as INSTALL_CHROMIUM
from support.command import Command
from support.docker_bench import (  # noqa: F401  # fixtures
    Bench,
    DockerHome,
    bench_fixture,
    engine_fixture,
    own_engine_fixture,
)
from support.docker_screens import screen_image
from support.png import read_png
from support.ports import free_ports
from support.real_parts import need

pytestmark = [pytest.mark.real_part("docker"), pytest.mark.real_part("tigervnc")]
PATIENCE = 90.0
COLOUR = (0x1E, 0x90, 0x40)
SIZE = (640, 480)
PIXEL = """() => {
    const canvas = document.querySelector("#screen-view canvas");
    return canvas && canvas.width ? [canvas.width, canvas.height, ...canvas.getContext("2d").getImageData(320, 240, 1, 1).data] : [];
}"""


@pytest.fixture(name="home")
async def home_fixture(bench: Bench) -> AsyncIterator[DockerHome]:
    place = DockerHome(bench, vnc=True)
    yield place
    await place.end()


@asynccontextmanager
async def serving(home: DockerHome, said: str, environment: Mapping[str, str]) -> AsyncIterator[tuple[str, str]]:
    """The installed command with alice's gateway, once it has said this: its address, and an operator's token."""
    image = await asyncio.to_thread(screen_image, home.bench.api, "ibc", COLOUR, environment)
    await home.add_with(image, "alice")
    address = f"127.0.0.1:{free_ports(1)}"
    command = Command(home, http_address=address)
    with command.begun("run") as process:
        await asyncio.to_thread(process.says, said)
        made = await asyncio.to_thread(command, "tokens", "add", "olga", "--role", "operator")
        yield f"http://{address}", made.stdout.strip()


async def test_the_page_shows_the_screen_of_a_gateway_in_its_container(home: DockerHome) -> None:
    """Page, bridge, the container's VNC port, and its colour on the canvas; the password was made in the container."""
    program = shutil.which("chromium") or need("Chromium", INSTALL_CHROMIUM)
    async with serving(home, "GatewayReady", {}) as (address, token), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        await page.goto(f"{address}/sign-in?next=/gateway?follower=alice#token={token}")
        await page.get_by_role("button", name="Show the screen", exact=True).click()
        await expect(page.locator("#screen-said")).to_contain_text("Shown, view only", timeout=PATIENCE * 1000)
        found: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            while found != [*SIZE, *COLOUR, 255]:
                found = await page.evaluate(PIXEL)
                await asyncio.sleep(0.2)
        await browser.close()


async def test_a_gateway_that_hangs_leaves_the_picture_of_its_screen(home: DockerHome) -> None:
    """It is given up, removed, and an operator sees what it showed, of the whole screen and in the right colour."""
    home.settings |= {"max_startup_time": 20.0, "login_budget": 1}
    hangs = {"SIMULATOR_SCRIPT": json.dumps([{"login_hangs": True, "forever": True}])}
    async with (
        serving(home, "max_startup_time", hangs) as (address, token),
        httpx.AsyncClient(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE) as http,
    ):
        async with asyncio.timeout(PATIENCE):
            while not (listed := (await http.get("/v1/gateways/alice/pictures")).json()):
                await asyncio.sleep(0.2)
            while home.containers():
                await asyncio.sleep(0.2)
        answer = await http.get(f"/v1/gateways/alice/pictures/{listed[0]['id']}")
        image = read_png(answer.content)
    assert (image.width, image.height) == SIZE
    assert {image.colour(x, y) for x in range(0, 640, 16) for y in range(0, 480, 16)} == {COLOUR}
    (kept,) = (home.directory / "pictures").rglob("*.png")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
