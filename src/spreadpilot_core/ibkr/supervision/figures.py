"""What is measured of the gateways now, gathered for whoever collects metrics: from any thread, and without waiting.

Everything here only reads; what it reads is replaced and never changed in place, so that a reading on another thread is at
worst a moment old.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from spreadpilot_core.ibkr.deciding.observation import Limits
from spreadpilot_core.ibkr.model.figures import ContainerFigures, GatewayFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import DAY
from spreadpilot_core.ibkr.model.reset_windows import ResetHours, reset_hours
from spreadpilot_core.ibkr.model.states import GatewayStatus
from spreadpilot_core.ibkr.reporting.exchange_hours import ExchangeHours
from spreadpilot_core.ibkr.supervision.facts import GatewayFacts
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor


def gateway_figures(
    supervisor: GatewaySupervisor,
    *,
    limits: Limits,
    usage: Mapping[FollowerId, ContainerFigures],
    hours: ExchangeHours,
    in_reset_hours: Callable[[ResetHours], bool],
    now: datetime,
) -> GatewayFigures:
    """One gateway's; what is asked of zones is asked once for all of them, so it is given."""
    facts, decision = supervisor.facts, supervisor.decision
    there = facts.gateway_view
    gateway = there.gateway
    state = supervisor.state
    known = decision is not None and decision.state is state
    budget, full = _left(facts, limits, now)
    newest, used = facts.secret.newest_version, facts.record.secret_version
    runs, began = state.status is GatewayStatus.RUNNING, facts.memory.program_since
    return GatewayFigures(
        follower_id=supervisor.follower_id,
        state=state,
        reason_code=decision.reason_code if decision is not None and known else None,
        state_age=max(0.0, (now - supervisor.since).total_seconds()),
        session_age=(now - began).total_seconds() if runs and began is not None else None,
        budget_left=budget,
        limit_left=full,
        secret_waits=gateway is not None and None not in (newest, used) and newest != used,
        is_healthy=_health(gateway.health) if gateway is not None else None,
        usage=usage.get(supervisor.follower_id) if gateway is not None else None,
        api=there.api_figures,
        in_reset_hours=in_reset_hours(hours_of(facts)),
        exchange_open=hours.is_open(facts.follower.exchange if facts.follower is not None else None, now),
    )


def hours_of(facts: GatewayFacts) -> ResetHours:
    """IBKR's reset hours for this follower."""
    region = facts.follower.region if facts.follower is not None else None
    return reset_hours(region, facts.stated_reset_hours)


def _left(facts: GatewayFacts, limits: Limits, now: datetime) -> tuple[int | None, int | None]:
    """How many logins the user's budget and limit still allow; None while its logins are not known, or without a limit."""
    if facts.record.user is None:
        return None, None
    user = facts.record.user
    recent = [each for each in facts.login.logins if each.user == user and each.reserved_at > now - DAY]
    counted, full = sum(each.counts for each in recent), sum(each.is_full for each in recent)
    limit = limits.full_login_limit
    return max(0, limits.login_budget - counted), None if limit is None else max(0, limit - full)


def _health(said: str | None) -> bool | None:
    return {"healthy": True, "unhealthy": False}.get(said or "")
