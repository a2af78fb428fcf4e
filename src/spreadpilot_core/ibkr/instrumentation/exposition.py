"""The metrics as Prometheus scrapes them: a reader beside whatever else reads the meter provider."""

from __future__ import annotations

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from spreadpilot_core.ibkr.instrumentation.limits import SERIES


class Exposition:
    """One registry, read by whoever scrapes it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self.reader = PrometheusMetricReader(
            registry=self._registry, scope_info_enabled=False, cardinality_limits=SERIES
        )

    def text(self, accepted: str | None = None) -> tuple[bytes, str]:
        """What is scraped now, and its content type; takes milliseconds for each hundred gateways.

        Args:
            accepted: the request's Accept header.
        """
        encode, content_type = choose_encoder(accepted or "")
        return encode(self._registry), content_type
