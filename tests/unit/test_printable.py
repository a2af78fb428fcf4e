"""Nothing that comes from outside does anything to a terminal, or looks like something else there."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from spreadpilot_core.ibkr.demo.screens import LiveScreen, PlainScreen
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.service import cli, tables
from spreadpilot_core.ibkr.system.printable import escape_streams, one_line, printable, unescaped
from spreadpilot_core.ibkr.telemetry import get_logger, set_up_logs
from support.fake_manager import a_snapshot

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJm\x1b\\",
    "\x9b31mC1",
    "\x7f\x08\x08\x08erased",
    "\rover it",
    "one\ntwo\r\nthree\x0b\x0c\x85\u2028four\u2029",
    "\u202egnp.exe\u202c",
    "\u2066isolated\u2069\u200b\u200f\ufeff\u00ad",
    "\U000e0001\U000e0041tag",
    "half \ud800",
    "\x00nul",
]
"""Colours, titles, the clipboard, eight-bit sequences, what erases, new lines of every kind, what turns or hides text."""


def is_clean(text: str) -> bool:
    """Whether all of it is visible, but for the ends of its lines."""
    return all(line.isprintable() for line in text.split("\n"))


def a_hostile_snapshot(text: str) -> GatewaySnapshot:
    """One whose every text that may come from outside is this."""
    return a_snapshot(
        "alice",
        State.NEEDS_HUMAN,
        reason=f"The container said {text}.",
        next_action=f"Look at {text}.",
        notices=(f"The image {text} is outdated.",),
        accounts=(text, "U1234567"),
        image=text,
        container=text,
        endpoint=text,
        credentials=None,
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_escaped_is_visible_and_json(text: str) -> None:
    """Nothing invisible is left, JSON's own reader gets the text back, and a line stays one line."""
    assert printable(text).isprintable()
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text
    assert one_line(text).isprintable()


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 東京 🙂 — “quoted”…", r"a \u001b that was typed"])
def test_visible_text_stays_as_it_is(text: str) -> None:
    """Any script may be read, and an escape that was typed is no escape."""
    assert printable(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_and_json_of_a_gateway(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`status`, in a list, in detail and as JSON, whatever a record, an account or an image holds."""
    row = a_hostile_snapshot(text).model_dump(mode="json")
    for shown, lines in ((tables.gateways([row]), 2), (tables.gateway(row), len(row))):
        tables.console().print(shown)
        printed = capsys.readouterr().out
        assert is_clean(printed)
        assert printed.count("\n") == lines
    tables.print_json([row])
    printed = capsys.readouterr().out
    assert is_clean(printed)
    assert json.loads(printed)[0]["image"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_lists_of_records(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`followers list`, `credentials list` and `audit show`: a record is one line."""
    tables.console().print(tables.table(["ID", "STATE"], [["alice", text], ["bob", {text: text}]]))
    tables.console().print(tables.bare([["engine", text]]))
    printed = capsys.readouterr().out
    assert is_clean(printed)
    assert printed.count("\n") == 4


@pytest.mark.parametrize("text", HOSTILE)
def test_the_screens_of_the_demo(text: str) -> None:
    """A sentence of the demo is one line, also where it is drawn."""
    plain = io.StringIO()
    PlainScreen(plain).say(f"It said {text}.", about=text)
    assert is_clean(plain.getvalue())
    assert plain.getvalue().count("\n") == 1
    drawn = io.StringIO()
    screen = LiveScreen(Console(file=drawn, width=400))
    screen.show([a_hostile_snapshot(text).model_dump(mode="json")])
    screen.say(f"It said {text}.", about=text)
    Console(file=drawn, width=400).print(screen.picture())
    assert is_clean(drawn.getvalue())


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_command_prints(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A print that forgot to escape is caught at the stream, and an error is one line of standard error."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # put back afterwards
    before = sys.stdout
    escape_streams()
    print(f"The engine said {text}")  # noqa: T201  # as a command does
    sys.stdout.writelines([text, "\n"])
    with pytest.raises(SystemExit):
        cli.fail(f"Vault said {text}.")
    assert unescaped(sys.stdout) is before
    out, err = capsys.readouterr()
    assert is_clean(out)
    assert err.rstrip("\n").isprintable()


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """Logging belongs to the whole process: put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("logs_as_before")
@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("text", HOSTILE)
def test_logs(text: str, form: str) -> None:
    """Our lines, a library's, and the traceback of an error that bears what was read."""
    stream = io.StringIO()
    set_up_logs(form=form, stream=stream)  # type: ignore[arg-type]  # parametrised
    log = get_logger("spreadpilot_core.ibkr.x")
    log.warning("odd", follower=text, sentence=f"It said {text}.")
    log.warning("odd", said=text, all_of_it={text: [text]})
    logging.getLogger("library").warning("%s was said", text)
    try:
        int(f"{text}x")
    except ValueError:
        log.exception("failed")
        logging.getLogger("library").exception("failed")
    assert all(line.replace("\t", " ").isprintable() for line in stream.getvalue().split("\n"))
    if form == "json":
        assert [json.loads(line)["level"] for line in stream.getvalue().split("\n")[:-1]]
