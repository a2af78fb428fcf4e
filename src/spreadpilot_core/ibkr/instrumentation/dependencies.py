"""What others are asked for (store, runtime, credentials), each call timed, and a span where it belongs to a trace."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from spreadpilot_core.ibkr.seams import Instrumentation
from spreadpilot_core.ibkr.telemetry import spans_are_recorded, traced

T = TypeVar("T")


def timed_calls(adapter: T, dependency: str, instrumentation: Instrumentation) -> T:
    """The adapter, with each of its coroutines timed; as it is where nobody measures or traces.

    Args:
        adapter: fulfils a protocol; what is no coroutine (streams, properties) is not touched.
        dependency: what it is called in metrics and spans.
        instrumentation: is told.
    """
    if not instrumentation.is_on and not spans_are_recorded():
        return adapter
    return cast("T", _Timed(adapter, dependency, instrumentation))


class _Timed:
    """Stands before an adapter."""

    _adapter: Any
    _dependency: str
    _instrumentation: Instrumentation

    def __init__(self, adapter: Any, dependency: str, instrumentation: Instrumentation) -> None:
        vars(self).update(_adapter=adapter, _dependency=dependency, _instrumentation=instrumentation)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._adapter, name)
        return self._timed(name, found) if inspect.iscoroutinefunction(found) else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._adapter, name, value)

    def _timed(self, name: str, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        dependency, tell = self._dependency, self._instrumentation.dependency_called

        async def call(*arguments: Any, **named: Any) -> Any:
            begun, error = time.perf_counter(), None
            try:
                with traced(f"{dependency} {name}"):
                    return await work(*arguments, **named)
            except asyncio.CancelledError:
                error = "cancelled"
                raise
            except BaseException as failure:
                error = type(failure).__name__
                raise
            finally:
                tell(dependency, name, time.perf_counter() - begun, error)

        vars(self)[name] = call  # made once
        return call
