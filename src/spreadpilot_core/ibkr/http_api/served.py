"""What every route of an application has, and how it gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from spreadpilot_core.ibkr.access.callers import Caller
from spreadpilot_core.ibkr.http_api.gates import Auditing, Gate, SocketGate, Unaudited
from spreadpilot_core.ibkr.http_api.leader import Leader
from spreadpilot_core.ibkr.http_api.operations import Operations
from spreadpilot_core.ibkr.http_api.scoping import Redaction, ScopedManager
from spreadpilot_core.ibkr.http_api.served_manager import ProbedManager, ServedManager

_MOST_REDACTIONS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedApp:
    """What every route of an application may use."""

    manager: ServedManager
    """As the caller sees it: one who knows some followers only sees nothing of the others."""
    whole_manager: ProbedManager
    """As it is; nothing of it is shown to anybody."""
    detach: Callable[[], None]
    """Called when somebody asks for it; returns at once."""
    gate: Gate = field(default_factory=SocketGate)
    """How it knows who asks."""
    auditor: Auditing = field(default_factory=Unaudited)
    operations: Operations
    leader: Leader
    redactions: dict[frozenset[str], Redaction] = field(default_factory=dict)
    """For callers who know some followers only, by these."""

    def redaction(self, followers: frozenset[str]) -> Redaction:
        """What keeps the others out of sentences."""
        if followers not in self.redactions and len(self.redactions) >= _MOST_REDACTIONS:
            self.redactions.clear()  # they are made again
        return self.redactions.setdefault(followers, Redaction(self.whole_manager, followers))


def served_app(connection: HTTPConnection) -> ServedApp:
    """Of the application that answers this request, the manager as it is."""
    served = connection.app.state.served
    assert isinstance(served, ServedApp)
    return served


def _served(connection: HTTPConnection) -> ServedApp:
    """For the caller, on a route that needs a role; on others nothing of the manager is shown."""
    served, caller = served_app(connection), getattr(connection.state, "caller", None)
    followers = caller.followers if isinstance(caller, Caller) else frozenset()
    if followers is None:
        return served
    return replace(served, manager=ScopedManager(served.whole_manager, followers, served.redaction(followers)))


Served = Annotated[ServedApp, Depends(_served)]
"""What a route's function takes to have it."""
