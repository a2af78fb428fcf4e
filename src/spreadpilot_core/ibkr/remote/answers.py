"""What a manager answers, as the objects that it would have given in its own process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spreadpilot_core.ibkr import errors
from spreadpilot_core.ibkr.errors import GatewayManagerError, UnavailableError
from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.events import Event

_MAY_PASS = (429, 502, 503, 504)
"""Codes of a manager, or of what lies between, that ask for patience."""
_OWN = ("GatewayReady", "ClientStale")
"""These are about the manager's own clients; a remote manager tells of its own."""


def refusal(answer: Any, code: int) -> GatewayManagerError:
    """The error that a refusal stands for: of the same class, with the same sentence."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("sentence"), str):
        answer = {"sentence": f"The gateway manager answered {code}, with what is no refusal of its own."}
    kind = getattr(errors, str(answer.get("error")), None)
    made: type[GatewayManagerError] = UnavailableError if code in _MAY_PASS else GatewayManagerError
    if isinstance(kind, type) and issubclass(kind, GatewayManagerError):
        made = kind
    hint = answer.get("hint")
    error = made.__new__(made)
    GatewayManagerError.__init__(error, answer["sentence"], hint=hint if isinstance(hint, str) else None)
    return error


def leader_in(answer: Any) -> Mapping[str, Any] | None:
    """Where the leader is, when a manager that stands by says so."""
    found = answer.get("leader") if isinstance(answer, Mapping) else None
    return found if isinstance(found, Mapping) else None


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
