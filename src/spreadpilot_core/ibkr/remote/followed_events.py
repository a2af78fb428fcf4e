"""What a manager tells, as the events that it would have given in its own process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.events import Event

_OWN = ("GatewayReady", "ClientStale")
"""These are about the manager's own clients; a remote manager tells of its own."""


def event_of(document: Mapping[str, Any]) -> Event | None:
    """The event; None for one that is about the manager's own clients, or that this version does not know."""
    name = str(document.get("name"))
    kind = getattr(events, name, None)
    if name in _OWN or not (isinstance(kind, type) and issubclass(kind, Event)):
        return None
    try:
        return _adapter(name).validate_python({key: value for key, value in document.items() if key != "name"})
    except ValidationError:
        return None


@cache
def _adapter(name: str) -> TypeAdapter[Event]:
    return TypeAdapter(getattr(events, name))
