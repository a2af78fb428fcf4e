"""How logs and spans leave the process: structured, the follower on each line, and no secret possible.

A library leaves logging to its user: every module of ours logs to the standard library's logger of its name, masked before it
gets there. A program that asks for nothing sees warnings on standard error; the service calls `set_up_logs` once.
Spans go to OpenTelemetry's API and are silent until somebody configures an SDK.

It knows nothing of gateways.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, TextIO

import structlog
from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode
from pydantic import SecretBytes, SecretStr

from spreadpilot_core.ibkr.system.local_time import in_local_time
from spreadpilot_core.ibkr.system.printable import one_line, printable, unescaped
from spreadpilot_core.ibkr.system.secret_names import is_secret_name

__all__ = [
    "MASK",
    "Span",
    "adopt_spans",
    "begin_span",
    "current_ids",
    "fail_span",
    "get_logger",
    "is_traced_now",
    "open_span",
    "redact",
    "set_up_logs",
    "spans_are_recorded",
    "traced",
    "within",
    "without_named_passwords",
]

MASK = "**********"
_NAMED_PASSWORD = re.compile(r"(?i)(\w*(?:password|passwd|passphrase)\w*\s*[=:]\s*)\S.*")
_USER_INFO = re.compile(r"(?<=://)[^/@\s'\"]*:[^/\s'\"]*@")
"""User and password of an address, such as MongoDB's."""
_SCOPE = "spreadpilot_core.ibkr"
_MOST_ADOPTED, _LONGEST_NAME = 50, 100
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


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one of our modules: what it is given goes, masked, to the standard library's logger of that name.

    So a program that asks for nothing sees warnings on standard error, and one that configures `logging` decides the rest.
    Each record is a line for people; its `structured` holds the same as a dictionary.
    """
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_follower,
            _name_trace,
            structlog.processors.format_exc_info,
            redact,
            _to_record,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return logger


def set_up_logs(
    *, form: Literal["auto", "console", "json"] = "auto", level: Level = "info", stream: TextIO | None = None
) -> None:
    """Send this process's logs, ours and the libraries', to `stream` (standard error), one event a line.

    Args:
        form: `console` for people, `json` for machines; `auto` is console on a terminal, else JSON.
        level: the lowest level that is written.
        stream: another place, for tests.
    """
    target = stream if stream is not None else unescaped(sys.stderr)
    for_people = form == "console" or (form == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(_Lines(_for_people(colours=target.isatty()) if for_people else _as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)


class _Lines(logging.Formatter):
    """Our records as they are, and a library's in the same form."""

    def __init__(self, render: Callable[[Mapping[str, Any]], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        return self._render(getattr(record, "structured", None) or self._foreign(record))

    def _foreign(self, record: logging.LogRecord) -> Mapping[str, Any]:
        event: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "follower": None,
            "logger": record.name,
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return redact(None, "", event)


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
    begun = trace.get_tracer(_SCOPE).start_span(
        name, attributes={key: _redacted(key, each) for key, each in given.items()}
    )
    with trace.use_span(begun):
        yield begun


def begin_span(
    name: str, *, below: Span | None = None, at: int | None = None, **attributes: str | float | bool
) -> Span:
    """Begin a span that is nobody's current one; whoever keeps it ends it.

    Args:
        name: what it is about.
        below: its parent; None begins a trace.
        at: when it began, in nanoseconds since 1970; None: now.
        attributes: masked as logs are.
    """
    context = trace.set_span_in_context(below if below is not None else trace.INVALID_SPAN)
    given = {key: _redacted(key, each) for key, each in attributes.items()}
    return trace.get_tracer(_SCOPE).start_span(name, context=context, attributes=given, start_time=at)


@contextmanager
def traced(name: str, attributes: Mapping[str, str | float] = MappingProxyType({})) -> Iterator[Span]:
    """A span of this block, only where it belongs to a trace: what is done by the way begins none.

    What ends the block by an exception is the span's error; its text, which may quote anything, is left out.
    """
    if not is_traced_now():
        yield trace.INVALID_SPAN
        return
    span = begin_span(name, below=trace.get_current_span())
    span.set_attributes(attributes)
    with within(span):
        try:
            yield span
        except BaseException as error:
            fail_span(span, type(error).__name__)
            raise
        finally:
            span.end()


def is_traced_now() -> bool:
    """Whether this is done within a span that somebody keeps."""
    return trace.get_current_span().is_recording()


def spans_are_recorded() -> bool:
    """Whether anybody has set tracing up."""
    return not type(trace.get_tracer_provider()).__module__.startswith("opentelemetry.trace")


def fail_span(span: Span, kind: str, sentence: str = "") -> None:
    """What the span is about failed; `kind` is a word for programs."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, _redacted("", sentence) or kind))


def within(span: Span | None) -> AbstractContextManager[Any]:
    """A block in which this span is the current one; None changes nothing."""
    return (
        nullcontext() if span is None else trace.use_span(span, record_exception=False, set_status_on_exception=False)
    )


def current_ids() -> tuple[str, str] | None:
    """Trace and span of what is done now, in hexadecimal digits; None where nobody keeps it."""
    span = trace.get_current_span()
    if not span.is_recording():
        return None
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


Heard = Callable[[str, str, float, str | None], None]
"""Takes a span's name, its operation, its seconds and its error's kind."""


def adopt_spans(reported: Sequence[Any], heard: Heard) -> None:
    """Make spans below the current one of what another process tells that it did (see `credentials.spans`).

    What makes no sense is left out: it comes from outside this process.
    """
    made: list[Span | None] = []
    for each in reported[:_MOST_ADOPTED]:
        made.append(_adopted(each, made, heard) if isinstance(each, dict) else None)


def _adopted(reported: Mapping[str, Any], made: Sequence[Span | None], heard: Heard) -> Span | None:
    name, begin, end, error = (reported.get(key) for key in ("name", "begin", "end", "error"))
    facts, parent = reported.get("facts"), reported.get("parent")
    if not (isinstance(name, str) and isinstance(begin, int) and isinstance(end, int) and isinstance(facts, dict)):
        return None
    above = made[parent] if isinstance(parent, int) and 0 <= parent < len(made) else None
    plain = {str(key): _redacted(str(key), value) for key, value in facts.items() if isinstance(value, str | int)}
    kind = error if isinstance(error, str) else None
    span = trace.get_tracer(_SCOPE).start_span(
        name[:_LONGEST_NAME],
        context=trace.set_span_in_context(above) if above is not None else None,
        attributes=plain,
        start_time=begin,
    )
    if kind is not None:
        fail_span(span, kind)
    span.end(end)
    heard(name, str(plain.get("http.request.method", name)), (end - begin) / 1e9, kind)
    return span


def without_named_passwords(line: str) -> str:
    """A line of another program, with whatever it names a password masked to the line's end."""
    return _NAMED_PASSWORD.sub(rf"\g<1>{MASK}", line)


def _redacted(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr | SecretBytes) or (value is not None and is_secret_name(name)):
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


def _name_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Where somebody traces: which trace and span the line belongs to."""
    if (ids := current_ids()) is not None:
        event["trace_id"], event["span_id"] = ids
    return event


def _to_record(_: Any, __: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """What the standard library's logger is called with."""
    given = {"extra": {"structured": dict(event)}, "exc_info": False}  # the traceback is in the line, masked
    return (_sentence(event),), given


def _as_json(event: Mapping[str, Any]) -> str:
    first = ("timestamp", "level", "event", "follower", "sentence")
    return json.dumps({name: event[name] for name in (*first, *event) if name in event}, default=str)


def _for_people(*, colours: bool) -> Callable[[Mapping[str, Any]], str]:
    """As the demo tells it: the time here, whom it is about, a sentence."""

    def render(event: Mapping[str, Any]) -> str:
        begun = datetime.fromisoformat(event["timestamp"]).astimezone()
        colour = _COLOURS.get(event["level"], "") if colours else ""
        return f"{begun:%H:%M:%S}    {colour}{in_local_time(_sentence(event))}{_PLAIN if colour else ''}"

    return render


_COLOURS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[1;31m", "critical": "\x1b[1;31m"}
_PLAIN = "\x1b[0m"
_SHOWN_ELSEWHERE = frozenset(
    {"timestamp", "level", "event", "follower", "sentence", "exception", "logger", "trace_id", "span_id"}
)


def _sentence(event: Mapping[str, Any]) -> str:
    """One line for people; a traceback follows it."""
    about = f"{event['follower']}: " if event.get("follower") is not None else ""
    facts = " ".join(f"{name}={value}" for name, value in event.items() if name not in _SHOWN_ELSEWHERE)
    text = event.get("sentence") or " ".join(filter(None, (f"{event['event']}.", facts)))
    trace = f"\n{event['exception']}" if event.get("exception") else ""
    return one_line(f"{about}{text}") + printable(trace, keep="\n\t")
