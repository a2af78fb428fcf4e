"""What is measured comes out under the names of the catalogue, with bounded attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.instrumentation.catalogue import METRICS
from spreadpilot_core.ibkr.instrumentation.meters import MeteredInstrumentation
from spreadpilot_core.ibkr.instrumentation.setup import measuring, set_up_sdk
from spreadpilot_core.ibkr.model.availability import SpellKind, Verdict
from spreadpilot_core.ibkr.model.figures import ApiFigures, ContainerFigures, FleetFigures, GatewayFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.seams import UNMEASURED, Instrumentation

ANNA = FollowerId("anna")
DOWN = SpellKind(Verdict.DOWN, "IBKR_RESET_WINDOW", in_reset_hours=True, exchange_open=False)
FIGURES = FleetFigures(
    gateways=(
        GatewayFigures(
            follower_id=ANNA,
            state=State.QUEUED,
            reason_code=ReasonCode.IBKR_RESET_WINDOW,
            state_age=30.0,
            session_age=90_000.0,
            budget_left=1,
            limit_left=4,
            secret_waits=True,
            is_healthy=False,
            usage=ContainerFigures(memory=700, cpu=2.5),
            api=ApiFigures(sent=10, received=20, throttles=1, queued=3, subscriptions=2),
            in_reset_hours=True,
            exchange_open=False,
        ),
    ),
    faulty_records=2,
    leases={"port": (1, 101)},
    is_leader=False,
    is_fine=False,
    login_budget=3,
    full_login_limit=12,
    notices=1,
    audit_broken=True,
    audit_waiting=2,
    availability={(ANNA, DOWN): 12.0},
)


def tell_everything(instrumentation: Instrumentation) -> None:
    """Each fact once."""
    instrumentation.watch(lambda: FIGURES)
    instrumentation.state_changed(ANNA, State.READY, State.RESTARTING, ReasonCode.SCHEDULED_RESTART)
    instrumentation.state_changed(ANNA, State.RESTARTING, State.READY, None)
    for kind in ("remove", "launch", "connect"):
        instrumentation.action_ended(ANNA, kind, "done", 0.2, cause=ReasonCode.IBKR_LINK_LOST)
    instrumentation.heartbeat(ANNA, 0.01)
    instrumentation.heartbeat(ANNA, None)
    instrumentation.login_settled(ANNA, LoginOutcome.REJECTED)
    instrumentation.phone_asked(ANNA)
    instrumentation.phone_answered(ANNA, 20.0, approved=True)
    instrumentation.container_ended(ANNA, 137)
    instrumentation.dependency_called("vault", "read", 0.5, "VaultError")
    instrumentation.request_ended(ANNA, "reqPositions", 0.02, "ok")
    instrumentation.request_ended(ANNA, "reqPositions", 3.0, "error", 200)
    instrumentation.request_ended(ANNA, "cancelOrder", None, "sent")
    instrumentation.loop_lagged(0.004)


class Collected:
    """What one collection brings."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        data: Any = reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        self.metrics = {metric.name: metric for scope in scopes for metric in scope.metrics}

    def of(self, name: str) -> dict[tuple[tuple[str, object], ...], Any]:
        """Attributes -> value, where that is not zero."""
        points = self.metrics[f"gateway_manager.{name}"].data.data_points
        values = {tuple(sorted(each.attributes.items())): getattr(each, "value", 0) for each in points}
        return {attributes: value for attributes, value in values.items() if value}


@pytest.fixture
def collected() -> Iterator[Collected]:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    tell_everything(MeteredInstrumentation(provider))
    yield Collected(reader)
    provider.shutdown()


def test_every_metric_of_the_catalogue_is_there_with_its_attributes_and_no_other(collected: Collected) -> None:
    """The table in the documentation, rules and dashboards name nothing that does not come out."""
    assert set(collected.metrics) == {each.name for each in METRICS.values()}
    for metric in METRICS.values():
        points = collected.metrics[metric.name].data.data_points
        assert points, metric.name
        assert {name for point in points for name in point.attributes} == set(metric.attributes), metric.name


def test_the_figures_are_those_that_were_told(collected: Collected) -> None:
    """By state, by cause, by outcome and by code."""
    assert collected.of("gateway.state") == {
        (("follower", "anna"), ("reason_code", "IBKR_RESET_WINDOW"), ("state", "queued"), ("status", "STARTING")): 1
    }
    by_state = {dict(key)["state"]: count for key, count in collected.of("gateways").items()}
    assert by_state == {"queued": 1, "invalid": 2}
    assert collected.of("launches") == {(("cause", "IBKR_LINK_LOST"), ("follower", "anna"), ("result", "done")): 1}
    assert collected.of("logins") == {(("follower", "anna"), ("outcome", "rejected")): 1}
    assert collected.of("container.exits") == {(("exit_code", "137"), ("follower", "anna")): 1}
    assert collected.of("availability.time") == {
        (
            ("exchange_open", "false"),
            ("follower", "anna"),
            ("reason_code", "IBKR_RESET_WINDOW"),
            ("reset_hours", "true"),
            ("verdict", "down"),
        ): 12.0
    }


class Counted:
    """What one instrumentation counts."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider(metric_readers=[self._reader])
        self.told = MeteredInstrumentation(self._provider)

    def by_cause(self, name: str) -> dict[str, int]:
        """Of one follower."""
        return {str(dict(key)["cause"]): count for key, count in Collected(self._reader).of(name).items()}


def test_a_restart_is_counted_by_why_the_container_before_was_given_up() -> None:
    """One that ended, one that an operator restarted, and the program's own; a launch after a stop, and the first one, are none."""
    counted = Counted()
    told = counted.told
    told.action_ended(ANNA, "launch", "done", 1.0)
    told.container_ended(ANNA, 134)
    told.action_ended(ANNA, "remove", "done", 1.0, cause=ReasonCode.CONTAINER_ENDED)
    told.action_ended(ANNA, "launch", "failed", 1.0, cause=ReasonCode.CONTAINER_ENDED)
    told.action_ended(ANNA, "launch", "done", 1.0, cause=ReasonCode.LAUNCH_FAILED)
    told.action_ended(ANNA, "remove", "done", 1.0, cause=ReasonCode.RESTART_REQUESTED)
    told.action_ended(ANNA, "launch", "done", 1.0, cause=ReasonCode.RESTART_REQUESTED)
    told.action_ended(ANNA, "remove", "done", 1.0, cause=ReasonCode.STOPPED_BY_OPERATOR)
    told.action_ended(ANNA, "launch", "done", 1.0)
    told.state_changed(ANNA, State.READY, State.RESTARTING, ReasonCode.SCHEDULED_RESTART)
    assert counted.by_cause("restarts") == {"CONTAINER_ENDED": 1, "RESTART_REQUESTED": 1, "SCHEDULED_RESTART": 1}


def test_a_reconnect_is_a_new_connection_to_the_same_gateway_by_why_the_one_before_was_lost() -> None:
    """Whatever it passes through meanwhile; that of a new container is none."""
    counted = Counted()
    told = counted.told
    told.state_changed(ANNA, None, State.READY, None)
    told.state_changed(ANNA, State.READY, State.RECONNECTING, ReasonCode.HEARTBEAT_MISSED)
    told.state_changed(ANNA, State.RECONNECTING, State.RESTARTING, ReasonCode.SCHEDULED_RESTART)
    told.state_changed(ANNA, State.RESTARTING, State.READY, None)
    told.state_changed(ANNA, State.READY, State.RECONNECTING, ReasonCode.CONNECTION_CLOSED)
    told.action_ended(ANNA, "remove", "done", 1.0, cause=ReasonCode.API_UNREACHABLE)
    told.state_changed(ANNA, State.LOGGING_IN, State.READY, None)
    assert counted.by_cause("reconnects") == {"HEARTBEAT_MISSED": 1}


def test_requests_are_counted_by_outcome_and_code_and_their_buckets_grow(collected: Collected) -> None:
    """The failing one has IBKR's code, the slow one is in the long buckets alone, and what is not answered has no time."""
    assert collected.of("api.requests") == {
        (("follower", "anna"), ("outcome", "ok"), ("request", "reqPositions")): 1,
        (("error_code", 200), ("follower", "anna"), ("outcome", "error"), ("request", "reqPositions")): 1,
        (("follower", "anna"), ("outcome", "sent"), ("request", "cancelOrder")): 1,
    }
    buckets = {dict(key)["le"]: count for key, count in collected.of("api.request.buckets").items()}
    assert buckets == {"0.025": 1, "0.1": 1, "0.25": 1, "1": 1, "2.5": 1, "10": 2, "+Inf": 2}
    assert collected.of("api.request.time") == {
        (("follower", "anna"), ("request", "reqPositions")): pytest.approx(3.02)
    }


def test_prometheus_shows_the_names_of_the_documentation() -> None:
    """What `docs/metrics.md` says in its second column is what a scrape has."""
    measured = measuring("127.0.0.1:9464")
    try:
        tell_everything(measured.instrumentation)
        assert measured.exposition is not None
        text = measured.exposition.text()[0].decode()
    finally:
        measured.close()
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE gateway_manager")}
    assert shown == {each.prometheus for each in METRICS.values()}


def test_nobody_measures_unless_somebody_is_there_to_collect() -> None:
    """Without an SDK and an address nothing is made."""
    assert measuring(None).instrumentation is UNMEASURED


@pytest.mark.parametrize("environ", [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SERVICE_NAME": "x"}])
def test_the_sdk_is_set_up_only_where_an_endpoint_or_an_exporter_is_named(environ: dict[str, str]) -> None:
    """Variables that other programs set for themselves start no thread here."""
    with set_up_sdk(environ):
        assert measuring(None).instrumentation is UNMEASURED


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ),
    ],
)
def test_a_variable_that_can_not_be_obeyed_stops_the_start(environ: dict[str, str], named: str) -> None:
    """With a sentence that names it."""
    with pytest.raises(SettingsError, match=named):
        set_up_sdk(environ)


def test_a_manager_that_is_started_again_makes_no_instrument_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a program that has set the SDK up, its provider outlives the manager."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", provider)
    first, second = measuring(None).instrumentation, measuring(None).instrumentation
    assert first is second
    second.watch(lambda: FIGURES)
    assert Collected(reader).of("gateway.session.age") == {(("follower", "anna"),): 90_000}
    provider.shutdown()
