"""What every action has in common: how it begins, what it is given, how it ends, and what may be done to it meanwhile.

An action is one file of this package, named as its kind, with one `ACTION`. It knows the protocols and no policy: nothing here
decides whether, when or how often. Its work returns an `ActionResult` and raises only when it was cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar

from spreadpilot_core.ibkr.deciding.decision import Action
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure
from spreadpilot_core.ibkr.errors import GatewayManagerError, UnavailableError
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.supervision.facts import GatewayFacts
from spreadpilot_core.ibkr.supervision.services import Services

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult(Generic[T]):
    """How an action ended."""

    found: T | None = None
    """What it brought."""
    failure: Failure | None = None
    sentence: str = ""
    until: datetime | None = None
    """Not again before this time, where the failure named one."""
    error: GatewayManagerError | None = None
    runtime_unsure: bool = False
    """The runtime could not say what is there now: it must be listed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionContext:
    """What one run of an action is given."""

    facts: GatewayFacts
    services: Services
    asked: Action
    """As it was decided on."""
    wake: Callable[[], None]
    relist: Callable[[], None]
    """Have the runtime asked what is there, for all gateways."""
    reset_from: datetime | None = None
    """From this moment on IBKR's reset explains an end without an answer."""
    cause: ReasonCode | None = None
    """Why it was begun, as a code; None: a gateway is simply wanted."""
    abort: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something else is wanted now: what may not be cancelled gives up at its next safe point."""


Work: TypeAlias = Coroutine[Any, Any, ActionResult[T]]


def _nothing_to_apply(_: ActionResult[Any], __: ActionContext) -> None:
    """Its outcome says all that deciding needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAction(Generic[T]):
    """One kind of action."""

    kind: ActionKind
    run: Callable[[ActionContext], Work[T] | None]
    """Does what is done at once and gives the work that takes time; None when there is none, or what it is for has gone."""
    apply: Callable[[ActionResult[T], ActionContext], None] = _nothing_to_apply
    """Writes what the work brought into the facts."""
    cancellable: bool = False
    """It changes nothing outside, so that it may be cut short."""
    touches_container: bool = False
    """A list of the runtime may be older than what it does."""

    @property
    def span(self) -> str:
        """What it is called in a trace."""
        return f"gateway {self.kind.value}"


def failed(error: GatewayManagerError, failure: Failure | None = None, **more: Any) -> ActionResult[Any]:
    """The result of an action that ended with this error."""
    if failure is None:
        failure = Failure.UNAVAILABLE if isinstance(error, UnavailableError) else Failure.FAILED
    return ActionResult(failure=failure, sentence=str(error), error=error, **more)
