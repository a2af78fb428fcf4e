"""`MeteredInstrumentation`: what it is told goes into OpenTelemetry's instruments, what stands is read when somebody collects.

Requests of the IB API come by the thousand and an instrument costs several microseconds, so they are added up in plain
dictionaries here, and the instruments read those.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from spreadpilot_core.ibkr.instrumentation.catalogue import METRICS, REQUEST_BUCKETS, Kind
from spreadpilot_core.ibkr.model.figures import FleetFigures, GatewayFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.seams import Instrumentation

SCOPE = "spreadpilot_core.ibkr"
MESSAGES_LIMIT = 50
"""Messages a second, IBKR's own figure."""
FIGURES_VALID = 1.0
"""Seconds: one collection reads the fleet once."""

Read = Callable[[FleetFigures], Iterable[Observation]]


class MeteredInstrumentation(Instrumentation):
    """Everything that is measured, on one meter provider."""

    is_on = True

    def __init__(self, provider: MeterProvider) -> None:
        self._meter = provider.get_meter(SCOPE)
        self._fleet: Callable[[], FleetFigures] = FleetFigures
        self._read_at = float("-inf")
        self._read = FleetFigures()
        self._reading = threading.Lock()
        self._requests: Counter[tuple[str, str, str, int | None]] = Counter()
        self._request_time: dict[tuple[str, str], float] = defaultdict(float)
        self._request_buckets: dict[str, list[int]] = {}
        self._given_up: dict[FollowerId, ReasonCode | None] = {}
        """Why a follower's last container was removed, or ended, until the next one is launched."""
        self._disconnected: dict[FollowerId, ReasonCode | None] = {}
        """Why the last connection to a gateway that still runs was lost, until there is a new one."""
        counters = [each for each in METRICS if METRICS[each].kind is Kind.COUNTER]
        self._counters = {each: self._meter.create_counter(**_described(each)) for each in counters}
        timed = [each for each in METRICS if METRICS[each].kind is Kind.HISTOGRAM]
        self._histograms = {
            each: self._meter.create_histogram(
                **_described(each), explicit_bucket_boundaries_advisory=METRICS[each].buckets
            )
            for each in timed
        }
        for name, read in (_OBSERVED | self._own()).items():
            self._observe(name, read)

    # ------------------------------------------------------------------ what stands

    def watch(self, fleet: Callable[[], FleetFigures]) -> None:
        """From now on these are the fleet's figures."""
        self._fleet, self._read_at = fleet, float("-inf")

    def figures(self) -> FleetFigures:
        """The fleet's figures, read at most once for one collection, which asks for each metric by itself."""
        with self._reading:
            if time.monotonic() - self._read_at > FIGURES_VALID:
                self._read, self._read_at = self._fleet(), time.monotonic()
            return self._read

    def _observe(self, name: str, read: Read) -> None:
        def called(_: CallbackOptions) -> Iterable[Observation]:
            return read(self.figures())

        make = (
            self._meter.create_observable_gauge
            if METRICS[name].kind is Kind.GAUGE
            else self._meter.create_observable_counter
        )
        make(**_described(name), callbacks=[called])

    def _own(self) -> dict[str, Read]:
        """What is added up here."""
        return {
            "api.requests": lambda _: (
                Observation(count, _without_none(follower=follower, request=kind, outcome=outcome, error_code=code))
                for (follower, kind, outcome, code), count in list(self._requests.items())
            ),
            "api.request.time": lambda _: (
                Observation(seconds, {"follower": follower, "request": kind})
                for (follower, kind), seconds in list(self._request_time.items())
            ),
            "api.request.buckets": lambda _: self._observed_buckets(),
        }

    def _observed_buckets(self) -> Iterator[Observation]:
        ends = [*(f"{each:g}" for each in REQUEST_BUCKETS), "+Inf"]
        for kind, counts in list(self._request_buckets.items()):
            total = 0
            for end, count in zip(ends, counts, strict=True):
                total += count
                yield Observation(total, {"request": kind, "le": end})

    # ------------------------------------------------------------------ what happens

    def state_changed(
        self, follower_id: FollowerId, before: State | None, after: State, code: ReasonCode | None
    ) -> None:
        """Count it, and what it begins."""
        self._counters["gateway.state.changes"].add(1, {"state": after.value, "reason_code": _cause(code)})
        if before is None:
            self._begin_at_zero(follower_id)
        if code is ReasonCode.SCHEDULED_RESTART and before is not None:
            self._counters["restarts"].add(1, {"follower": follower_id, "cause": _cause(code)})
        had = before is not None and before.status is GatewayStatus.RUNNING
        if had and after.status is not GatewayStatus.RUNNING:
            self._disconnected[follower_id] = code
        elif after.status is GatewayStatus.RUNNING and follower_id in self._disconnected:
            attributes = {"follower": follower_id, "cause": _cause(self._disconnected.pop(follower_id))}
            self._counters["reconnects"].add(1, attributes)

    def _begin_at_zero(self, follower_id: FollowerId) -> None:
        """What happens rarely is there before its first time: who looks at the growth of a counter misses none."""
        for outcome in _USUAL_OUTCOMES:
            self._counters["logins"].add(0, {"follower": follower_id, "outcome": outcome.value})
        for result in ("asked", "answered", "missed"):
            self._counters["phone.approvals"].add(0, {"follower": follower_id, "result": result})
        self._counters["heartbeats.missed"].add(0, {"follower": follower_id})

    def action_ended(
        self, follower_id: FollowerId, kind: str, result: str, seconds: float, *, cause: ReasonCode | None = None
    ) -> None:
        """Time it, and count what changes a container."""
        self._histograms["action.duration"].record(seconds, {"action": kind, "result": result})
        counted = {"launch": "launches", "remove": "removals"}.get(kind)
        if counted is not None:
            self._counters[counted].add(1, {"follower": follower_id, "cause": _cause(cause), "result": result})
        if kind == "connect":
            self._histograms["connect.duration"].record(seconds, {"result": result})
        if result == "done":
            self._count_restart(follower_id, kind, cause)

    def _count_restart(self, follower_id: FollowerId, kind: str, cause: ReasonCode | None) -> None:
        """A launch in place of a container that was given up; one that nobody wanted any more was none."""
        if kind in ("launch", "remove"):
            self._disconnected.pop(follower_id, None)
        if kind == "remove" and cause in _UNWANTED:
            self._given_up.pop(follower_id, None)
        elif kind == "remove":
            self._given_up[follower_id] = cause
        elif kind == "launch" and follower_id in self._given_up:
            attributes = {"follower": follower_id, "cause": _cause(self._given_up.pop(follower_id))}
            self._counters["restarts"].add(1, attributes)

    def heartbeat(self, follower_id: FollowerId, seconds: float | None) -> None:
        """Time it, or count it as missed."""
        if seconds is None:
            self._counters["heartbeats.missed"].add(1, {"follower": follower_id})
        else:
            self._histograms["heartbeat.duration"].record(seconds, {"follower": follower_id})

    def login_settled(self, follower_id: FollowerId, outcome: LoginOutcome) -> None:
        """Count it."""
        self._counters["logins"].add(1, {"follower": follower_id, "outcome": outcome.value})

    def phone_asked(self, follower_id: FollowerId) -> None:
        """Count it."""
        self._counters["phone.approvals"].add(1, {"follower": follower_id, "result": "asked"})

    def phone_answered(self, follower_id: FollowerId, seconds: float, *, approved: bool) -> None:
        """Count and time it."""
        result = "answered" if approved else "missed"
        self._counters["phone.approvals"].add(1, {"follower": follower_id, "result": result})
        self._histograms["phone.approval.duration"].record(seconds, {"result": result})

    def container_ended(self, follower_id: FollowerId, exit_code: int | None) -> None:
        """Count it."""
        code = "gone" if exit_code is None else str(exit_code)
        self._counters["container.exits"].add(1, {"follower": follower_id, "exit_code": code})
        self._given_up[follower_id] = ReasonCode.CONTAINER_ENDED

    def dependency_called(self, dependency: str, operation: str, seconds: float, error: str | None) -> None:
        """Time it."""
        attributes = _without_none(dependency=dependency, operation=operation, error_type=error)
        self._histograms["dependency.duration"].record(seconds, attributes)

    def request_ended(
        self, follower_id: FollowerId, kind: str, seconds: float | None, outcome: str, code: int | None = None
    ) -> None:
        """Add it up."""
        self._requests[follower_id, kind, outcome, code] += 1
        if seconds is None:
            return
        self._request_time[follower_id, kind] += seconds
        counts = self._request_buckets.get(kind)
        if counts is None:
            counts = self._request_buckets[kind] = [0] * (len(REQUEST_BUCKETS) + 1)
        counts[bisect_left(REQUEST_BUCKETS, seconds)] += 1

    def loop_lagged(self, seconds: float) -> None:
        """Note it."""
        self._histograms["event_loop.lag"].record(seconds)


_USUAL_OUTCOMES = (
    LoginOutcome.SUCCEEDED,
    LoginOutcome.REJECTED,
    LoginOutcome.SECOND_FACTOR_MISSED,
    LoginOutcome.FAILED,
)
_UNWANTED = frozenset(
    {
        ReasonCode.STOPPED_BY_OPERATOR,
        ReasonCode.NOT_ENABLED,
        ReasonCode.RECORD_INVALID,
        ReasonCode.MANAGER_STOPPING,
    }
)


def _described(name: str) -> dict[str, str]:
    metric = METRICS[name]
    return {"name": metric.name, "unit": metric.unit, "description": metric.meaning}


def _cause(code: ReasonCode | None) -> str:
    return code.value if code is not None else "NONE"


def _without_none(**attributes: str | int | None) -> dict[str, str | int]:
    return {name: value for name, value in attributes.items() if value is not None}


def _of_each(value: Callable[[GatewayFigures], float | bool | None]) -> Read:
    """One figure of every gateway that has it."""

    def read(fleet: FleetFigures) -> Iterator[Observation]:
        for each in fleet.gateways:
            if (found := value(each)) is not None:
                yield Observation(float(found), {"follower": each.follower_id})

    return read


def _by_state(fleet: FleetFigures) -> Iterator[Observation]:
    counted = Counter(each.state for each in fleet.gateways)
    counted[State.INVALID] += fleet.faulty_records
    for state in State:
        yield Observation(counted[state], {"status": state.status.value, "state": state.value})


def _states(fleet: FleetFigures) -> Iterator[Observation]:
    for each in fleet.gateways:
        state = {"status": each.state.status.value, "state": each.state.value}
        yield Observation(1, {"follower": each.follower_id, **state, "reason_code": _cause(each.reason_code)})


def _availability(fleet: FleetFigures) -> Iterator[Observation]:
    for (follower_id, kind), seconds in fleet.availability.items():
        attributes = {"verdict": kind.verdict.value, "reason_code": kind.reason_code or "NONE"}
        inside = {"reset_hours": str(kind.in_reset_hours).lower(), "exchange_open": str(kind.exchange_open).lower()}
        yield Observation(seconds, {"follower": follower_id, **attributes, **inside})


def _one(value: float | None) -> Iterator[Observation]:
    """What there is one of, where it is known."""
    if value is not None:
        yield Observation(value)


def _leases(place: int) -> Read:
    return lambda fleet: (Observation(counts[place], {"kind": kind}) for kind, counts in fleet.leases.items())


def _messages(fleet: FleetFigures) -> Iterator[Observation]:
    for each in fleet.gateways:
        if each.api is not None:
            yield Observation(each.api.sent, {"follower": each.follower_id, "direction": "sent"})
            yield Observation(each.api.received, {"follower": each.follower_id, "direction": "received"})


_OBSERVED: dict[str, Read] = {
    "gateways": _by_state,
    "gateway.state": _states,
    "gateway.state.age": _of_each(lambda each: each.state_age),
    "gateway.session.age": _of_each(lambda each: each.session_age),
    "gateway.secret.waiting": _of_each(lambda each: each.secret_waits),
    "gateway.exchange.open": _of_each(lambda each: each.exchange_open),
    "gateway.reset_hours": _of_each(lambda each: each.in_reset_hours),
    "login.budget.left": _of_each(lambda each: each.budget_left),
    "login.limit.left": _of_each(lambda each: each.limit_left),
    "login.budget.size": lambda fleet: _one(fleet.login_budget),
    "login.limit.size": lambda fleet: _one(fleet.full_login_limit),
    "container.healthy": _of_each(lambda each: each.is_healthy),
    "container.memory.usage": _of_each(lambda each: each.usage.memory if each.usage else None),
    "container.cpu.time": _of_each(lambda each: each.usage.cpu if each.usage else None),
    "availability.time": _availability,
    "leases.used": _leases(0),
    "leases.size": _leases(1),
    "ready": lambda fleet: _one(int(fleet.is_fine)),
    "leader": lambda fleet: _one(int(fleet.is_leader)),
    "audit.broken": lambda fleet: _one(int(fleet.audit_broken)),
    "audit.waiting": lambda fleet: _one(fleet.audit_waiting),
    "notices": lambda fleet: _one(fleet.notices),
    "api.messages": _messages,
    "api.messages.limit": lambda _: [Observation(MESSAGES_LIMIT)],
    "api.queue.length": _of_each(lambda each: each.api.queued if each.api else None),
    "api.throttles": _of_each(lambda each: each.api.throttles if each.api else None),
    "api.subscriptions": _of_each(lambda each: each.api.subscriptions if each.api else None),
}
