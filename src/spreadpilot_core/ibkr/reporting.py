"""What the outside reads: snapshots of every gateway, and the mappings and history that other services find in the store."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from spreadpilot_core.ibkr.deciding.states import GatewayStatus, State
from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.events import Event
from spreadpilot_core.ibkr.house import House
from spreadpilot_core.ibkr.protocols import (
    AuditHead,
    FaultyRecord,
    FollowerId,
    GatewayMapping,
    HistoryEntry,
    TradingMode,
)
from spreadpilot_core.ibkr.records import shown_version
from spreadpilot_core.ibkr.snapshots import CredentialsView, GatewaySnapshot
from spreadpilot_core.ibkr.supervisor import GatewaySupervisor
from spreadpilot_core.ibkr.tasks import Tasks, arrives

if TYPE_CHECKING:
    from spreadpilot_core.ibkr.fleet import Fleet

log = structlog.get_logger(__name__)

AT_MOST_EVERY = 0.5
"""Seconds between two writes of mappings and history: true within a second of every change."""
RETRY_AFTER = 2.0
HISTORY_WAITING = 10_000
"""History entries that wait for a store that is away; the oldest go first."""


class Reporter:
    """Writes mappings and history, coalesced, and every `compare_every` seconds also when nothing has changed."""

    def __init__(self, house: House, fleet: Fleet, compare_every: float) -> None:
        self._house = house
        self._compare_every = compare_every
        self._audit_head: AuditHead | None = None
        self._has_recalled = False
        self._fleet = fleet
        self._tasks = Tasks("reporter")
        self._due = asyncio.Event()
        self._history: deque[HistoryEntry] = deque(maxlen=HISTORY_WAITING)
        self._shown: dict[FollowerId, tuple[object, ...]] = {}
        self._changed_at: dict[FollowerId, datetime] = {}

    def begin(self) -> None:
        """Listen to the events and start writing."""
        self._house.bus.listen(self._heard)
        self._house.auditor.on_written = self._due.set
        self._tasks.begin("write mappings and history", self._run())

    async def close(self) -> None:
        """Write what is due once more, then end."""
        await self._tasks.cancel()
        if self._due.is_set():
            try:
                async with asyncio.timeout(5):
                    await self._write()
            except (StoreUnavailableError, TimeoutError):
                log.warning("history not written at the end", entries=len(self._history))

    def _heard(self, event: Event) -> None:
        follower_id = FollowerId(event.follower_id) if event.follower_id is not None else None
        entry = HistoryEntry(
            id=uuid.uuid4().hex, at=event.at, follower_id=follower_id, name=event.name, sentence=event.sentence
        )
        self._history.append(entry)
        self._due.set()

    def changed(self, supervisor: GatewaySupervisor) -> None:
        """A supervisor walked its cycle; a mapping that differs is due."""
        gateway = supervisor.presence.gateway
        mapped = gateway.container_id if gateway is not None and supervisor.presence.is_running else None
        shown = (mapped, supervisor.client_id, supervisor.state.status)
        if self._shown.get(supervisor.follower_id) != shown:
            self._shown[supervisor.follower_id] = shown
            self._changed_at[supervisor.follower_id] = self._house.clock()
            self._due.set()

    async def _run(self) -> None:
        while True:
            await arrives(self._due, within=self._compare_every)
            self._due.clear()
            try:
                await self._write()
            except StoreUnavailableError:
                self._due.set()
                await asyncio.sleep(RETRY_AFTER)
            except asyncio.CancelledError:
                self._due.set()  # cut short by the end, which writes it once more
                raise
            await asyncio.sleep(AT_MOST_EVERY)

    async def _write(self) -> None:
        history = list(self._history)
        await self._house.ledger.report(self._mappings(), history)
        await self._keep_audit_head()
        for entry in history:
            if self._history and self._history[0] is entry:  # else it went already, being the oldest of too many
                self._history.popleft()

    async def _keep_audit_head(self) -> None:
        auditor, ledger = self._house.auditor, self._house.ledger
        if not self._has_recalled:
            auditor.recall(await ledger.audit_head(auditor.trail_name))
            self._has_recalled = True
        head = await auditor.newest()
        if head is not None and head != self._audit_head:
            await ledger.keep_audit_head(auditor.trail_name, head)
            self._audit_head = head

    def _mappings(self) -> list[GatewayMapping] | None:
        """None before it is known what runs: what an earlier manager wrote is as good as anything then."""
        if not self._fleet.listed.is_set():
            return None
        return [
            GatewayMapping(
                follower_id=supervisor.follower_id,
                container_id=gateway.container_id,
                container_name=gateway.name,
                host_port=gateway.leases.host_port,
                client_id=supervisor.client_id or gateway.leases.client_id,
                status=supervisor.state.status.value,
                last_updated=self._changed_at.get(supervisor.follower_id) or supervisor.since,
            )
            for supervisor in self._fleet.supervisors.values()
            if (gateway := supervisor.presence.gateway) is not None and supervisor.presence.is_running
        ]


def snapshot(supervisor: GatewaySupervisor) -> GatewaySnapshot:
    """What the outside sees of this gateway now."""
    there, login = supervisor.presence, supervisor.credentials
    reason, next_action = _words(supervisor)
    gateway, connection = there.gateway, there.connection
    trip = connection.round_trip if connection is not None else None
    return GatewaySnapshot(
        follower_id=supervisor.follower_id,
        status=supervisor.state.status,
        state=supervisor.state,
        reason=reason,
        since=supervisor.since,
        next_action=next_action,
        endpoint=there.endpoint,
        client_id=supervisor.client_id,
        accounts=connection.accounts if connection is not None else (),
        trading_mode=_trading_mode(supervisor),
        container=gateway.name if gateway else None,
        container_health=gateway.health if gateway else None,
        image=gateway.image if gateway else None,
        outdated=_is_outdated(supervisor),
        credentials=CredentialsView(
            source=login.source, version=shown_version(login.version), date=login.dated.date() if login.dated else None
        )
        if login is not None
        else None,
        notices=tuple(_notices(supervisor)),
        last_heartbeat=connection.last_heartbeat if connection is not None else None,
        round_trip_ms=round(trip * 1000, 3) if trip is not None else None,
        vnc=gateway.vnc if gateway else None,
    )


def faulty_snapshot(record: FaultyRecord) -> GatewaySnapshot:
    """A record that can't be used, FAILED and `invalid`."""
    assert record.since is not None
    return GatewaySnapshot(
        follower_id=record.id,
        status=GatewayStatus.FAILED,
        state=State.INVALID,
        reason=record.fault,
        since=record.since,
        next_action="It starts when its record is corrected.",
    )


def _words(supervisor: GatewaySupervisor) -> tuple[str | None, str | None]:
    """Reason and next action; between an event and the decision on it there is nothing more to say than that."""
    decision = supervisor.decision
    if decision is None:
        return "It was not looked at yet.", "It is looked at now."
    if decision.state is supervisor.state:
        return decision.reason, decision.next_action
    return decision.reason or "The API connection was closed.", "It is looked at now."


def _trading_mode(supervisor: GatewaySupervisor) -> TradingMode | None:
    gateway = supervisor.presence.gateway
    if gateway is not None:
        return gateway.trading_mode
    return supervisor.follower.trading_mode if supervisor.follower is not None else None


def _is_outdated(supervisor: GatewaySupervisor) -> bool:
    gateway, spec = supervisor.presence.gateway, supervisor.spec
    return gateway is not None and spec is not None and gateway.spec_digest != spec.digest


def _notices(supervisor: GatewaySupervisor) -> list[str]:
    gateway, view = supervisor.presence.gateway, supervisor.presence.login_view
    notices = list(gateway.notices) if gateway is not None else []
    notices += list(view.notices) if view is not None else []
    if view is not None and view.human is not None and supervisor.state.status is GatewayStatus.RUNNING:
        notices.append(view.human)
    if supervisor.credentials is not None and supervisor.credentials.notice is not None:
        notices.append(supervisor.credentials.notice)
    if _is_outdated(supervisor):
        notices.append(
            "Its record or the settings ask for another gateway than the one that runs; `restart` brings it."
        )
    used, newest = supervisor.record.secret_version, supervisor.newest_version
    if gateway is not None and newest is not None and used is not None and newest != used:
        notices.append("A new password waits for the next restart.")
    return notices
