"""How many series of one metric a reader keeps: the SDK's own limit of 2,000 is less than a large fleet has."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter, ObservableGauge

MOST = 200_000
SERIES: dict[Any, int] = dict.fromkeys((Counter, Histogram, ObservableCounter, ObservableGauge), MOST)
