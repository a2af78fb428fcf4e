"""Says what happened: one event and one log line per fact, with the follower on each, and no secret possible.

Sentences are made elsewhere (decisions, errors); here they are only told, so that log, events, commands and history
use the same words.
"""

from __future__ import annotations

import contextlib
from typing import Any

import structlog

from spreadpilot_core.ibkr import events
from spreadpilot_core.ibkr.connections import Connection
from spreadpilot_core.ibkr.deciding.decision import Decision
from spreadpilot_core.ibkr.deciding.observation import Observation, Wanted
from spreadpilot_core.ibkr.deciding.states import GatewayStatus
from spreadpilot_core.ibkr.house import House
from spreadpilot_core.ibkr.login_log import LoginPhase
from spreadpilot_core.ibkr.protocols import FollowerId, Gateway, LoginOutcome, Roster, RuntimeState

log = structlog.get_logger(__name__)


class Teller:
    """Tells the facts of one gateway."""

    def __init__(self, follower_id: FollowerId, house: House) -> None:
        self._follower_id = follower_id
        self._house = house
        self._log = log.bind(follower=follower_id)
        self._clients = 0
        self._client: Connection | None = None
        """The one that `get_client` hands out."""
        self._told_ready = False
        self._there: Gateway | None = None
        self._asked_phone: object = None
        self._link_lost = False
        self._losses_of_data = 0

    def tell(self, before: Decision | None, decision: Decision, seen: Observation) -> None:
        """Whatever is new between two decisions."""
        if before is None or before.state is not decision.state:
            self._state_changed(before, decision)
        self._second_factor(seen)
        self._container_lost(seen)
        self._ibkr_link(seen)

    def _publish(self, kind: type[events.Event], sentence: str, **facts: Any) -> None:
        event = kind(at=self._house.clock(), follower_id=self._follower_id, sentence=sentence, **facts)
        self._house.bus.publish(event)
        level = "warning" if kind in _WARNINGS else "info"
        shown = {
            key: value for key, value in event.as_dict().items() if key not in ("name", "at", "follower_id", "sentence")
        }
        self._say(level, event.name, sentence=sentence, **shown)

    def _say(self, level: str, event: str, **facts: Any) -> None:
        """One log line. Whoever reads the log may be gone (a closed pipe, a full disk): no gateway may suffer from that."""
        with contextlib.suppress(OSError):
            getattr(self._log, level)(event, **facts)

    def _state_changed(self, before: Decision | None, decision: Decision) -> None:
        sentence = decision.reason or "It is ready."
        if decision.next_action:
            sentence = f"{sentence} {decision.next_action}"
        previous = before.state if before is not None else None
        event = events.StateChanged(
            at=self._house.clock(),
            follower_id=self._follower_id,
            sentence=sentence,
            before=previous,
            after=decision.state,
        )
        self._house.bus.publish(event)
        level = "warning" if decision.state.status is GatewayStatus.FAILED else "info"
        self._say(level, "StateChanged", state=decision.state.value, sentence=sentence)

    def ready(self, connection: Connection, endpoint: str, client_id: int) -> None:
        """The gateway is proven ready; told once for each client."""
        if self._told_ready and connection is self._client:
            return
        self.handed_out(connection)
        self._told_ready = True
        sentence = f"Ready: {', '.join(connection.accounts)} at {endpoint}."
        self._publish(
            events.GatewayReady, sentence, endpoint=endpoint, client_id=client_id, accounts=connection.accounts
        )

    def handed_out(self, connection: Connection) -> None:
        """From now on `get_client` gives this client, which has the next number."""
        if connection is not self._client:
            self._client, self._told_ready = connection, False
            self._clients += 1

    def connection_dropped(self, connection: Connection, why: str) -> None:
        """A client is disconnected for good."""
        sentence = f"The API connection is gone: {why}"
        self._publish(events.ConnectionLost, sentence)
        if connection is self._client:
            self._client = None
            stale = f"Client {self._clients} of this follower is disconnected; get_client gives a new one."
            self._publish(events.ClientStale, stale, client=connection.ib, client_serial=self._clients)

    def launched(self, gateway: Gateway) -> None:
        """A container was created and started."""
        sentence = f"Its container {gateway.name} was started on port {gateway.leases.host_port}."
        self._publish(events.GatewayLaunched, sentence, container=gateway.name, host_port=gateway.leases.host_port)

    def adopted(self, gateway: Gateway) -> None:
        """A running container was taken over."""
        sentence = f"Its container {gateway.name} runs already on port {gateway.leases.host_port} and was adopted."
        self._publish(events.GatewayAdopted, sentence, container=gateway.name, host_port=gateway.leases.host_port)

    def removed(self, gateway: Gateway | None, wanted: Wanted) -> None:
        """A container was removed by us."""
        self._there = None
        if gateway is not None and wanted not in (Wanted.RUN, Wanted.KEEP):
            self._publish(events.GatewayStopped, f"Its container {gateway.name} was stopped and removed.")
        elif gateway is not None:
            self._say("info", "container removed", container=gateway.name)

    def settled(self, outcome: LoginOutcome, sentence: str) -> None:
        """A login has its outcome in the ledger."""
        match outcome:
            case LoginOutcome.SUCCEEDED:
                self._publish(events.LoginCompleted, sentence)
            case LoginOutcome.REJECTED:
                self._publish(events.LoginRejected, sentence)
            case LoginOutcome.VOID:
                self._say("info", "login given back", sentence=sentence)
            case _:
                self._publish(events.LoginFailed, sentence, outcome=outcome)

    def _second_factor(self, seen: Observation) -> None:
        waits = seen.login is not None and seen.login.phase is LoginPhase.AWAITING_2FA
        key = seen.login.phase_serial if waits and seen.login is not None else None
        if key is not None and key != self._asked_phone:
            self._publish(events.SecondFactorRequested, "A phone must approve the login now.")
        self._asked_phone = key

    def _container_lost(self, seen: Observation) -> None:
        """A container that ended, or is gone, and nobody here asked it to."""
        before, self._there = self._there, seen.gateway
        gateway = seen.gateway
        if gateway is None:
            if before is not None and before.state is not RuntimeState.EXITED:
                self._publish(events.GatewayLost, f"Its container {before.name} is gone.", exit_code=None)
        elif gateway.state is RuntimeState.EXITED and (before is None or before.state is not RuntimeState.EXITED):
            sentence = f"Its container {gateway.name} ended with code {gateway.exit_code}."
            self._publish(events.GatewayLost, sentence, exit_code=gateway.exit_code)

    def _ibkr_link(self, seen: Observation) -> None:
        connection = seen.connection
        if connection is None or not connection.is_open:
            self._link_lost = False
            return
        lost = connection.link_lost_since is not None
        if lost and not self._link_lost:
            self._losses_of_data = connection.data_lost
            self._publish(events.IbkrLinkLost, "The gateway has lost its link to IBKR; the API connection stays.")
        elif self._link_lost and not lost:
            data_lost = connection.data_lost > self._losses_of_data
            then = "subscriptions must be made anew" if data_lost else "subscriptions live on"
            self._publish(events.IbkrLinkRestored, f"The gateway has IBKR again; {then}.", data_lost=data_lost)
        self._link_lost = lost


_WARNINGS = (
    events.ConnectionLost,
    events.GatewayLost,
    events.IbkrLinkLost,
    events.LoginFailed,
    events.LoginRejected,
)


def tell_roster(house: House, roster: Roster) -> None:
    """The followers were read, and differ from what was known."""
    usable, faulty = len(roster.usable), len(roster.faulty)
    sentence = f"{usable} usable followers were read, {faulty} records can't be used."
    house.bus.publish(events.FollowersLoaded(at=house.clock(), sentence=sentence, usable=usable, faulty=faulty))
    log.info("FollowersLoaded", sentence=sentence)
