from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from spreadpilot_core.ibkr.telemetry import MASK, get_logger, open_span, set_up_logs

PLANTED = "pl4nted-Passw0rd"


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Logging belongs to the whole process: put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("ib_async", "ib_insync", "aiohttp", "httpx")}
    yield
    root.handlers[:], root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def _fail_to_connect(password: str) -> None:
    address = f"mongodb://u:{password}@h"
    raise ConnectionError(f"{address} is away")


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_holds_time_level_event_and_follower() -> None:
    """Machines find the four things they search by on each line, a follower of null on the whole manager's lines."""
    stream = io.StringIO()
    set_up_logs(form="json", stream=stream)
    log = get_logger("manager")
    log.bind(follower="alice").info("GatewayReady", sentence="Ready.")
    log.warning("unavailable", what="follower store")
    ready, unavailable = _lines(stream)
    assert list(ready) == ["timestamp", "level", "event", "follower", "sentence"]
    assert (ready["event"], ready["follower"], ready["level"]) == ("GatewayReady", "alice", "info")
    assert unavailable["follower"] is None


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "facts",
    [
        {"password": PLANTED},
        {"IB_PASS": PLANTED},
        {"vault_token": PLANTED},
        {"given": {"secret_id": PLANTED, "deep": [{"passphrase": PLANTED}]}},
        {"value": SecretStr(PLANTED)},
        {"values": (1, SecretStr(PLANTED))},
        {"uri": f"mongodb://manager:{PLANTED}@db/spreadpilot"},
        {"error": ValueError(f"no server at mongodb+srv://manager:{PLANTED}@db")},
        {"authorization": f"Bearer {PLANTED}"},
    ],
)
def test_no_secret_is_written(form: str, facts: dict[str, object]) -> None:
    """A secret is masked wherever it hides: by its name, its type, inside others, in an address, in an exception."""
    stream = io.StringIO()
    set_up_logs(form=form, stream=stream)  # type: ignore[arg-type]  # parametrised
    get_logger("x").info("something", **facts)
    assert PLANTED not in stream.getvalue()
    assert MASK in stream.getvalue()


def test_a_traceback_shows_neither_locals_nor_a_password_in_an_address() -> None:
    """An exception's own text and the frames' variables are where secrets leak; neither is written."""
    for form in ("json", "console"):
        stream = io.StringIO()
        set_up_logs(form=form, stream=stream)  # type: ignore[arg-type]  # a literal of the loop
        try:
            _fail_to_connect(PLANTED)
        except ConnectionError:
            get_logger("x").exception("failed")
        assert "ConnectionError" in stream.getvalue()
        assert PLANTED not in stream.getvalue()


def test_what_is_no_secret_stays_readable() -> None:
    """References and versions of secrets are what an operator searches by, so they are not masked."""
    stream = io.StringIO()
    set_up_logs(form="json", stream=stream)
    facts = {"vault_secret_ref": "ibkr/alice", "secret_version": "4", "rejected_version": "3", "client_id": 7}
    get_logger("x").info("something", **facts)
    (line,) = _lines(stream)
    assert facts.items() <= line.items()


def test_libraries_come_the_same_way() -> None:
    """A library's own log line has the same form, and the client library's chatter, told by us already, is left out."""
    stream = io.StringIO()
    set_up_logs(form="json", stream=stream)
    logging.getLogger("aiodocker").warning("engine at %s", f"tcp://u:{PLANTED}@h")
    logging.getLogger("ib_async.wrapper").error("Error 1100")
    (line,) = _lines(stream)
    assert line["logger"] == "aiodocker"
    assert PLANTED not in str(line)


def test_levels_below_are_left_out() -> None:
    """`log_level` is the lowest level that is written."""
    stream = io.StringIO()
    set_up_logs(form="json", level="warning", stream=stream)
    log = get_logger("x")
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in _lines(stream)] == ["loud"]


def test_auto_is_json_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard error that is no terminal, `auto` writes JSON."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    set_up_logs()
    get_logger("x").info("something")
    assert _lines(stream)[0]["event"] == "something"


def test_a_span_costs_nothing_without_an_sdk() -> None:
    """Users without OpenTelemetry notice nothing of the spans."""
    with open_span("gateway launch", follower="alice", password=PLANTED) as quiet:
        assert not quiet.is_recording()


async def test_a_span_is_the_current_one_of_the_tasks_begun_in_it_until_it_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an SDK: what a library traces inside an action belongs to the action, and no secret is an attribute."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    async def below() -> None:
        with trace.get_tracer("a library").start_as_current_span("below"):
            await asyncio.sleep(0)

    with open_span("gateway launch", follower="alice", password=PLANTED) as span:
        work = asyncio.create_task(below())
    await work
    span.end()

    inner, outer = kept.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert dict(outer.attributes or {}) == {"follower": "alice", "password": MASK}


LIBRARY = """
import logging, sys
if "asked" in sys.argv:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
from spreadpilot_core.ibkr.telemetry import get_logger
log = get_logger("spreadpilot_core.ibkr.reporting.announcer")
log.debug("quiet")
log.info("GatewayReady", follower="alice", sentence="Ready.")
log.warning("LoginRejected", follower="alice", sentence="IBKR did not accept it.", password="pl4nted-Passw0rd")
try:
    raise ConnectionError("mongodb://u:pl4nted-Passw0rd@h is away")
except ConnectionError:
    log.exception("failed", what="store")
"""


@pytest.mark.parametrize("asked", [False, True])
def test_in_a_program_of_its_own_it_is_silent_below_warning_unless_asked(asked: bool) -> None:
    """Nothing on standard output, warnings on standard error; whoever configures `logging` gets more, and no secret either."""
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY, *(["asked"] if asked else [])], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert PLANTED not in done.stderr
    assert ("Ready." in done.stderr) is asked
    assert "quiet" not in done.stderr
    assert "alice: IBKR did not accept it." in done.stderr
    assert "ConnectionError" in done.stderr
    assert ("WARNING spreadpilot_core.ibkr.reporting.announcer alice:" in done.stderr) is asked


def test_a_record_carries_the_same_as_a_dictionary(caplog: pytest.LogCaptureFixture) -> None:
    """A handler of a program's own finds event, follower and facts without parsing the line."""
    get_logger("spreadpilot_core.ibkr.x").warning("LoginFailed", follower="bob", sentence="Failed.", outcome="failed")
    (record,) = caplog.records
    structured = record.__dict__["structured"]
    assert {"event": "LoginFailed", "follower": "bob", "outcome": "failed"}.items() <= structured.items()


def test_lines_for_people_have_one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time in a sentence is that of the reader's zone, as the time before it is; machines get the sentence as it is."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    shown = {}
    for form in ("console", "json"):
        stream = io.StringIO()
        set_up_logs(form=form, stream=stream)  # type: ignore[arg-type]  # a literal of the loop
        get_logger("spreadpilot_core.ibkr.x").info("StateChanged", sentence="Next try at 14:03:05 UTC.")
        shown[form] = stream.getvalue()
    monkeypatch.undo()
    time.tzset()
    assert "Next try at 23:03:05 JST." in shown["console"]
    assert "Next try at 14:03:05 UTC." in shown["json"]


def test_lines_for_people_read_like_the_demos() -> None:
    """The time of the day, whom it is about, and a sentence; what has no sentence shows its facts, and no line breaks out."""
    stream = io.StringIO()
    set_up_logs(form="console", stream=stream)
    log = get_logger("spreadpilot_core.ibkr.x")
    log.info("GatewayReady", follower="alice", sentence="Ready: DU1 at 127.0.0.1:4100.", endpoint="127.0.0.1:4100")
    log.info("manager started", pid=7)
    log.info("odd", follower="a\x1b[2Jb", sentence="one\ntwo")
    first, second, third = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d    alice: Ready: DU1 at 127\.0\.0\.1:4100\.", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d    manager started\. pid=7", second)
    assert third.endswith("a\\u001b[2Jb: one two")
