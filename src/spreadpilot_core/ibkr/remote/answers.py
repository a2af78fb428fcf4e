"""What a manager refuses, as the error that it would have raised in its own process, and where it says that its leader is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spreadpilot_core.ibkr import errors
from spreadpilot_core.ibkr.errors import GatewayManagerError, UnavailableError

_MAY_PASS = (429, 502, 503, 504)
"""Codes of a manager, or of what lies between, that ask for patience."""


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
