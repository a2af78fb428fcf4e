"""What the outside reads of a supervisor: its snapshot, and the mapping that other services find in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from spreadpilot_core.ibkr.deciding.comparing_user import uncompared_notice
from spreadpilot_core.ibkr.deciding.decision import severity_of
from spreadpilot_core.ibkr.errors import UnknownFollowerError
from spreadpilot_core.ibkr.model.followers import FaultyRecord, FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Endpoint, Gateway
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode, Severity
from spreadpilot_core.ibkr.model.records import GatewayMapping
from spreadpilot_core.ibkr.model.secret_refs import shown_version
from spreadpilot_core.ibkr.model.snapshots import CredentialsView, GatewaySnapshot
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.reporting.announcer import written_user_sentence
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor


class Mappings:
    """The mappings of the fleet's gateways: each made once for each change, since of thousands most are as they were."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._shown: dict[FollowerId, tuple[object, ...]] = {}
        self._changed_at: dict[FollowerId, datetime] = {}
        self._made: dict[FollowerId, GatewayMapping] = {}
        """Those that have not changed since they were made."""

    def have_changed(self, supervisor: GatewaySupervisor) -> bool:
        """Whether this one, after a pass of its loop, differs from what was last shown of it."""
        gateway = supervisor.facts.gateway_view.gateway
        mapped = gateway.container_id if gateway is not None and supervisor.facts.gateway_view.is_running else None
        shown = (mapped, supervisor.facts.client_id, supervisor.state.status)
        if self._shown.get(supervisor.follower_id) == shown:
            return False
        self._shown[supervisor.follower_id] = shown
        self._changed_at[supervisor.follower_id] = self._clock()
        self._made.pop(supervisor.follower_id, None)
        return True

    def of(self, supervisors: Iterable[GatewaySupervisor]) -> list[GatewayMapping]:
        """One for each gateway that runs."""
        return [
            self._mapping(supervisor, gateway, gateway.endpoint)
            for supervisor in supervisors
            if (gateway := supervisor.facts.gateway_view.gateway) is not None
            and supervisor.facts.gateway_view.is_running
            and gateway.endpoint is not None
        ]

    def _mapping(self, supervisor: GatewaySupervisor, gateway: Gateway, endpoint: Endpoint) -> GatewayMapping:
        follower_id = supervisor.follower_id
        known = self._made.get(follower_id)
        if known is None or known.container_id != gateway.container_id:
            known = self._made[follower_id] = GatewayMapping(
                follower_id=follower_id,
                container_id=gateway.container_id,
                container_name=gateway.name,
                host_port=endpoint.port,
                client_id=supervisor.facts.client_id or gateway.client_id,
                status=supervisor.state.status.value,
                last_updated=self._changed_at.get(follower_id) or supervisor.since,
            )
        return known


def snapshot_of(
    follower_id: str, supervisors: Mapping[FollowerId, GatewaySupervisor], faulty: Mapping[str, FaultyRecord]
) -> GatewaySnapshot:
    """Of its gateway, as long as there is one, also of a record that can't be used any more; else of its record.

    Raises `UnknownFollowerError`.
    """
    supervisor, record = supervisors.get(FollowerId(follower_id)), faulty.get(follower_id)
    if supervisor is not None and (record is None or supervisor.facts.gateway_view.gateway is not None):
        return snapshot(supervisor)
    if record is None:
        raise UnknownFollowerError(follower_id, {*supervisors, *faulty})
    return _faulty_snapshot(record)


def snapshot(supervisor: GatewaySupervisor) -> GatewaySnapshot:
    """What the outside sees of this gateway now."""
    there, login = supervisor.facts.gateway_view, supervisor.facts.secret.login
    why = _why(supervisor)
    code = why.code if why is not None else None
    gateway, connection = there.gateway, there.connection
    trip = connection.round_trip if connection is not None else None
    return GatewaySnapshot(
        follower_id=supervisor.follower_id,
        status=supervisor.state.status,
        state=supervisor.state,
        reason=why.sentence if why is not None else None,
        reason_code=code,
        severity=severity_of(supervisor.state, code),
        facts=why.facts if why is not None else {},
        since=supervisor.since,
        next_action=why.next_action if why is not None else None,
        endpoint=there.endpoint,
        client_id=supervisor.facts.client_id,
        accounts=connection.accounts if connection is not None else (),
        trading_mode=trading_mode(supervisor),
        container=gateway.name if gateway else None,
        container_health=gateway.health if gateway else None,
        image=gateway.image if gateway else None,
        outdated=_is_outdated(supervisor),
        credentials=CredentialsView(
            source=login.source,
            version=shown_version(login.version),
            date=login.written_at.date() if login.written_at else None,
        )
        if login is not None
        else None,
        notices=tuple(_notices(supervisor)),
        last_heartbeat=connection.last_heartbeat if connection is not None else None,
        round_trip_ms=round(trip * 1000, 3) if trip is not None else None,
        vnc=gateway.vnc if gateway else None,
    )


def _faulty_snapshot(record: FaultyRecord) -> GatewaySnapshot:
    """A record that can't be used, FAILED and `invalid`."""
    assert record.since is not None
    return GatewaySnapshot(
        follower_id=record.id,
        status=GatewayStatus.FAILED,
        state=State.INVALID,
        reason=record.fault,
        reason_code=ReasonCode.RECORD_INVALID,
        severity=Severity.ERROR,
        since=record.since,
        next_action="It starts when its record is corrected.",
    )


def _why(supervisor: GatewaySupervisor) -> Reason | None:
    """Why it is not ready; between an event and the decision on it there is nothing more to say than that."""
    decision, then = supervisor.decision, "It is observed now."
    if decision is None:
        return Reason(ReasonCode.NOT_OBSERVED_YET, "Not observed yet.", then)
    if decision.state is supervisor.state:
        return decision.why
    closed = Reason(ReasonCode.CONNECTION_CLOSED, "The API connection was closed.")
    return replace(decision.why or closed, next_action=then)


def trading_mode(supervisor: GatewaySupervisor) -> TradingMode | None:
    """The mode of the gateway that is there, else of the one that would be launched: paper until an operator confirmed live."""
    gateway, follower = supervisor.facts.gateway_view.gateway, supervisor.facts.follower
    if gateway is not None:
        return gateway.trading_mode
    if _is_confirmed_paper(supervisor):
        return TradingMode.PAPER
    return follower.trading_mode if follower is not None else None


def _is_confirmed_paper(supervisor: GatewaySupervisor) -> bool:
    """Whether paper is what it trades until an operator says otherwise, whatever its record in the store asks for."""
    return supervisor.facts.record.trading_mode is TradingMode.PAPER


def _is_outdated(supervisor: GatewaySupervisor) -> bool:
    gateway, spec = supervisor.facts.gateway_view.gateway, supervisor.facts.spec
    if gateway is None or spec is None:
        return False
    if spec.trading_mode is TradingMode.LIVE and _is_confirmed_paper(supervisor):  # a restart would not bring that
        return False
    port = gateway.endpoint.port if gateway.endpoint is not None else None
    return gateway.spec_digest != spec.digest or spec.options.port not in (None, port)


def _outdated_sentence(supervisor: GatewaySupervisor, gateway: Gateway | None) -> str:
    wanted = supervisor.facts.spec.trading_mode if supervisor.facts.spec is not None else None
    if gateway is not None and wanted is not None and wanted is not gateway.trading_mode:
        modes = f"{wanted.value}, and the gateway that runs trades {gateway.trading_mode.value.upper()}"
        return f"Its record asks for {modes}; `restart` brings what it asks for."
    return "Its record or the settings ask for another gateway than the one that runs; `restart` brings it."


def _uncompared(supervisor: GatewaySupervisor) -> str | None:
    memory = supervisor.facts.memory
    if supervisor.facts.gateway_view.gateway is None:
        return None
    failed = memory.not_before_reason if memory.prepare_failures else None
    return uncompared_notice(supervisor.facts.record, failed=failed, begins_nothing=supervisor.facts.wanted_why)


def _notices(supervisor: GatewaySupervisor) -> list[str]:
    gateway, view = supervisor.facts.gateway_view.gateway, supervisor.facts.gateway_view.login_view
    notices = [*supervisor.facts.roster_notices, *filter(None, (supervisor.facts.roster_loss,))]
    if supervisor.facts.roster_fault is not None:
        notices.append(f"The followers can't be read: {supervisor.facts.roster_fault}")
    notices += gateway.notices if gateway is not None else []
    notices += list(view.notices) if view is not None else []
    if supervisor.defect is not None:
        notices.append(supervisor.defect)
    if view is not None and view.human is not None and supervisor.state.status is GatewayStatus.RUNNING:
        notices.append(view.human.sentence)
    if supervisor.facts.secret.login is not None and supervisor.facts.secret.login.notice is not None:
        notices.append(supervisor.facts.secret.login.notice)
    notices += filter(None, (_uncompared(supervisor), supervisor.facts.login.notice))
    if supervisor.facts.secret.login is not None and supervisor.facts.secret.login.written_user is not None:
        notices.append(written_user_sentence(supervisor.facts.secret.login))
    if _is_outdated(supervisor):
        notices.append(_outdated_sentence(supervisor, gateway))
    if gateway is not None:
        notices += filter(None, (_next_login(supervisor),))
    return notices


def _next_login(supervisor: GatewaySupervisor) -> str | None:
    """What is to be known of the login after the present one."""
    used, newest = supervisor.facts.record.secret_version, supervisor.facts.secret.newest_version
    if (refused := supervisor.facts.secret.refused) is not None:
        return f"It stays logged in, and could not log in again: {refused}"
    memory = supervisor.facts.memory
    if memory.prepare_failures and memory.not_before_reason is not None and not supervisor.facts.record.user_unproven:
        return f"It stays logged in; its login could not be had when it was last asked for: {memory.not_before_reason}"
    return "A new password waits for the next restart." if None not in (newest, used) and newest != used else None
