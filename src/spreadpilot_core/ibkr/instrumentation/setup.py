"""Who measures, and how it leaves the process.

A library uses what its program has set up, and sets nothing up itself. The service calls `set_up_sdk`: OpenTelemetry's SDK
from the standard `OTEL_*` variables, when they name an endpoint or an exporter. The setting `metrics_address` has the
metrics read for Prometheus, whoever else reads them.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from opentelemetry import metrics, trace

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.seams import UNMEASURED, Instrumentation
from spreadpilot_core.ibkr.system.wording import not_installed

SERVICE_NAME = "gateway-manager"
FLUSHED_WITHIN = 3.0
"""Seconds that the end of the service waits for traces, and again for metrics, to be sent."""
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_OTLP = "opentelemetry.exporter.otlp.proto"
_EXPORTERS = {
    ("TRACES", "otlp", "grpc"): f"{_OTLP}.grpc.trace_exporter:OTLPSpanExporter",
    ("TRACES", "otlp", "http/protobuf"): f"{_OTLP}.http.trace_exporter:OTLPSpanExporter",
    ("TRACES", "console", ""): "opentelemetry.sdk.trace.export:ConsoleSpanExporter",
    ("METRICS", "otlp", "grpc"): f"{_OTLP}.grpc.metric_exporter:OTLPMetricExporter",
    ("METRICS", "otlp", "http/protobuf"): f"{_OTLP}.http.metric_exporter:OTLPMetricExporter",
    ("METRICS", "console", ""): "opentelemetry.sdk.metrics.export:ConsoleMetricExporter",
}
"""Signal, exporter and protocol -> what makes it; they are an extra of this package."""


class Exposed(Protocol):
    """The metrics as Prometheus scrapes them."""

    def text(self, accepted: str | None = None) -> tuple[bytes, str]:
        """What is scraped now, and its content type."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """Who measures in one manager."""

    instrumentation: Instrumentation
    exposition: Exposed | None
    close: Callable[[], None]


def measuring(metrics_address: str | None) -> Measuring:
    """What the program or the service has set up, and with an address what is scraped there; nothing without either.

    Raises:
        SettingsError: what Prometheus needs is not installed.
    """
    provider: Any = metrics.get_meter_provider()
    is_set_up = not type(provider).__module__.startswith("opentelemetry.metrics")
    if metrics_address is None and not is_set_up:
        return Measuring(UNMEASURED, None, lambda: None)
    if metrics_address is None:
        return Measuring(_on(provider), None, lambda: None)
    try:
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415  # an extra of this package

        from spreadpilot_core.ibkr.instrumentation.exposition import Exposition  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError("metrics_address", metrics_address, not_installed(error)) from None
    exposition = Exposition()
    if isinstance(provider, MeterProvider):
        provider.add_metric_reader(exposition.reader)
        return Measuring(_on(provider), exposition, lambda: provider.remove_metric_reader(exposition.reader))
    own = MeterProvider(metric_readers=[exposition.reader], resource=_resource(), shutdown_on_exit=False)
    return Measuring(_on(own), exposition, own.shutdown)


_MADE: WeakKeyDictionary[Any, Instrumentation] = WeakKeyDictionary()


def _on(provider: Any) -> Instrumentation:
    """The one on this provider: a manager that is started again must not make every instrument twice."""
    from spreadpilot_core.ibkr.instrumentation.meters import MeteredInstrumentation  # noqa: PLC0415  # where wanted

    if provider not in _MADE:
        _MADE[provider] = MeteredInstrumentation(provider)
    return _MADE[provider]


def set_up_sdk(environ: Mapping[str, str] = os.environ) -> ExitStack:
    """Make the SDK the process's own where the variables name an endpoint or an exporter; leaving the stack flushes it.

    Raises:
        SettingsError: a variable says what can't be done.
    """
    ending = ExitStack()
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ending
    if _exporter(environ, "TRACES"):
        provider = _tracer_provider(environ)
        ending.callback(_flush, provider.shutdown)
        trace.set_tracer_provider(provider)
    if _exporter(environ, "METRICS"):
        meters = _meter_provider(environ)
        ending.callback(_flush, meters.shutdown)
        metrics.set_meter_provider(meters)
    return ending


def _flush(shut_down: Callable[[], None]) -> None:
    """Send what waits, for a few seconds: a collector that is away, which is tried for longer, must not hold up the end."""
    flushing = threading.Thread(target=shut_down, name="flush telemetry", daemon=True)
    flushing.start()
    flushing.join(FLUSHED_WITHIN)


def _exporter(environ: Mapping[str, str], signal: str) -> str | None:
    """Which exporter is asked for; None: nothing leaves."""
    variable = f"OTEL_{signal}_EXPORTER"
    named = environ.get(variable, "").strip().lower()
    if not named:
        endpoint = environ.get(_ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
        return "otlp" if endpoint else None
    if named == "none":
        return None
    if named not in {"otlp", "console"}:
        raise SettingsError(variable, named, "must be otlp, console or none (Prometheus scrapes at metrics_address)")
    return named


def _protocol(environ: Mapping[str, str], signal: str) -> str:
    variable = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    name = variable if environ.get(variable) else _PROTOCOL
    protocol = environ.get(name) or "http/protobuf"
    if protocol not in {"grpc", "http/protobuf"}:
        raise SettingsError(name, protocol, "must be grpc or http/protobuf")
    return protocol


def _tracer_provider(environ: Mapping[str, str]) -> Any:
    exporter = _made_exporter(environ, "TRACES")
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # an extra of this package
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _meter_provider(environ: Mapping[str, str]) -> Any:
    exporter = _made_exporter(environ, "METRICS")
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415  # an extra of this package
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415

    from spreadpilot_core.ibkr.instrumentation.limits import SERIES  # noqa: PLC0415

    reader = PeriodicExportingMetricReader(exporter, cardinality_limits=SERIES)
    return MeterProvider(metric_readers=[reader], resource=_resource(), shutdown_on_exit=False)


def _made_exporter(environ: Mapping[str, str], signal: str) -> Any:
    """It reads its own variables: endpoint, headers, certificate, timeout."""
    exporter = _exporter(environ, signal)
    assert exporter is not None
    protocol = _protocol(environ, signal) if exporter == "otlp" else ""
    module, _, name = _EXPORTERS[signal, exporter, protocol].partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except ImportError as error:
        raise SettingsError(f"OTEL_{signal}_EXPORTER", exporter, not_installed(error)) from None


def _resource() -> Any:
    """What the variables say this process is; without a name the program's."""
    from opentelemetry.sdk.resources import SERVICE_NAME as NAME  # noqa: PLC0415  # an extra of this package
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

    found = Resource.create()
    if str(found.attributes.get(NAME, "")).startswith("unknown_service"):
        return found.merge(Resource({NAME: SERVICE_NAME}))
    return found
