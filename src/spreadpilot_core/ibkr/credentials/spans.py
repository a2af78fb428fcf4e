"""What a courier's work took, as plain data that goes back with its answer: names, times, kinds of errors, and no value.

A courier has no exporter and knows no endpoint: the manager, who asked within a span of its own, makes spans of what comes
back. Recorded is only what was asked for; the standard library is all that is needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

MOST = 50
"""Spans of one answer."""

_RECORDED: ContextVar[list[dict[str, Any]] | None] = ContextVar("recorded", default=None)
_PARENT: ContextVar[int | None] = ContextVar("parent", default=None)


@contextmanager
def recording() -> Iterator[list[dict[str, Any]]]:
    """Record what is timed inside the block, also in threads that are given its context."""
    recorded: list[dict[str, Any]] = []
    token = _RECORDED.set(recorded)
    try:
        yield recorded
    finally:
        _RECORDED.reset(token)


@contextmanager
def timed(name: str, **facts: str | int) -> Iterator[dict[str, str | int]]:
    """Time the block; gives the facts, to which it may add. Without a recording nothing happens.

    Args:
        name: what is done.
        facts: what it may be found by; underscores stand for dots. Never a secret.
    """
    known = {key.replace("_", "."): value for key, value in facts.items()}
    recorded = _RECORDED.get()
    if recorded is None or len(recorded) >= MOST:
        yield known
        return
    span: dict[str, Any] = {"name": name, "begin": time.time_ns(), "parent": _PARENT.get(), "error": None}
    token = _PARENT.set(len(recorded))
    recorded.append(span)
    try:
        yield known
    except BaseException as error:
        span["error"] = type(error).__name__
        raise
    finally:
        _PARENT.reset(token)
        span |= {"end": time.time_ns(), "facts": known}
