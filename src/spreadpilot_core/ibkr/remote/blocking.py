"""The event loop of a program that has none running."""

from __future__ import annotations

import asyncio
import warnings

from spreadpilot_core.ibkr.errors import GatewayManagerError


def loop_of_this_thread(*, instead: str) -> asyncio.AbstractEventLoop:
    """The loop that the client libraries use in this thread too, made where there is none.

    Args:
        instead: what to write where a loop runs already, so that nothing can block.

    Raises:
        GatewayManagerError: a loop runs in this thread, and is not one that can be entered again (`util.startLoop()`).

    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return _current()
    if hasattr(running, "_nest_patched"):  # by nest_asyncio, which the libraries' startLoop() applies
        return running
    raise GatewayManagerError(
        "An event loop runs here already, and nothing may block it.",
        hint=f"Write `{instead}`; or call `util.startLoop()` of ib_async or ib_insync first, as a notebook may.",
    )


def _current() -> asyncio.AbstractEventLoop:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is none yet
        try:
            loop = asyncio.get_event_loop_policy().get_event_loop()
        except RuntimeError:
            loop = None
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop
