"""Says what happened: one event and one log line per fact, with the follower on each, and no secret possible.

Sentences are made elsewhere (decisions, errors); here they are only told, so that log, events, commands and history
use the same words.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

from spreadpilot_core.ibkr.api_client.connection import Connection
from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decision import Decision
from spreadpilot_core.ibkr.deciding.observation import BEGINS_NOTHING, Observation, Wanted
from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.followers import FollowerId, Roster
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase, Login
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode, Severity
from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.reporting.repetitions import Repetitions
from spreadpilot_core.ibkr.seams import UNMEASURED, Instrumentation
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)


class Announcer:
    """Tells the facts of one gateway."""

    def __init__(
        self,
        follower_id: FollowerId,
        bus: events.EventBus,
        clock: Callable[[], datetime],
        repetitions: Repetitions,
        instrumentation: Instrumentation = UNMEASURED,
    ) -> None:
        self._follower_id = follower_id
        self._bus = bus
        self._clock = clock
        self._repetitions = repetitions
        self._instrumentation = instrumentation
        self._log = log.bind(follower=follower_id)
        self._clients = 0
        self._by_serial: WeakValueDictionary[int, Any] = WeakValueDictionary()
        """The clients that were handed out and that somebody still holds."""
        self._client: Connection | None = None
        """The one that `get_client` hands out."""
        self._announced_ready = False
        self._there: Gateway | None = None
        self._asked_phone: object = None
        self._asked_at: datetime | None = None
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
        event = kind(at=self._clock(), follower_id=self._follower_id, sentence=sentence, **facts)
        self._bus.publish(event)
        shown = {key: value for key, value in event.as_dict().items() if key not in _NOT_LOGGED}
        level = "info" if kind in _SAID_BY_STATE else _LEVELS[event.severity]
        self._say(level, event.name, sentence=sentence, **shown)

    def _say(self, level: str, event: str, **facts: Any) -> None:
        """One log line. Whoever reads the log may be gone (a closed pipe, a full disk): no gateway may suffer from that."""
        with contextlib.suppress(OSError):
            getattr(self._log, level)(event, **facts)

    def _state_changed(self, before: Decision | None, decision: Decision) -> None:
        sentence = " ".join(filter(None, (decision.reason or "It is ready.", decision.next_action)))
        previous = before.state if before is not None else None
        event = events.StateChanged(
            at=self._clock(),
            follower_id=self._follower_id,
            severity=decision.severity,
            reason_code=decision.reason_code,
            sentence=sentence,
            before=previous,
            after=decision.state,
            reason=decision.reason,
            next_action=decision.next_action,
            facts=decision.why.facts if decision.why is not None else {},
        )
        self._bus.publish(event)
        is_failed = decision.state.status is GatewayStatus.FAILED
        first = self._repetitions.first(sentence, self._follower_id, event.at) if is_failed else None
        shown = sentence if first is None else f"It is {decision.state.value}, for the same reason as {first}."
        code = _value(decision.reason_code)
        level = _level_of(before, decision) if first is None else "info"
        self._say(level, "StateChanged", state=decision.state.value, sentence=shown, reason_code=code)

    def ready(self, connection: Connection, endpoint: str, client_id: int) -> None:
        """The gateway is proven ready; told once for each client."""
        if self._announced_ready and connection is self._client:
            return
        self.handed_out(connection)
        self._announced_ready = True
        sentence = f"Ready: {', '.join(connection.accounts)} at {endpoint}."
        self._publish(
            events.GatewayReady, sentence, endpoint=endpoint, client_id=client_id, accounts=connection.accounts
        )

    def handed_out(self, connection: Connection) -> None:
        """From now on `get_client` gives this client, which has the next number."""
        if connection is not self._client:
            self._client, self._announced_ready = connection, False
            self._clients += 1
            self._by_serial[self._clients] = connection.ib

    def find_client(self, client_serial: int) -> Any | None:
        """The client with this number, as long as somebody holds it."""
        return self._by_serial.get(client_serial)

    def connection_dropped(self, connection: Connection, why: str, code: ReasonCode) -> None:
        """A client is disconnected for good; what was meant to happen worries nobody."""
        sentence = f"The API connection is gone: {why}"
        severity = Severity.INFO if code.severity is Severity.INFO else Severity.WARNING
        self._publish(events.ConnectionLost, sentence, reason_code=code, severity=severity)
        if connection is self._client:
            self._client = None
            stale = f"Client {self._clients} of this follower is disconnected; get_client gives a new one."
            self._publish(events.ClientStale, stale, client_serial=self._clients)

    def launched(self, gateway: Gateway, cause: ReasonCode | None) -> None:
        """A container was created and started, and why, where it is not simply wanted."""
        sentence = f"Its container {gateway.name} was started at {gateway.endpoint}."
        where = {"container": gateway.name, "endpoint": str(gateway.endpoint)}
        self._publish(events.GatewayLaunched, sentence, reason_code=cause, **where)

    def adopted(self, gateway: Gateway) -> None:
        """A running container was taken over."""
        sentence = f"Its container {gateway.name} runs already at {gateway.endpoint} and was adopted."
        self._publish(events.GatewayAdopted, sentence, container=gateway.name, endpoint=str(gateway.endpoint))

    def removed(self, gateway: Gateway | None, wanted: Wanted, cause: ReasonCode | None) -> None:
        """A container was removed by us, and why."""
        self._there = None
        if gateway is not None and wanted is not Wanted.RUN and wanted not in BEGINS_NOTHING:
            sentence = f"Its container {gateway.name} was stopped and removed."
            self._publish(events.GatewayStopped, sentence, reason_code=cause)
        elif gateway is not None:
            self._say("info", "container removed", container=gateway.name, reason_code=_value(cause))

    def notice(self, sentence: str) -> None:
        """Something that somebody should know, and that stops nothing."""
        self._publish(events.NoticeGiven, sentence)

    def rotated(self, version: str, next_action: str) -> None:
        """The secret has a version that nobody knew."""
        sentence = f"Its secret has a new version, {version}."
        self._publish(events.SecretRotated, sentence, version=version, next_action=next_action)

    def settled(self, outcome: LoginOutcome, reason: Reason) -> None:
        """A login has its outcome in the ledger."""
        sentence, details = reason.sentence, {"reason_code": reason.code, "severity": reason.code.severity}
        match outcome:
            case LoginOutcome.SUCCEEDED:
                self._publish(events.LoginCompleted, sentence, reason_code=ReasonCode.LOGIN_COMPLETED)
            case LoginOutcome.REJECTED:
                self._publish(events.LoginRejected, sentence, **details)
            case LoginOutcome.VOID:
                self._say("info", "login given back", sentence=sentence, reason_code=reason.code.value)
            case _:
                self._publish(events.LoginFailed, sentence, outcome=outcome, **details)

    def _second_factor(self, seen: Observation) -> None:
        waits = seen.login is not None and seen.login.phase is LoginPhase.AWAITING_2FA
        key = seen.login.phase_serial if waits and seen.login is not None else None
        if key is not None and key != self._asked_phone:
            self._publish(events.SecondFactorRequested, "A phone must approve the login now.")
            self._instrumentation.phone_asked(self._follower_id)
            self._asked_at = self._clock()
        if key is None and self._asked_at is not None:
            waited = (self._clock() - self._asked_at).total_seconds()
            approved = seen.login is not None and (seen.login.completed or seen.login.phase in _APPROVED)
            self._instrumentation.phone_answered(self._follower_id, waited, approved=approved)
            self._asked_at = None
        self._asked_phone = key

    def _container_lost(self, seen: Observation) -> None:
        """A container that ended, or is gone, and nobody here asked it to."""
        before, self._there = self._there, seen.gateway
        gateway = seen.gateway
        if gateway is None:
            if before is not None and before.phase is not GatewayPhase.EXITED:
                self._publish(events.GatewayLost, f"Its container {before.name} is gone.", exit_code=None)
                self._instrumentation.container_ended(self._follower_id, None)
        elif gateway.phase is GatewayPhase.EXITED and (before is None or before.phase is not GatewayPhase.EXITED):
            sentence = f"Its container {gateway.name} ended with code {gateway.exit_code}."
            self._publish(events.GatewayLost, sentence, exit_code=gateway.exit_code)
            self._instrumentation.container_ended(self._follower_id, gateway.exit_code)

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


_APPROVED = frozenset({LoginPhase.AUTHENTICATING, LoginPhase.LOGGED_IN})
"""Where a login goes on from its approval."""
_SAID_BY_STATE = frozenset(
    {
        events.ConnectionLost,
        events.GatewayLost,
        events.IbkrLinkLost,
        events.LoginFailed,
        events.LoginRejected,
        events.SecondFactorRequested,
    }
)
"""What changes a state, whose own line says at its level what is wrong, and what follows: once is enough."""
_LEVELS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.ERROR: "error"}
_NOT_LOGGED = ("name", "id", "at", "follower_id", "severity", "sentence", "trace_id", "span_id")
"""Fields of an event that a log line has in a form of its own."""


def _level_of(before: Decision | None, decision: Decision) -> str:
    """One fact, one line at its level: the next state for the same reason says nothing new, and `GatewayReady` that it is ready."""
    if decision.state is State.READY or (before is None and decision.reason_code is ReasonCode.NOT_OBSERVED_YET):
        return "debug"  # the latter is everybody's first word at each start
    is_known = before is not None and (before.reason_code, before.severity) == (decision.reason_code, decision.severity)
    return "info" if is_known and decision.state is not State.NEEDS_HUMAN else _LEVELS[decision.severity]


def _value(code: ReasonCode | None) -> str | None:
    return code.value if code is not None else None


def written_user_sentence(login: Login) -> str:
    """That the secret writes the user name in another form than the login gets."""
    return (
        f"The secret writes the IBKR user as {login.written_user!r}; IBKR's user names are lower case, "
        f"so it logs in as {login.user!r}."
    )


class FleetAnnouncer:
    """Tells the facts of the whole."""

    def __init__(self, bus: events.EventBus, clock: Callable[[], datetime]) -> None:
        self._bus = bus
        self._clock = clock

    def roster(self, roster: Roster) -> None:
        """The followers were read, and differ from what was known."""
        usable, faulty = len(roster.usable), len(roster.faulty)
        faults = f", and {counted(faulty, 'record')} can't be used" if faulty else ""
        sentence = f"{counted(usable, 'usable follower')} found{faults}."
        self._bus.publish(events.FollowersLoaded(at=self._clock(), sentence=sentence, usable=usable, faulty=faulty))
        log.info("FollowersLoaded", sentence=sentence)

    def notice(self, sentence: str, follower_id: FollowerId | None = None) -> None:
        """Something that a human should know, about one follower or the whole."""
        self._bus.publish(events.NoticeGiven(at=self._clock(), follower_id=follower_id, sentence=sentence))
        with contextlib.suppress(OSError):
            about = {} if follower_id is None else {"follower": follower_id}
            log.warning("NoticeGiven", **about, sentence=sentence)
