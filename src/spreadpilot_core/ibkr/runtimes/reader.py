"""A look at the gateways from beside a running manager: which there are, and what they print. It changes nothing.

Opening a runtime as the manager does may start a host process, and closing it may remove a network; whoever only looks
does neither.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Protocol

from spreadpilot_core.ibkr.model.gateways import ForeignGateway, Gateway


class RuntimeReader(Protocol):
    """Looks at the gateways of one manager. All raise `RuntimeUnavailableError`."""

    @property
    def foreign(self) -> Sequence[ForeignGateway]:
        """Other managers' gateways, as the last `list` saw them."""

    async def list(self) -> Sequence[Gateway]:
        """Every container with an identity of the manager, as its state directory notes it, whatever its state."""

    async def identities(self) -> Collection[str]:
        """Those that anything here bears: gateways, and what outlives them."""

    def lines(self, gateway: Gateway, *, last: int, follow: bool) -> AsyncGenerator[str, None]:
        """The newest `last` lines of its life's log, oldest first; with `follow` also those that come until it ends."""

    async def screen_password(self, gateway: Gateway) -> str | None:
        """The password of its screen, made at random at its start; None where none is shown. Show it to nobody but who asked."""
