"""The service measures and answers probes, sends to a receiver of OpenTelemetry's protocol, and keeps the availability."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from spreadpilot_core.ibkr.service.client import ControlClient
from support.command import Command
from support.home import Home
from support.otlp import Receiver, receiving_grpc, receiving_http
from support.ports import free_ports
from support.waiting import wait_until


def _is_ready(home: Home) -> bool:
    with ControlClient(home.directory) as client:
        return {each["state"] for each in client.gateways()} == {"ready"}


def test_prometheus_finds_metrics_and_probes_and_the_availability_outlives_the_manager(home: Home) -> None:
    """`metrics_address` alone: no variable is set; the ledger's month is read from the manager, and from the store after it."""
    asyncio.run(home.add("anna"))
    port = free_ports(1)
    command = Command(home, metrics_address=port, on_exit="stop", log_format="json")
    with command.begun("run") as serving, httpx.Client(base_url=f"http://127.0.0.1:{port}") as probe:
        serving.says("manager started")
        assert probe.get("/livez").status_code == 200
        wait_until(lambda: _is_ready(home))
        ready = probe.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "reason": "1 of 1 gateway ready."})
        scraped = probe.get("/metrics")
        assert 'gateway_manager_gateways{state="ready",status="RUNNING"} 1.0' in scraped.text
        assert 'gateway_manager_logins_total{follower="anna",outcome="succeeded"} 1.0' in scraped.text
        assert probe.get("/gateways").status_code == 404
        (running,) = command.json("availability")
        assert running["total"]["ready"] > 0
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0
    (kept,) = command.json("availability", "--month", running["month"])
    assert kept["total"]["ready"] >= running["total"]["ready"]
    assert kept["total"]["down"] == running["total"]["down"]
    assert "anna" in command("availability").stdout
    assert command.json("availability", "--month", "2020-02") == []
    assert command("availability", "--month", "2020-13").returncode == 2


@pytest.mark.parametrize(("protocol", "receiving"), [("http/protobuf", receiving_http), ("grpc", receiving_grpc)])
def test_traces_and_metrics_go_to_the_endpoint_that_the_standard_variables_name(
    home: Home, protocol: str, receiving: type[AbstractContextManager[Receiver]]
) -> None:
    """Over either transport, and the rest is flushed at the end; the JSON lines of the log name the trace."""
    asyncio.run(home.add("anna"))
    command = Command(home, log_format="json")
    with receiving() as receiver:
        command.environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }
        with command.begun("run") as serving:
            serving.says("manager started")
            wait_until(lambda: _is_ready(home))
            serving.signal(signal.SIGTERM)
            assert serving.ends() == 0
            log = [json.loads(line) for line in serving.stderr.splitlines()]
    assert {each["service.name"] for each in receiver.resources} == {"gateway-manager"}
    assert "gateway_manager.gateways" in receiver.metrics
    launch = next(spans for spans in receiver.traces().values() if spans[0].name == "launch")
    assert {"anna"} == {each.attributes["follower"] for each in launch if "follower" in each.attributes}
    (line,) = [each for each in log if each["event"] == "GatewayReady"]
    assert line["trace_id"] == launch[0].trace_id


def test_without_any_of_it_no_port_is_opened_and_no_package_of_it_loaded(home: Home) -> None:
    """Nobody pays for what nobody wants."""
    asyncio.run(home.add("anna"))
    command = Command(home)
    with command.begun("run") as serving:
        serving.says("manager started")
        loaded = Path(f"/proc/{serving.process.pid}/maps").read_text()
        assert "grpc" not in loaded
        assert "pandas" not in loaded
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0
