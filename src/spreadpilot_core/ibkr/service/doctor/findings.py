"""What a check finds: a verdict, a sentence, and the cure where there is something to cure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.followers import Follower, Roster
from spreadpilot_core.ibkr.settings import Settings


class Verdict(str, Enum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    """Something will not work; the command ends with exit code 1."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    verdict: Verdict
    what: str
    cure: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at: finds at least one line, or raises `GatewayManagerError`, which is a problem."""

    name: str
    observe: Callable[[Settings], Awaitable[Sequence[Finding]]]
    within: float = 20.0
    """Seconds it may take."""


def ok(what: str) -> Finding:
    """Nothing to do."""
    return Finding(Verdict.OK, what)


def warning(what: str, cure: str | None = None) -> Finding:
    """It works, or may."""
    return Finding(Verdict.WARNING, what, cure)


def problem(what: str, cure: str | None = None) -> Finding:
    """It doesn't work."""
    return Finding(Verdict.PROBLEM, what, cure)


def raised(error: GatewayManagerError) -> Finding:
    """A problem in its own words."""
    return problem(error.what, error.hint)


def wanted(roster: Roster) -> list[Follower]:
    """Who should have a gateway."""
    return [follower for follower in roster.usable.values() if follower.is_wanted]
