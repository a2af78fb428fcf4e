"""What a manager sends, through a real OpenTelemetry Collector into its files, and the same run in a real Prometheus."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.collector import CONFIG, Collector, program
from support.go_programs import BUILD_TIME
from support.otlp import tree
from support.ports import free_ports
from support.prometheus import Prometheus
from support.scripted_vault import ScriptedVault
from support.traced_launch import LAUNCH, RECOVERY, SECRETS, holds, launch_traced, phone_home
from support.waiting import wait_until

pytestmark = [pytest.mark.real_part("otelcol"), pytest.mark.timeout(BUILD_TIME)]


@dataclass(frozen=True)
class Seen:
    """Where a launch and a recovery were seen."""

    collector: Collector
    prometheus: Prometheus
    log: str

    def trace(self, name: str) -> str:
        """The span tree with this root, as the Collector wrote it."""
        return next(tree(spans) for spans in self.collector.traces().values() if spans[0].name == name)

    def scraped(self, query: str) -> float:
        """One value at the end of the run."""
        found = self.prometheus.query(f"sum(last_over_time({query}[1h]))")
        return found[0][1] if found else 0


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    program()  # which may have to be built first
    port = free_ports(1)
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), [port])
    prometheus.load("groups: []")
    collector = Collector(tmp_path_factory.mktemp("otelcol"))
    with phone_home() as home, ScriptedVault() as vault, prometheus:

        def wait_for_scrape() -> None:
            wait_until(lambda: prometheus.query('gateway_manager_reconnects_total{follower="anna"} > 0'))

        with collector:
            log = launch_traced(home, vault, collector.endpoint, port, when_ready_again=wait_for_scrape)
        yield Seen(collector, prometheus, log)


@pytest.mark.real_part("prometheus")
def test_a_launch_and_a_reconnect_are_span_trees_with_what_the_courier_did(seen: Seen) -> None:
    """A Vault that is sealed at first, a phone, a lost connection."""
    launch, recovery = seen.trace("launch"), seen.trace("recovery")
    assert holds(launch.splitlines(), LAUNCH), launch
    assert holds(recovery.splitlines(), RECOVERY), recovery


@pytest.mark.real_part("prometheus")
def test_prometheus_has_the_same_runs_metrics(seen: Seen) -> None:
    """The phone, the login, the two tries at Vault, the reconnect."""
    assert seen.scraped('gateway_manager_phone_approvals_total{result="asked"}') == 1
    assert seen.scraped('gateway_manager_phone_approvals_total{result="answered"}') == 1
    assert seen.scraped('gateway_manager_logins_total{outcome="succeeded"}') == 1
    assert seen.scraped("gateway_manager_reconnects_total") == 1
    assert (
        seen.scraped('gateway_manager_dependency_duration_seconds_count{dependency="vault"}') >= 4
    )  # try and mount, twice


@pytest.mark.real_part("prometheus")
def test_exemplars_lead_from_a_bucket_to_its_trace(seen: Seen) -> None:
    """Over OTLP; what Prometheus scrapes has none."""
    known = set(seen.collector.traces())
    found = seen.collector.exemplars()
    assert {trace for _, trace in found} <= known
    assert "gateway_manager.dependency.duration" in {name for name, _ in found}


@pytest.mark.real_part("prometheus")
def test_no_password_and_no_token_is_in_spans_metrics_and_log(seen: Seen) -> None:
    """Whatever was tried with them."""
    labels = seen.prometheus.ask("labels")
    scraped = str([seen.prometheus.ask(f"label/{each}/values") for each in labels]).encode()
    everything = seen.collector.raw + scraped + seen.log.encode()
    assert b"ibkr/anna" in everything
    assert [secret for secret in SECRETS if secret.encode() in everything] == []


def test_the_collector_takes_the_configuration_that_is_shipped() -> None:
    """Every part of it is known, and every field."""
    checked = subprocess.run([program(), "validate", "--config", CONFIG], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
