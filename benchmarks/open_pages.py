"""Hundreds of gateways, and the page open in many browser windows at once: how late the manager's loop is meanwhile.

Each window of one Chromium is signed in and live. All gateways lose IBKR at the same time and get it back, which every page
shows. An idle process beside it shows how late a loop is that has nothing to do on this machine; Chromium, and what drives it on the
manager's own loop, share the processors with both. It needs Debian's `chromium`.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import time
from contextlib import AsyncExitStack

from playwright.async_api import Browser, Page, async_playwright

from benchmarks.support.figures import Findings, number, percentile, run, spread
from benchmarks.support.lag import Lag, bystander
from benchmarks.support.place import LONGEST, Place, place, started
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.access import tokens
from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.http_api.page.assets import HTMX, Assets
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import utc_now
from spreadpilot_core.ibkr.wiring import open_shared
from support.ports import free_ports

OPENING, QUIET, TROUBLE = "while {} pages open", "with {} pages open", "while all gateways lose IBKR and get it back"
KEYS = {OPENING: "opening", QUIET: "open", TROUBLE: "trouble"}
ALL_ARE = "() => [...document.querySelectorAll('tr[data-follower] .badge')].every((each) => each.textContent === '{}')"
PAINT = "performance.getEntriesByType('paint').find((each) => each.name === 'first-contentful-paint')?.startTime ?? 0"


async def measure(findings: Findings, gateways: int, pages: int, watch: float) -> None:
    """First paint, how soon the last page shows what happened, and the loop's lag in each phase."""
    chromium = shutil.which("chromium")
    if chromium is None:
        findings.miss("the whole of it", "there is no Chromium here: apt-get install chromium")
        return
    if Assets.read().find(HTMX) is None:
        findings.miss("the whole of it", "the page's browser code is not here: make setup")
        return
    lag, times, address = Lag(), {}, f"127.0.0.1:{free_ports(1)}"
    with place(gateways) as here, bystander() as idle:
        async with started(here, http_address=address) as (_, runtime), AsyncExitStack() as held:
            playwright = await held.enter_async_context(async_playwright())
            browser = await playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-renderer-backgrounding"]
            )
            token = await _token(here)
            lag.begin()
            begin = time.monotonic()
            opened = [await _opened(browser, address, token) for _ in range(pages)]
            paints = [float(await page.evaluate(PAINT)) for page in opened]
            times[OPENING] = begin, time.monotonic()
            await asyncio.sleep(watch)
            times[QUIET] = times[OPENING][1], time.monotonic()
            lost, back = await _trouble(runtime, opened)
            times[TROUBLE] = times[QUIET][1], time.monotonic()
            lag.end()
            await browser.close()
    findings.figure(
        f"How long until one of {pages} pages with {gateways} gateways shows something?",
        spread(paints),
        median=(statistics.median(paints), "ms"),
        longest=(max(paints), "ms"),
    )
    findings.figure(
        f"How long until all {pages} pages show that all {gateways} gateways have lost IBKR?",
        f"{number(lost)} s; that they have it back, {number(back)} s",
        lost=(lost, "s"),
        back=(back, "s"),
    )
    for name, (first, last) in times.items():
        ours, beside = lag.between(first, last), idle.between(first, last)
        findings.figure(
            f"How late is the loop of {gateways} gateways {name.format(pages)}?",
            f"{spread(ours)}; an idle process beside it: {spread(beside)}",
            **{
                f"{KEYS[name]}_p99": (percentile(ours, 99), "ms"),
                f"{KEYS[name]}_idle_p99": (percentile(beside, 99), "ms"),
            },
        )


async def _token(here: Place) -> str:
    shared = open_shared(Settings.read(**here.settings))
    await shared.open()
    try:
        return await tokens.add(shared, "bench", role=Role.VIEWER, followers=None, expires_at=None, now=utc_now())
    finally:
        await shared.close()


async def _opened(browser: Browser, address: str, token: str) -> Page:
    """A window of its own, signed in and live."""
    page = await (await browser.new_context()).new_page()
    page.set_default_timeout(LONGEST * 1000)
    await page.goto(f"http://{address}/sign-in#token={token}")
    await page.locator("body[data-live]").wait_for()
    return page


async def _trouble(runtime: SimulatedRuntime, opened: list[Page]) -> tuple[float, float]:
    """Seconds until every row of every page shows the loss, and the return, from when the first gateway was told."""
    found = await runtime.list()
    times = []
    for what, state in (("link_lost", "degraded"), ("link_restored", "ready")):
        begin = time.monotonic()
        await asyncio.gather(*(runtime.inject(each.follower_id, what) for each in found))
        await asyncio.gather(*(page.wait_for_function(ALL_ARE.format(state)) for page in opened))
        times.append(time.monotonic() - begin)
    return times[0], times[1]


if __name__ == "__main__":
    given = options(__doc__, gateways=(500, 3), pages=(20, 2), watch=(20.0, 0.5))
    sys.exit(run(lambda findings: measure(findings, given.gateways, given.pages, given.watch)))
