"""Chromium, and pages in it that tell whatever a page may not do."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, expect, sync_playwright

from spreadpilot_core.ibkr.http_api.page.assets import HTMX, NOVNC, STATIC
from support.real_parts import need
from support.waiting import PATIENCE

T = TypeVar("T")

INSTALL = "apt-get install chromium"
FETCH = "python tools/fetch_browser_code.py"
_HARMLESS = ("[DOM]",)
"""What Chromium says of forms to whoever makes them."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's; where it is not, the test is skipped, and fails in CI."""
    program = shutil.which("chromium") or need("Chromium", INSTALL)
    must_have_browser_code()
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def must_have_browser_code() -> None:
    """What the page loads of others; where it was not fetched, the test is skipped, and fails in CI."""
    if not all((STATIC / each).is_file() for each in (HTMX, NOVNC)):
        need("The page's browser code (htmx, noVNC)", FETCH)


@contextmanager
def opened(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page of its own; afterwards nothing may have gone wrong on it: no error, no refusal by its policy, no other host."""
    with browser.new_context(**options) as context:
        context.set_default_timeout(PATIENCE * 1000)
        page, wrong, hosts = context.new_page(), [], set[str]()
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
        yield page
        assert [each for each in wrong if not each.startswith(_HARMLESS)] == []
        assert hosts <= {"127.0.0.1", ""}


def aside(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end in a thread: the browser's own loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
