"""The one place that decides: learn the news, then ask the policies in their order; the first answer stands.

    learn        what is new: a life began or ended, the login moved on, an action ended
    unwanted     stopped, disabled, invalid, shutting down: remove
    changed      an event said that the container changed: look
    over         the container ended, or its login is over for good: remove
    restart      an operator asked: check the rules, then remove
    forget_secret  logged in: the password file goes (`forget_later`: when that failed, again after a pause)
    comparing_user  adopted without a record: hold it back until its user is that of the stored login (`compare_later`: likewise)
    logging_in   watch the login and its limits
    unanswered   a heartbeat was missed: drop the client
    connected    prove it, and keep proving it
    connecting   logged in, not connected: connect, and replace what can't be connected
    launching    no gateway: every login rule, a permit, a launch

Pure: no I/O, no clock, no random source; total over every observation.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from spreadpilot_core.ibkr.deciding.comparing_user import compare_later, comparing_user
from spreadpilot_core.ibkr.deciding.connecting import connecting
from spreadpilot_core.ibkr.deciding.decision import Decision, Memory, Situation
from spreadpilot_core.ibkr.deciding.health import connected, unanswered
from spreadpilot_core.ibkr.deciding.launching import launching
from spreadpilot_core.ibkr.deciding.learning import discard_doubted_log, learn
from spreadpilot_core.ibkr.deciding.logging_in import forget_later, forget_secret, logging_in
from spreadpilot_core.ibkr.deciding.login_window import start_is_over
from spreadpilot_core.ibkr.deciding.observation import ActionKind, FleetView, Observation
from spreadpilot_core.ibkr.deciding.removing import INSPECT_CHANGED, changed, over
from spreadpilot_core.ibkr.deciding.resetting import excused, reset_from
from spreadpilot_core.ibkr.deciding.restarting import restart
from spreadpilot_core.ibkr.deciding.wanting import unwanted

POLICIES = (
    unwanted,
    changed,
    over,
    restart,
    forget_secret,
    comparing_user,
    logging_in,
    unanswered,
    connected,
    connecting,
)


def decide(before: Memory, seen: Observation, fleet: FleetView, now: datetime) -> Decision:
    """What to do next with one gateway, and why.

    Args:
        before: the memory of the previous decision (`Memory(since=now)` at first).
        seen: all that is known now.
        fleet: the rest of the fleet, for evidence.
        now: aware, UTC.

    """
    news = learn(before, seen, fleet, now)
    seen = discard_doubted_log(news.memory, seen)
    situation = Situation(seen=seen, memory=news.memory, record=news.record, fleet=fleet, now=now)
    decision = next((found for policy in POLICIES if (found := policy(situation)) is not None), None)
    if decision is None:
        decision = launching(situation)
    decision = compare_later(situation, forget_later(situation, decision))
    must_inspect = seen.gateway_stale and seen.gateway is not None and seen.runtime_fault is None
    if must_inspect and decision.action is None and seen.running is None:
        decision = replace(decision, action=INSPECT_CHANGED)
    settle = excused(news.settle, news.record, seen, now)
    over_by_now = start_is_over(news.memory, seen, now)
    memory, since = decision.memory, before.since if decision.state is before.state else now
    if (memory.state, memory.since) != (decision.state, since):
        memory = replace(memory, state=decision.state, since=since)
    is_written = news.book_login or (decision.action is not None and decision.action.kind is ActionKind.LAUNCH)
    return replace(
        decision,
        memory=memory,
        settle=settle,
        start_is_over=over_by_now,
        book_login=news.book_login,
        reset_from=reset_from(seen, now) if is_written else None,
    )
