"""Gathers all that is known about one gateway at one moment into the `Observation` that `decide` is given. Facts only."""

from __future__ import annotations

from spreadpilot_core.ibkr.deciding.observation import ActionKind, Limits, Observation, Outcome
from spreadpilot_core.ibkr.supervision.facts import GatewayFacts
from spreadpilot_core.ibkr.supervision.login_in_progress import phone_of


def observe(facts: GatewayFacts, *, running: ActionKind | None, outcome: Outcome | None, limits: Limits) -> Observation:
    """What is known now, with the action in flight and how the last one ended."""
    there, login, requests = facts.gateway_view, facts.login, facts.requests
    user = facts.preflight.login.user if facts.preflight is not None else None
    return Observation(
        follower_id=facts.follower_id,
        wanted=facts.wanted,
        wanted_why=facts.wanted_why,
        follower=facts.follower,
        runtime_fault=facts.runtime_fault,
        gateway=there.gateway,
        record_fault=facts.record_fault,
        left_elsewhere=facts.left_elsewhere,
        unclaimed=facts.unclaimed,
        gateway_stale=there.stale,
        login=there.login_view,
        last_login=there.last_login_view,
        log_ended=there.log_ended,
        connection=there.connection_view,
        running=running,
        image_checked=facts.image_for == facts.spec,
        outcome=outcome,
        preflight=facts.preflight,
        permit=login.permit,
        attempt=login.attempt if running is not ActionKind.LAUNCH else None,
        logins=login.logins,
        phone=phone_of(facts.follower, user, facts.record) if user is not None else None,
        user_taken_by=login.taken_by(user) if user is not None else None,
        record=facts.record,
        newest_version=facts.secret.newest_version,
        operator_login=requests.operator_login,
        overridden_user=requests.overridden_user,
        restart_asked=requests.restart_asked,
        reconnect_asked=requests.reconnect_asked,
        stated_reset_hours=facts.stated_reset_hours,
        reset_window_wait=_waits(facts),
        secret_forgotten=there.secret_forgotten,
        limits=limits,
    )


def _waits(facts: GatewayFacts) -> bool:
    return facts.spec is None or facts.spec.options.reset_window_wait is not False
