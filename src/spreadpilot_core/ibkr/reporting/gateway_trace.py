"""One trace per launch and one per recovery: from the first cause until the gateway is ready, or a human must act.

    the gateway is wanted and not ready  -> the root span begins: `launch`, or `recovery` of one that was ready before
    it waits for its turn to log in      -> `permit wait`
    the login moves from phase to phase  -> `login authenticating`, `login awaiting_2fa`, …
    an action runs                       -> a span of its own, with what it asks of others below it
    a connect failed, and the next one   -> `connect pause` between them
    ready                                -> the root ends; stopped, or a human is needed: it ends with the reason code

What is done within a cycle is done within the root span, so that log lines and events name it. Without a tracer that keeps
spans, nothing of this is made.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from spreadpilot_core.ibkr.controller_log.tables import VERDICTS, LoginPhase
from spreadpilot_core.ibkr.deciding.decision import Decision
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure, Observation, PermitState, Wanted
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.telemetry import Span, begin_span, fail_span, spans_are_recorded, within

_OVER = frozenset({State.NEEDS_HUMAN, State.INVALID, State.STOPPED, State.DISABLED})
"""Where nothing goes on by itself."""
_UNDER_WAY = frozenset(
    {LoginPhase.STARTING, LoginPhase.FORM, LoginPhase.AUTHENTICATING, LoginPhase.AWAITING_2FA, LoginPhase.RESTARTING}
)


class GatewayTrace:
    """Of one follower's gateway."""

    def __init__(self, follower_id: FollowerId) -> None:
        self._follower_id = follower_id
        self._root: Span | None = None
        self._was_ready = False
        self._launched = False
        self._permit: Span | None = None
        self._login: Span | None = None
        self._login_serial: tuple[object, int] | None = None
        self._connect_failed_at: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the gateway is on its way to be ready."""
        return self._root is not None

    def current(self) -> AbstractContextManager[Any]:
        """A block of what is done for this trace."""
        return within(self._root)

    def follow(self, before: Decision | None, decision: Decision, seen: Observation) -> None:
        """Begin, go on or end by what was decided."""
        state = decision.state
        if self._root is None and not self._begins(state, seen):
            self._was_ready = self._was_ready or state is State.READY
            return
        if self._root is None:
            self._begin(decision)
        elif before is None or before.state is not state:
            self._note_state(decision)
        self._follow_permit(decision, seen)
        self._follow_login(seen)

    def settle(self, decision: Decision) -> None:
        """After everything of the cycle was told: end what has come to its end."""
        if self._root is None:
            return
        if decision.state is State.READY:
            if not self._launched and not self._was_ready:
                self._root.update_name("adoption")
            self._was_ready = True
            self._end()
        elif decision.state in _OVER:
            code = decision.reason_code.value if decision.reason_code is not None else decision.state.value
            fail_span(self._root, code, decision.reason or "")
            self._end()

    def close(self) -> None:
        """The manager lets go of the gateway."""
        if self._root is not None:
            self._root.add_event("let go")
            self._end()

    # ------------------------------------------------------------------ actions

    def action_begins(self, kind: ActionKind) -> None:
        """Its span comes next; between two tries to connect lies a pause."""
        self._launched = self._launched or kind is ActionKind.LAUNCH
        failed_at, begun = self._connect_failed_at, time.time_ns()
        if kind is ActionKind.CONNECT and failed_at is not None and self._root is not None:
            begin_span("connect pause", below=self._root, at=failed_at, follower=self._follower_id).end(begun)
            self._connect_failed_at = None

    def action_ended(self, kind: ActionKind, failure: Failure | None) -> None:
        """Remember since when the next try is waited for."""
        if kind is ActionKind.CONNECT:
            self._connect_failed_at = time.time_ns() if failure is not None else None

    # ------------------------------------------------------------------ the root

    def _begins(self, state: State, seen: Observation) -> bool:
        on_its_way = state.status is GatewayStatus.STARTING or state in (State.BACKING_OFF, State.DEGRADED)
        return on_its_way and seen.wanted is Wanted.RUN and spans_are_recorded()

    def _begin(self, decision: Decision) -> None:
        name = "recovery" if self._was_ready else "launch"
        self._launched = False
        self._root = begin_span(name, follower=self._follower_id)
        self._note_state(decision)

    def _note_state(self, decision: Decision) -> None:
        assert self._root is not None
        code = decision.reason_code.value if decision.reason_code is not None else None
        facts = {"state": decision.state.value, **({"reason_code": code} if code is not None else {})}
        self._root.add_event("state changed", facts)
        if code is not None:
            self._root.set_attribute("reason_code", code)

    def _end(self) -> None:
        assert self._root is not None
        for span in (self._permit, self._login, self._root):
            if span is not None:
                span.end()
        self._root = self._permit = self._login = None
        self._login_serial = self._connect_failed_at = None

    # ------------------------------------------------------------------ what no action does

    def _follow_permit(self, decision: Decision, seen: Observation) -> None:
        waits = seen.permit is not None and seen.permit.state is PermitState.WAITING
        if waits and self._permit is None:
            self._permit = begin_span("permit wait", below=self._root, follower=self._follower_id)
            if decision.reason_code is not None:
                self._permit.set_attribute("reason_code", decision.reason_code.value)
        elif not waits and self._permit is not None:
            self._permit.end()
            self._permit = None

    def _follow_login(self, seen: Observation) -> None:
        view, gateway = seen.login, seen.gateway
        serial = (gateway.container_id, view.phase_serial) if view is not None and gateway is not None else None
        if serial == self._login_serial:
            return
        self._login_serial = serial
        phase = view.phase if view is not None else None
        if self._login is not None:
            if phase in VERDICTS:
                fail_span(self._login, phase.value)
            self._login.end()
            self._login = None
        if phase in _UNDER_WAY and self._root is not None:
            self._login = begin_span(f"login {phase.value}", below=self._root, follower=self._follower_id)
