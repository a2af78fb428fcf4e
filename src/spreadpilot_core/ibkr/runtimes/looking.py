"""A look at the gateways from beside a running manager: which there are, and what they print. It changes nothing.

Opening a runtime as the manager does may start a host process, and closing it may remove a network; whoever only looks
does neither.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from spreadpilot_core.ibkr.protocols import Gateway
from spreadpilot_core.ibkr.settings import Settings


class Onlooker(Protocol):
    """Looks at the gateways of one owner. All raise `RuntimeUnavailableError`."""

    async def find(self) -> Sequence[Gateway]:
        """Every gateway, whatever its state."""

    def lines(self, gateway: Gateway, *, last: int, follow: bool) -> AsyncGenerator[str, None]:
        """The newest `last` lines of its life's log, oldest first; with `follow` also those that come until it ends."""

    async def screen_password(self, gateway: Gateway) -> str | None:
        """The password of its screen, made at random at its start; None where none is shown. Show it to nobody but who asked."""


def onlooker(settings: Settings) -> AbstractAsyncContextManager[Onlooker]:
    """An onlooker at the runtime that the settings name; entering raises `RuntimeUnavailableError` with the cure."""
    if settings.runtime_url.startswith("simulated:"):
        from spreadpilot_core.ibkr.runtimes.simulated_look import look_at_simulated  # noqa: PLC0415  # when chosen

        return look_at_simulated(settings)
    from spreadpilot_core.ibkr.runtimes.docker_look import look_at_docker  # noqa: PLC0415  # when chosen

    return look_at_docker(settings)
