"""Fuzzers: the same property for a second in `make test` and for a share of `MINUTES` in `make soak`, with new examples each time.

A fuzzer is a test with `@fuzzed` that gives `for_a_while` a property, made by hypothesis. All of them share `MINUTES`, so
`make soak MINUTES=60` fuzzes for an hour.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

_FUZZERS = (Path(__file__).parents[1] / "fuzz").glob("test_*.py")
SHARED_BY = sum(path.read_text().count("\n@fuzzed\n") for path in _FUZZERS)
"""How many fuzzers there are."""
_GROWTH_MIB = 300

fuzzed = pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(0.0, id="short"),
        pytest.param(float(os.environ.get("MINUTES", "10")) * 60 / SHARED_BY, id="long", marks=pytest.mark.soak),
    ],
)

some = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
"""As many examples as take about a second."""


def for_a_while(seconds: float, check: Callable[[], None]) -> None:
    """Check once, and again for so many seconds; nothing may pile up meanwhile."""
    until = time.monotonic() + seconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # long examples are meant
        check()
        before = _memory()
        while time.monotonic() < until:
            check()
    grown = _memory() - before
    assert grown < _GROWTH_MIB, f"it grew by {grown} MiB"


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for one example, in memory where there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None) as place:
        yield Path(place)


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# ---------------------------------------------------------------------------------------------- what to feed

odd_texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["", " ", "\x00", "\n", "\x1b[2J", "\u202e", "\ud800", "null", "9" * 400, "x" * 70_000, "../../x"]),
)
odd_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(2**63) - 1, 2**53]),
    st.floats(),
    odd_texts,
)
odd_values = st.recursive(
    odd_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3), max_leaves=6
)
"""Whatever JSON can say."""

odd_bytes = st.one_of(
    st.binary(max_size=60),
    odd_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"[" * 5000, b'{"a":' * 5000, b"\xff\xfe", b"\r", b"\x00" * 70_000, b'"\\ud800"']),
)
"""What may stand in a line."""


def spoiled(content: bytes) -> st.SearchStrategy[bytes]:
    """This content with some bytes changed, cut out, put in or repeated."""
    place = st.integers(0, len(content))
    change = st.tuples(place, st.integers(0, 40), odd_bytes)
    return st.lists(change, max_size=4).map(lambda changes: _changed(content, changes))


def _changed(content: bytes, changes: Sequence[tuple[int, int, bytes]]) -> bytes:
    for place, length, instead in changes:
        content = content[:place] + instead + content[place + length :]
    return content
