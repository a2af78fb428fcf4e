"""How logs and spans leave the process: structured, the follower on each line, and no secret possible.

A library leaves logging to its user: nothing here is called by importing `GatewayManager`. The service calls
`set_up_logs` once; a user's own program may, or brings its own structlog configuration (and then `redact` for its chain).
Spans go to OpenTelemetry's API and are silent until somebody configures an SDK.

It knows nothing of gateways.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, TextIO

import structlog
from opentelemetry import trace
from opentelemetry.trace import Span
from pydantic import SecretBytes, SecretStr

__all__ = ["MASK", "Span", "open_span", "redact", "set_up_logs"]

MASK = "**********"
_SECRET_NAMES = re.compile(
    r"(^|[_-])(pass|password|passwd|pwd|passphrase|secret|secret_id|token|authorization|api_?key|private_key|cookie)$",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s'\"]*:[^/\s'\"]*@")
"""User and password of an address, such as MongoDB's."""
_QUIET = {
    "ib_async": logging.CRITICAL,
    "ib_insync": logging.CRITICAL,
    "aiohttp": logging.WARNING,
    "httpx": logging.WARNING,
    "uvicorn": logging.CRITICAL,
    "watchfiles": logging.WARNING,
    "pymongo": logging.WARNING,
}
"""What these libraries tell is told by us already, once and in our words."""

Level = Literal["debug", "info", "warning", "error"]


def set_up_logs(
    *, form: Literal["auto", "console", "json"] = "auto", level: Level = "info", stream: TextIO | None = None
) -> None:
    """Send this process's logs, ours and the libraries', to `stream` (standard error), one event a line.

    Args:
        form: `console` for people, `json` for machines; `auto` is console on a terminal, else JSON.
        level: the lowest level that is written.
        stream: another place, for tests.
    """
    target = stream if stream is not None else sys.stderr
    for_people = form == "console" or (form == "auto" and target.isatty())
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_follower,
    ]
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                _in_reading_order,
                _for_people(target) if for_people else structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=False,
    )


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask every value whose name says secret, every pydantic secret, and user and password in addresses."""
    return {name: _redacted(name, value) for name, value in event.items()}


@contextmanager
def open_span(name: str, *, follower: str | None = None, **attributes: str | float | bool) -> Iterator[Span]:
    """Begin a span that is the current one in this block and in the tasks begun here; whoever keeps it ends it.

    Args:
        name: what is done, e.g. "gateway launch".
        follower: whose gateway it is about.
        attributes: anything else worth finding it by; masked as logs are.
    """
    given = {**attributes, **({} if follower is None else {"follower": follower})}
    begun = trace.get_tracer("spreadpilot_core.ibkr").start_span(
        name, attributes={key: _redacted(key, each) for key, each in given.items()}
    )
    with trace.use_span(begun):
        yield begun


def _redacted(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr | SecretBytes) or (value is not None and _SECRET_NAMES.search(name)):
        return MASK
    match value:
        case str():
            return _USER_INFO.sub(f"{MASK}@", value)
        case Mapping():
            return {key: _redacted(str(key), each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted("", each) for each in value]
        case BaseException():
            return _USER_INFO.sub(f"{MASK}@", f"{type(value).__name__}: {value}")
        case _:
            return value


def _name_follower(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Every line has the field, so that a search by follower misses none; null is the whole manager's."""
    event.setdefault("follower", None)
    return event


def _in_reading_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = ("timestamp", "level", "event", "follower", "sentence")
    return {name: event[name] for name in (*first, *event) if name in event}


def _for_people(stream: TextIO) -> structlog.typing.Processor:
    renderer = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), sort_keys=False, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )

    def render(logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        if event.get("follower") is None:
            event.pop("follower", None)
        return renderer(logger, method, event)

    return render
