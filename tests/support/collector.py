"""A real OpenTelemetry Collector with the configuration of deploy/, but that it listens on free ports and writes into files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from support.go_programs import GoProgram
from support.otlp import ReceivedSpan
from support.ports import free_ports
from support.prometheus import DEPLOY
from support.waiting import wait_until

CONFIG = DEPLOY / "otel-collector.yaml"
FAILED = 2
"""A span's status in the protocol."""


def program() -> Path:
    """The Collector, built of its Go modules."""
    return GoProgram("otelcol", "an OpenTelemetry Collector").needed()


class Collector:
    """It runs while the block does; what it wrote is read after it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """For OTLP over HTTP."""
        return f"http://127.0.0.1:{self._port}"

    def _configured(self) -> Path:
        config = yaml.safe_load(CONFIG.read_text())
        protocols = config["receivers"]["otlp"]["protocols"]
        protocols["http"]["endpoint"] = f"127.0.0.1:{self._port}"
        protocols["grpc"]["endpoint"] = f"127.0.0.1:{self._port + 1}"
        config["exporters"] = {}
        for signal, pipeline in config["service"]["pipelines"].items():
            config["exporters"][f"file/{signal}"] = {"path": str(self._directory / f"{signal}.jsonl")}
            pipeline["exporters"] = [f"file/{signal}"]
        file = self._directory / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        return file

    def __enter__(self) -> Self:
        command = [program(), "--config", self._configured()]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()
        try:
            return httpx.post(f"{self.endpoint}/v1/traces", json={}).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    @property
    def raw(self) -> bytes:
        """Everything that it wrote."""
        return b"".join((self._directory / f"{signal}.jsonl").read_bytes() for signal in ("traces", "metrics"))

    def _lines(self, signal: str) -> Iterator[Any]:
        for line in (self._directory / f"{signal}.jsonl").read_text().splitlines():
            yield json.loads(line)

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """The spans by trace, in the order of their beginnings."""
        spans = [
            _span(each)
            for line in self._lines("traces")
            for resource in line.get("resourceSpans", ())
            for scope in resource["scopeSpans"]
            for each in scope["spans"]
        ]
        found: dict[str, list[ReceivedSpan]] = {}
        for span in sorted(spans, key=lambda each: (each.begun, -each.ended)):
            found.setdefault(span.trace_id, []).append(span)
        return found

    def exemplars(self) -> set[tuple[str, str]]:
        """Metric and trace of each; an export has those since the one before."""
        return {
            (metric["name"], exemplar["traceId"])
            for line in self._lines("metrics")
            for resource in line["resourceMetrics"]
            for scope in resource["scopeMetrics"]
            for metric in scope["metrics"]
            for kind in ("histogram", "sum")
            for point in metric.get(kind, {}).get("dataPoints", ())
            for exemplar in point.get("exemplars", ())
            if "traceId" in exemplar
        }


def _span(span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        name=span["name"],
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        begun=int(span["startTimeUnixNano"]),
        ended=int(span["endTimeUnixNano"]),
        attributes={each["key"]: _plain(each["value"]) for each in span.get("attributes", ())},
        events=tuple(each["name"] for each in span.get("events", ())),
        failed=span.get("status", {}).get("code") == FAILED,
    )


def _plain(value: dict[str, Any]) -> Any:
    ((kind, found),) = value.items()
    return int(found) if kind == "intValue" else found
