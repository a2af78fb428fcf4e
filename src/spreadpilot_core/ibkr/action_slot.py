"""The one action that a gateway may have in flight: an owned task whose end becomes an outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from spreadpilot_core.ibkr.actions import Deed, Ended
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure, Outcome
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.protocols import FollowerId
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import Span, open_span

log = structlog.get_logger(__name__)

CANCELLABLE = frozenset({ActionKind.PREPARE, ActionKind.CONNECT, ActionKind.HEARTBEAT, ActionKind.INSPECT})
"""Actions that change nothing outside, so that they may be cut short."""
CHANGES_CONTAINER = frozenset({ActionKind.LAUNCH, ActionKind.REMOVE, ActionKind.INSPECT})


class ActionSlot:
    """At most one action at a time."""

    def __init__(self, follower_id: FollowerId, tasks: Tasks, take: Callable[[ActionKind, Ended], None]) -> None:
        self._follower_id = follower_id
        self._tasks = tasks
        self._take = take
        self._task: asyncio.Task[Ended] | None = None
        self._span: Span | None = None
        self.kind: ActionKind | None = None
        """What is in flight."""
        self.container_actions = 0
        """How many actions on the container were begun: a list asked for before the last of them is older than that."""
        self.deed: Deed | None = None
        """What a launch in flight was given."""
        self.outcome: Outcome | None = None
        """How the last action ended."""
        self.error: GatewayManagerError | None = None
        """The last failure since somebody asked for something."""

    @property
    def is_busy_with_container(self) -> bool:
        """Whether a list of the runtime may be older than what is being done."""
        return self.kind in CHANGES_CONTAINER

    def begin(self, kind: ActionKind, work: Coroutine[Any, Any, Ended]) -> None:
        """Start it; its end calls `take`."""
        self.kind = kind
        self.container_actions += kind in CHANGES_CONTAINER
        with open_span(f"gateway {kind.value}", follower=self._follower_id) as self._span:
            self._task = self._tasks.begin(kind.value, work, then=self._ended)

    def make_way(self, *, but_for: ActionKind | None = None, abort: bool = True) -> None:
        """Something else is wanted: cut short what may be, and ask a launch to give up at its next safe point."""
        if self.deed is not None and abort:
            self.deed.abort.set()
        if self._task is not None and self.kind in CANCELLABLE and self.kind is not but_for:
            self._task.cancel()

    async def finish(self, within: float) -> None:
        """At the manager's end: what changes a container gets a little time to reach a safe point."""
        self.make_way()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=within)

    def _ended(self, task: asyncio.Task[Ended]) -> None:
        kind, self._task, self.kind, self.deed = self.kind, None, None, None
        assert kind is not None
        if task.cancelled():
            ended = Ended(failure=Failure.ABORTED, sentence="It was cut short.")
        elif (bug := task.exception()) is not None:
            log.error("action failed", follower=self._follower_id, action=kind.value, exc_info=bug)
            sentence = f"{kind.value} failed in a way nobody foresaw: {bug!r}."
            ended = Ended(failure=Failure.FAILED, sentence=sentence, runtime_unsure=True)
        else:
            ended = task.result()
        serial = self.outcome.serial + 1 if self.outcome else 1
        self.outcome = Outcome(
            serial=serial, kind=kind, failure=ended.failure, sentence=ended.sentence, until=ended.until
        )
        self._end_span(self.outcome)
        if ended.error is not None and ended.failure is not Failure.ABORTED:
            self.error = ended.error
        self._take(kind, ended)

    def _end_span(self, outcome: Outcome) -> None:
        assert self._span is not None
        if outcome.failure is not None:
            self._span.set_attributes({"failure": outcome.failure.value, "sentence": outcome.sentence})
        self._span.end()
