"""A receiver of OpenTelemetry's own protocol, on the official protobuf messages: over HTTP and over gRPC, in this process.

It stands in for a collector where none can be had: what a manager sends is decoded by the protocol's own definitions, and
the tests read what has arrived.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it arrived."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    begun: int
    ended: int
    attributes: dict[str, Any] = field(hash=False)
    events: tuple[str, ...] = ()
    failed: bool = False
    links: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.begun) / 1e9


class Receiver:
    """What has arrived."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._spans: list[ReceivedSpan] = []
        self._metrics: dict[str, Any] = {}
        self.resources: list[dict[str, Any]] = []
        self.raw = bytearray()
        """Everything, as it came over the wire, decompressed."""
        self.endpoint = ""

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans so far, in the order of their beginnings."""
        with self._turn:
            return sorted(self._spans, key=lambda each: (each.begun, -each.ended))

    @property
    def metrics(self) -> dict[str, Any]:
        """The newest data of each metric."""
        with self._turn:
            return dict(self._metrics)

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """The spans by trace."""
        found: dict[str, list[ReceivedSpan]] = {}
        for span in self.spans:
            found.setdefault(span.trace_id, []).append(span)
        return found

    def take_traces(self, request: ExportTraceServiceRequest) -> None:
        """What one export brought."""
        with self._turn:
            self.raw += request.SerializeToString()
            for resource in request.resource_spans:
                self.resources.append(_plain(resource.resource.attributes))
                self._spans += [_span(each) for scope in resource.scope_spans for each in scope.spans]

    def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        """What one export brought."""
        with self._turn:
            self.raw += request.SerializeToString()
            for resource in request.resource_metrics:
                self.resources.append(_plain(resource.resource.attributes))
                self._metrics |= {each.name: each for scope in resource.scope_metrics for each in scope.metrics}


def tree(spans: list[ReceivedSpan]) -> str:
    """The spans of one trace as an indented text, one a line, for reading and for comparing."""
    below: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        below.setdefault(span.parent_id, []).append(span)
    known = {span.span_id for span in spans}

    def lines(span: ReceivedSpan, depth: int) -> Iterator[str]:
        yield f"{'  ' * depth}{span.name}{' !' if span.failed else ''}"
        for each in below.get(span.span_id, []):
            yield from lines(each, depth + 1)

    return "\n".join(line for span in spans if span.parent_id not in known for line in lines(span, 0))


def _span(span: Span) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        begun=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes=_plain(span.attributes),
        events=tuple(each.name for each in span.events),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        links=tuple(each.trace_id.hex() for each in span.links),
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def receiving_http() -> Iterator[Receiver]:
    """A receiver of protobuf over HTTP, at `endpoint`."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """One export."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            if self.path == "/v1/traces":
                receiver.take_traces(ExportTraceServiceRequest.FromString(body))
            else:
                receiver.take_metrics(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """No lines of its own."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    receiver.endpoint = f"http://{HOST}:{server.server_port}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


@contextmanager
def receiving_grpc() -> Iterator[Receiver]:
    """A receiver over gRPC, at `endpoint`."""
    receiver = Receiver()

    class Traces(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802  # gRPC's own
            """One export."""
            receiver.take_traces(request)
            return ExportTraceServiceResponse()

    class Metrics(MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802  # gRPC's own
            """One export."""
            receiver.take_metrics(request)
            return ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Traces(), server)
    add_MetricsServiceServicer_to_server(Metrics(), server)
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    receiver.endpoint = f"http://{HOST}:{port}"
    try:
        yield receiver
    finally:
        server.stop(0).wait()
