"""The one action that a gateway may have in flight: an owned task whose end becomes an outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from spreadpilot_core.ibkr.deciding.failures import error_code, reason_of
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure, Outcome
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.reporting.gateway_trace import GatewayTrace
from spreadpilot_core.ibkr.seams import UNMEASURED, Instrumentation
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import Span, fail_span, get_logger, open_span

log = get_logger(__name__)


class ActionRunner:
    """At most one action at a time."""

    def __init__(
        self,
        follower_id: FollowerId,
        tasks: Tasks,
        then: Callable[[ActionResult[Any]], None],
        instrumentation: Instrumentation = UNMEASURED,
        trace: GatewayTrace | None = None,
    ) -> None:
        """`then` is called when what an action brought was applied."""
        self._follower_id = follower_id
        self._tasks = tasks
        self._then = then
        self._instrumentation = instrumentation
        self._trace = trace or GatewayTrace(follower_id)
        self._begun = 0.0
        self._action: GatewayAction[Any] | None = None
        self._context: ActionContext | None = None
        self._task: asyncio.Task[ActionResult[Any]] | None = None
        self._span: Span | None = None
        self._is_superseded = False
        self.container_actions = 0
        """How many actions on the container were begun: a list asked for before the last of them is older than that."""
        self.outcome: Outcome | None = None
        """How the last action ended."""
        self.error: GatewayManagerError | None = None
        """The last failure since somebody asked for something."""
        self.error_code: ReasonCode | None = None
        """What a decision calls it."""

    @property
    def kind(self) -> ActionKind | None:
        """What is in flight."""
        return self._action.kind if self._action is not None else None

    @property
    def is_busy_with_container(self) -> bool:
        """Whether a list of the runtime may be older than what is being done."""
        return self._action is not None and self._action.touches_container

    def begin(self, action: GatewayAction[Any], context: ActionContext) -> None:
        """Start it; when its work ends, what it brought is applied."""
        if (work := action.run(context)) is None:
            return
        self._action, self._context, self._is_superseded = action, context, False
        self.container_actions += action.touches_container
        self._begun = asyncio.get_running_loop().time()
        self._trace.action_begins(action.kind)
        if action.kind is ActionKind.HEARTBEAT and not self._trace.is_open:  # one that only proves what is proven
            self._span = None
            self._task = self._tasks.begin(action.kind.value, work, then=self._ended)
            return
        with open_span(action.span, follower=self._follower_id) as self._span:
            self._task = self._tasks.begin(action.kind.value, work, then=self._ended)

    def make_way(self, *, but_for: ActionKind | None = None, abort: bool = True) -> None:
        """Something else is wanted: cut short what may be, and ask the rest to give up at its next safe point."""
        if self._task is None or self._action is None or self._context is None:
            return
        if abort:
            self._context.abort.set()
        if self._action.cancellable and self._action.kind is not but_for:
            self._task.cancel()

    def supersede(self, kind: ActionKind) -> None:
        """What this one reads is older than what is wanted to be known now: its answer counts no more, and it is begun anew."""
        if self._task is not None and self._action is not None and self.kind is kind and self._action.cancellable:
            self._is_superseded = True
            self._task.cancel()

    async def finish(self, within: float) -> None:
        """At the manager's end: what changes a container gets a little time to reach a safe point."""
        self.make_way()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=within)

    def _ended(self, task: asyncio.Task[ActionResult[Any]]) -> None:
        action, context = self._action, self._context
        self._task, self._action, self._context = None, None, None
        assert action is not None
        assert context is not None
        result = self._result(action, task)
        self.outcome = Outcome(
            serial=self.outcome.serial + 1 if self.outcome else 1,
            kind=action.kind,
            failure=result.failure,
            sentence=result.sentence,
            error_code=error_code(result.error) if result.error is not None else None,
            until=result.until,
        )
        self._trace.action_ended(action.kind, result.failure)
        seconds = asyncio.get_running_loop().time() - self._begun
        ended = result.failure.value if result.failure is not None else "done"
        self._instrumentation.action_ended(self._follower_id, action.kind.value, ended, seconds, cause=context.cause)
        if result.error is not None and result.failure is not Failure.ABORTED:
            self.error, self.error_code = result.error, reason_of(self.outcome).code
        try:
            action.apply(result, context)  # still within the action's span, so that what it tells names it
        finally:
            self._end_span(self.outcome)
        self._then(result)

    def _result(self, action: GatewayAction[Any], task: asyncio.Task[ActionResult[Any]]) -> ActionResult[Any]:
        if task.cancelled() or self._is_superseded:
            return ActionResult(failure=Failure.ABORTED, sentence="It was cut short.")
        if (bug := task.exception()) is None:
            return task.result()
        log.error("action failed", follower=self._follower_id, action=action.kind.value, exc_info=bug)
        sentence = f"{action.kind.value} failed in a way nobody foresaw: {bug!r}."
        return ActionResult(failure=Failure.FAILED, sentence=sentence, runtime_unsure=True)

    def _end_span(self, outcome: Outcome) -> None:
        if self._span is None:
            return
        if outcome.failure is Failure.ABORTED:
            self._span.set_attribute("failure", outcome.failure.value)
        elif outcome.failure is not None:
            self._span.set_attributes({"failure": outcome.failure.value, "sentence": outcome.sentence})
            fail_span(self._span, outcome.failure.value, outcome.sentence)
        self._span.end()
