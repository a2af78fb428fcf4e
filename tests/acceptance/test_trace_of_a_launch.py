"""One launch with a Vault that must be asked twice, a phone approval and a reconnect, as whoever collects telemetry sees it.

`test_collector` sees the same through a real Collector and a real Prometheus.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.otlp import ReceivedSpan, Receiver, receiving_http, tree
from support.ports import free_ports
from support.scripted_vault import ScriptedVault
from support.traced_launch import LAUNCH, RECOVERY, SECRETS, holds, launch_traced, phone_home


@dataclass(frozen=True)
class Told:
    """What was sent, scraped and logged."""

    receiver: Receiver
    scraped: str
    log: str

    @property
    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """The spans by the name of their trace's root."""
        return {spans[0].name: spans for spans in self.receiver.traces().values()}

    def scraped_value(self, name: str, **labels: str) -> float:
        """Of all series with these labels, added up."""
        families = text_string_to_metric_families(self.scraped)
        samples = [sample for family in families for sample in family.samples]
        named = [each for each in samples if each.name.removesuffix("_total") == f"gateway_manager_{name}"]
        return sum(each.value for each in named if labels.items() <= each.labels.items())


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    port, scraped = free_ports(1), []
    with phone_home() as home, ScriptedVault() as vault, receiving_http() as receiver:

        def scrape() -> None:
            scraped.append(httpx.get(f"http://127.0.0.1:{port}/metrics").text)

        log = launch_traced(home, vault, receiver.endpoint, port, when_ready_again=scrape)
        yield Told(receiver, scraped[0], log)


def test_a_launch_is_one_trace_from_its_first_cause_to_ready(told: Told) -> None:
    """With what each action asked of others below it, the failed try and the courier's own spans among them."""
    launch = told.traces["launch"]
    assert holds(tree(launch).splitlines(), LAUNCH), tree(launch)
    assert [each.name for each in launch if each.parent_id == ""] == ["launch"]
    assert {503, 200} <= {each.attributes.get("http.response.status_code") for each in launch}
    assert {each.attributes.get("server.address") for each in launch if each.name.startswith("api ")} == {"127.0.0.1"}


def test_a_reconnect_is_a_trace_of_its_own(told: Told) -> None:
    """Nothing of the login is in it."""
    recovery = told.traces["recovery"]
    assert holds(tree(recovery).splitlines(), RECOVERY), tree(recovery)
    assert not [each for each in recovery if each.name.startswith(("login", "credentials"))]


def test_the_metrics_tell_the_same(told: Told) -> None:
    """Scraped and sent, of one run."""
    assert told.scraped_value("phone_approvals", result="asked") == 1
    assert told.scraped_value("phone_approvals", result="answered") == 1
    assert told.scraped_value("logins", outcome="succeeded") == 1
    assert told.scraped_value("reconnects") == 1
    assert told.scraped_value("dependency_duration_seconds_count", dependency="credentials", operation="read") == 1
    assert told.scraped_value("dependency_duration_seconds_count", dependency="vault", operation="GET") >= 4
    assert "gateway_manager.phone.approvals" in told.receiver.metrics


def test_each_line_of_the_log_names_its_trace(told: Told) -> None:
    """What was told within a launch or a recovery is found by it; a line that belongs to none says nothing."""
    lines = [json.loads(line) for line in told.log.splitlines()]
    ready = [each["trace_id"] for each in lines if each["event"] == "GatewayReady"]
    assert ready == [told.traces[name][0].trace_id for name in ("launch", "recovery")]
    (launched,) = [each for each in lines if each["event"] == "GatewayLaunched"]
    assert launched["span_id"] in {each.span_id for each in told.traces["launch"] if each.name == "gateway launch"}
    assert "trace_id" not in next(each for each in lines if each["event"] == "manager started")


def test_no_secret_is_in_what_leaves(told: Told) -> None:
    """Neither the password nor Vault's token, in spans, metrics and log, whatever was tried with them."""
    everything = bytes(told.receiver.raw) + told.scraped.encode() + told.log.encode()
    assert b"ibkr/anna" in everything
    for secret in SECRETS:
        assert secret.encode() not in everything
