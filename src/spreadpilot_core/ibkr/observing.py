"""Gathers all that is known about one gateway at one moment into the `Observation` that `decide` is given. Facts only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spreadpilot_core.ibkr.deciding.observation import ActionKind, Limits, Observation

if TYPE_CHECKING:
    from spreadpilot_core.ibkr.supervisor import GatewaySupervisor


def observe(supervisor: GatewaySupervisor, limits: Limits) -> Observation:
    """What this supervisor knows now."""
    there, login, requests, slot = supervisor.presence, supervisor.login, supervisor.requests, supervisor.slot
    return Observation(
        follower_id=supervisor.follower_id,
        wanted=supervisor.wanted,
        wanted_why=supervisor.wanted_why,
        follower=supervisor.follower,
        spec_digest=supervisor.spec.digest if supervisor.spec else None,
        runtime_fault=supervisor.runtime_fault,
        gateway=there.gateway,
        gateway_stale=there.stale,
        login=there.login_view,
        log_ended=there.log_ended,
        connection=there.connection_view,
        running=slot.kind,
        outcome=slot.outcome,
        prepared=supervisor.prepared,
        permit=login.permit,
        attempt=login.attempt if slot.kind is not ActionKind.LAUNCH else None,
        record=supervisor.record,
        newest_version=supervisor.newest_version,
        operator_login=requests.operator_login,
        restart_asked=requests.restart_asked,
        reconnect_asked=requests.reconnect_asked,
        secret_forgotten=there.secret_forgotten,
        limits=limits,
    )
