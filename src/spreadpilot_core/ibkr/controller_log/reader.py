"""Reads a container's log, line by line, into one view of the login: which phase, since which line, how many attempts.

The supervisor feeds the lines and hands the view to `decide`. Pure: no I/O, no clock. What a line means stands in
`tables`; here is how lines are taken apart and how the view moves. Logs are not clean: the runtime repeats and
loses lines when it rotates its files, two streams are mixed, tracebacks and dumps span lines, and a follow may begin
anywhere. So: a stamped line that was read before is not read again; an unstamped one belongs to the stamped line after
it, and is taken back when that turns out to be a repeat; nothing unknown is an error.

It must not know who watches, and it keeps nothing that could be a secret: no line of the environment or configuration
dump ever becomes evidence, and account ids are masked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from spreadpilot_core.ibkr.controller_log.exit_codes import ExitKind, ExitMeaning, exit_meaning
from spreadpilot_core.ibkr.controller_log.login_cures import cure_for, is_message
from spreadpilot_core.ibkr.controller_log.tables import (
    FAILABLE,
    SAYS_TYPED,
    TABLES,
    TOO_OLD,
    UNJUDGED,
    VERDICTS,
    Begins,
    LoginPhase,
    Reading,
    Row,
)
from spreadpilot_core.ibkr.model.gateways import Controller
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode

__all__ = ["ExitKind", "ExitMeaning", "LoginLog", "LoginPhase", "LoginView", "exit_meaning"]

APPROVAL_LIMIT = 180
"""Seconds IBKR gives to approve on the phone; a second factor dialog that closes later was not answered."""
LONGEST_LINE = 4000
LONGEST_EVIDENCE = 300
MOST_NOTICES = 20
REMEMBERED_LINES = 4096
"""Stamped lines that meant something and are recognised when they come again: a few hundred logins."""

_DOCKER_STAMP = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d) ")
_SCRIPT_MARK = re.compile(r"^\.>\W*")
_ACCOUNT = re.compile(r"\b([A-Za-z]{1,4})\d{5,}\b")
_WAIT = re.compile(r"(\d+) ?(hour|minute|second|h|m|s)(?:s?)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_SETTING = re.compile(r"entry (.+?) failed", re.IGNORECASE)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_PRE_FILLED = frozenset({LoginPhase.STARTING, LoginPhase.FORM, LoginPhase.AUTHENTICATING})
_SESSION_ENDS_WITH = (
    VERDICTS
    | {LoginPhase.STARTING, LoginPhase.FORM, LoginPhase.AUTHENTICATING, LoginPhase.AWAITING_2FA}
    | {LoginPhase.RESTARTING}
)
WINDOW_SHOWN = frozenset(
    {
        LoginPhase.FORM,
        LoginPhase.AUTHENTICATING,
        LoginPhase.AWAITING_2FA,
        LoginPhase.LOGGED_IN,
        LoginPhase.REJECTED,
        LoginPhase.THROTTLED,
        LoginPhase.SECOND_FACTOR_MISSED,
    }
)
"""Phases that a program reaches only once its login window is there."""
_PHONE_ASKED = frozenset({LoginPhase.AWAITING_2FA, LoginPhase.SECOND_FACTOR_MISSED})
_EXIT_TIDY = Row("", LoginPhase.ENDED, only_from=UNJUDGED - {LoginPhase.RESTARTING})
_EXIT_FAILED = Row("", LoginPhase.FAILED, only_from=FAILABLE, if_logged_in=LoginPhase.ENDED, untyped=True)
_EXIT_STUCK = Row("", LoginPhase.STUCK, only_from=FAILABLE, if_logged_in=LoginPhase.ENDED, untyped=True)
_MISSED = Row("", LoginPhase.SECOND_FACTOR_MISSED)
_FINAL = frozenset({LoginPhase.REJECTED, LoginPhase.THROTTLED, LoginPhase.SECOND_FACTOR_MISSED})
"""IBKR's own answers: a relaunch of the controller takes none of them back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginView:
    """What the log says so far."""

    phase: LoginPhase = LoginPhase.UNKNOWN
    evidence: str = ""
    """What the line said that the phase was read from, account ids masked."""
    phase_serial: int = 0
    """Grows with every change of the phase."""
    attempts: int = 0
    """Login attempts in this container's log: lines, since the controllers' own numbers start again with each program."""
    attempts_cleared: int = 0
    """Those of them up to the last completed login."""
    attempts_over: int = 0
    """Those of them since then that are known to have failed, whatever the log shows now."""
    laps: int = 0
    """Relaunches by the controller itself after a failure, in this container's log."""
    laps_cleared: int = 0
    """Those of them that a completed login followed: what passed weeks ago makes no loop of a failure today."""
    verdict: LoginPhase | None = None
    """IBKR's own answer to a login since one last completed: rejected, throttled, or the phone was missed."""
    accepted: bool = False
    """The password of the newest attempt was accepted: the second factor was asked, or more."""
    typed: bool = False
    """Something in this container's log says that user and password were typed."""
    saw_first_line: bool = False
    """The log reaches the container's own start."""
    completed: bool = False
    """A login completed in this program's life, and nothing later speaks against it."""
    completed_before: bool = False
    """A login completed earlier in this container: in a former program, or before the session was lost."""
    paper_accepted: bool = False
    warm: bool = False
    """This program was restarted without credentials."""
    wait_seconds: float | None = None
    """The wait that IBKR stated when it throttled."""
    human: Reason | None = None
    """Why, when only a human helps."""
    notices: tuple[str, ...] = ()
    saw_start: bool = False
    """The log reaches a program's start, so that "not completed" is known and not merely unseen."""
    too_old: bool = False
    """An ibcontroller older than 0.1.4."""
    last_failure: str = ""
    """Evidence of the newest failed login; outlives the relaunch, until a login completes."""
    window_shown: bool = False
    """This program has shown its login window, or gone beyond it."""
    asked_phone: bool = False
    """A second factor was asked for, in this container's log."""
    cure: Reason | None = None
    """What a human must do before another login can end otherwise; no relaunch takes it back, only a login that completes."""
    cure_evidence: str = ""
    """The words that it was read from, account ids masked."""
    login_failed: bool = False
    """IBKR's dialog "Login failed" was seen since a login last completed: outside a reset window, a rejection."""

    @property
    def nothing_typed(self) -> bool:
        """Whether the log reaches the container's start and tells of no login: IBKR has seen nothing of this one."""
        seen = self.typed or self.attempts or self.completed or self.completed_before
        return self.saw_first_line and not seen

    @property
    def is_under_way(self) -> bool:
        """Whether a login was typed, or is being typed, and nobody knows yet how it ends."""
        open_ones = self.attempts - self.attempts_cleared - self.attempts_over
        return open_ones > 0 or (self.phase is LoginPhase.AUTHENTICATING and not self.completed)

    @property
    def relaunches(self) -> int:
        """How often the controller has begun again after a failure, as counted by either kind of line."""
        return max(self.laps - self.laps_cleared, self.attempts_over)


@dataclass(frozen=True, slots=True)
class _Life:
    """What must be remembered beside the view."""

    lap_counted: bool = False
    first_lines: frozenset[str] = frozenset()
    """Which of the lines that a container prints once, as it begins, were read."""
    message: str | None = None
    """What a dialog has said so far: its further lines follow without a stamp."""
    dump: str = ""
    """How far the dump was read: "", "begun", "settings" or "good"."""


class LoginLog:
    """The log of one container."""

    def __init__(self, controller: Controller) -> None:
        self._controller: Controller = controller
        self._table = TABLES[controller]
        self._view = LoginView()
        self._life = _Life()
        self._seen: dict[int, None] = {}
        self._before_unstamped: tuple[LoginView, _Life] | None = None
        self._serial = 0

    @property
    def view(self) -> LoginView:
        """What is known now; immutable."""
        return self._view

    def read(self, line: str) -> bool:
        """Take in one line, with or without its line end. True when the view changed."""
        before = self._view
        line = _DOCKER_STAMP.sub("", line[:LONGEST_LINE].rstrip(), count=1)
        if stamped := self._table.line.match(line):
            self._read_stamped(line, stamped.group(1))
        else:
            self._read_unstamped(line)
        return self._view is not before and self._view != before

    def _read_stamped(self, line: str, text: str) -> None:
        if self._life.message is not None:
            self._life = replace(self._life, message=None)
        row, words = self._row_of(text), self._words_of(text)
        if row is None and not is_message(words):
            return
        if self._is_repeat(line):
            self._take_back_unstamped()
            return
        self._before_unstamped = None
        self._hear(words)
        if row is not None:
            self._apply(row, text)

    def _words_of(self, text: str) -> str:
        """What this line passes on: the title of a window that opened, else the line itself."""
        title_match = self._table.window.match(text)
        return title_match.group(1) if title_match is not None else text

    def _row_of(self, text: str) -> Row | None:
        if title_match := self._table.window.match(text):
            return _first(self._table.titles, title_match.group(1).lower())
        if self._table.other_window.match(text):
            return None
        return _first(self._table.controller, text.lower())

    def _is_repeat(self, line: str) -> bool:
        key = hash(line)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > REMEMBERED_LINES:
            del self._seen[next(iter(self._seen))]
        return False

    def _take_back_unstamped(self) -> None:
        if self._before_unstamped is None:
            return
        (view, self._life), self._before_unstamped = self._before_unstamped, None
        if view.phase is not self._view.phase:
            self._serial += 1
            view = replace(view, phase_serial=self._serial)
        self._view = view

    def _read_unstamped(self, line: str) -> None:
        text = _SCRIPT_MARK.sub(".> ", line)
        lowered = text.lower()
        row = next((row for row in self._table.script if lowered.startswith(row.fragment)), None)
        if row is None:
            self._continue_error_message(line)
            return
        if self._before_unstamped is None:
            self._before_unstamped = (self._view, self._life)
        if row.reads is Reading.SCRIPT_ERROR:  # the last line repeats why: the only one left when lines were lost
            self._hear(text)
        self._apply(row, text)

    def _continue_error_message(self, line: str) -> None:
        """The text of a login error follows its heading on a line of its own."""
        if self._life.message is not None and len(self._life.message) < LONGEST_LINE:
            self._hear(f"{self._life.message} {line}")
        heading = self._view.evidence
        if line and self._view.phase is LoginPhase.FAILED and heading.lower().endswith("error message:"):
            evidence = _cleaned(f"{heading} {line}")
            self._view = replace(self._view, evidence=evidence, last_failure=evidence)

    def _hear(self, words: str) -> None:
        """Take in what a dialog says: it may tell of what only a human can cure."""
        if self._view.completed:
            return
        if (message := words if is_message(words) else None) != self._life.message:
            self._life = replace(self._life, message=message)
        cure = cure_for(words)
        if cure is not None and self._view.cure is None:
            self._change(cure=cure, cure_evidence=_cleaned(words))
            self._enter(LoginPhase.STUCK, words, human=cure)

    def _apply(self, row: Row, text: str) -> None:
        match row.reads:
            case Reading.EXIT_STATUS:
                self._exited(text)
                return
            case Reading.APPROVAL_TIME if _number(text) >= APPROVAL_LIMIT:
                row = _MISSED
            case Reading.SCRIPT_ERROR:
                row = self._error_row(row, text)
            case Reading.DUMP_LINE:
                self._read_dump(text)
            case Reading.SETTING_NAME:
                row = replace(row, notice=_named(row, text))
            case _:
                pass
        if row.begins is not None:
            self._begin(row, text)
        else:
            self._move(row, text)

    def _begin(self, row: Row, text: str) -> None:
        """A program starts: what is known of the login is of an earlier life; attempts and laps are the container's."""
        view = self._view
        if row.begins is Begins.CONTAINER:
            known = row.fragment in self._life.first_lines
            first_lines = frozenset([row.fragment]) if known else self._life.first_lines | {row.fragment}
            self._life = replace(self._life, first_lines=first_lines)
            self._change(saw_first_line=True)
            view = self._view
            # The two streams are loosely ordered, and an engine that was away brings all of one before the other.
            if view.phase in _PRE_FILLED or (view.saw_start and not known):
                self._change(saw_start=True)
                return
        self._life = replace(self._life, lap_counted=False)
        self._change(
            completed=False,
            completed_before=view.completed_before or view.completed,
            attempts_over=0 if view.completed else view.attempts - view.attempts_cleared,
            accepted=False,
            window_shown=False,
            paper_accepted=False,
            wait_seconds=view.wait_seconds if view.verdict is LoginPhase.THROTTLED else None,
            human=None,
            notices=(TOO_OLD,) if view.too_old else (),
            saw_start=True,
        )
        self._enter(LoginPhase.RESTARTING if view.warm else LoginPhase.STARTING, text)

    def _move(self, row: Row, text: str) -> None:
        view = self._view
        if row.is_attempt or row.phase is LoginPhase.FORM:
            self._expect_dump()
        if row.is_window or row.is_attempt:
            self._change(window_shown=True)
        if row.human is not None and (view.completed or view.phase not in row.only_from):
            self._notice(row.human.sentence)
            return
        self._count(row)
        if row.notice:
            self._notice(row.notice)
        self._change(
            warm=view.warm if row.warm is None else row.warm,
            login_failed=view.login_failed or row.is_login_failed,
            paper_accepted=view.paper_accepted or row.paper_accepted,
        )
        phase = row.if_logged_in if view.completed and row.if_logged_in else row.phase
        if phase is not None and view.phase in row.only_from:
            self._enter(phase, text, human=row.human)
        if row.reads is Reading.STATED_WAIT:
            self._change(wait_seconds=_stated_wait(text) or self._view.wait_seconds)

    def _count(self, row: Row) -> None:
        """What is counted stays, whatever the phase goes on to."""
        view = self._view
        if row.phase in SAYS_TYPED and not row.untyped:
            self._change(typed=True)
        if row.is_attempt:
            over = view.attempts - view.attempts_cleared
            wait = view.wait_seconds if view.verdict is LoginPhase.THROTTLED else None
            self._change(
                attempts=view.attempts + 1,
                attempts_over=over,
                accepted=False,
                human=None,
                wait_seconds=wait,
                typed=True,
            )
        if row.is_lap and not self._life.lap_counted:
            self._life = replace(self._life, lap_counted=True)
            self._change(laps=view.laps + 1, attempts_over=view.attempts - view.attempts_cleared)

    def _enter(self, phase: LoginPhase, text: str, *, human: Reason | None = None) -> None:
        view = self._view
        self._change(window_shown=view.window_shown or phase in WINDOW_SHOWN)
        self._change(asked_phone=view.asked_phone or phase in _PHONE_ASKED)
        if phase is LoginPhase.LOGGED_IN:
            self._change(cure=None, cure_evidence="")
            self._change(completed=True, human=None, wait_seconds=None, last_failure="", login_failed=False)
            self._change(laps_cleared=view.laps, attempts_cleared=view.attempts, attempts_over=0)
            self._change(verdict=None, accepted=True)
        elif view.completed and phase in _SESSION_ENDS_WITH:
            self._change(completed=False, completed_before=True)
        if phase is LoginPhase.AWAITING_2FA:
            self._change(accepted=True)
        if phase in _FINAL:
            self._change(verdict=phase)
        if phase is view.phase:
            self._change(human=human or self._view.human)
            return
        self._serial += 1
        self._change(phase=phase, evidence=_cleaned(text), phase_serial=self._serial, human=human)
        if phase in (LoginPhase.FAILED, LoginPhase.REJECTED, LoginPhase.THROTTLED, LoginPhase.SECOND_FACTOR_MISSED):
            over = self._view.attempts - self._view.attempts_cleared
            self._change(last_failure=self._view.evidence, attempts_over=over)

    def _exited(self, text: str) -> None:
        meaning = exit_meaning(self._controller, _number(text) % 256)
        match meaning.kind:
            case ExitKind.CONFIG:
                self._move(replace(_EXIT_STUCK, human=None if self._view.completed else _cannot_work(meaning)), text)
            case ExitKind.SECOND_FACTOR | ExitKind.CRASH:
                self._move(_EXIT_FAILED, text)
            case _:
                self._move(_EXIT_TIDY, text)

    def _error_row(self, row: Row, text: str) -> Row:
        """The controller's last line repeats why it gave up; the only one left when lines were lost."""
        if not text.startswith("error: "):
            return Row("")
        reported = _first(self._table.controller, text.lower())
        return reported if reported is not None and reported.phase in VERDICTS else row

    def _read_dump(self, text: str) -> None:
        """The configuration dump lists settings by name; one of them came with 0.1.4."""
        words = text.lower().removeprefix("ibcontroller > ").split("=")[0]
        if words.startswith("loaded from dotenv"):
            self._life = replace(self._life, dump="begun")
        elif words.startswith("config:"):
            self._life = replace(self._life, dump="settings")
        elif words == "config mfa_timeout_action":
            self._life = replace(self._life, dump="good")
            self._change(too_old=False, notices=tuple(n for n in self._view.notices if n != TOO_OLD))
        elif words > "config mfa_timeout_action" and self._life.dump == "settings":
            self._call_too_old()

    def _expect_dump(self) -> None:
        """By now 0.1.4 has printed its dump, where the container's own first line was read; older ones keep it until they end."""
        banner = any(line.startswith(".>") for line in self._life.first_lines)
        if self._controller == "ibcontroller" and banner and not self._life.dump:
            self._call_too_old()

    def _call_too_old(self) -> None:
        self._change(too_old=True)
        self._notice(TOO_OLD)

    def _notice(self, sentence: str) -> None:
        if sentence not in self._view.notices:
            self._change(notices=(*self._view.notices, sentence)[-MOST_NOTICES:])

    def _change(self, **changes: Any) -> None:
        """Most lines change nothing, and a new view costs as much as reading the line."""
        view = self._view
        if any(getattr(view, name) != value for name, value in changes.items()):
            self._view = replace(view, **changes)


def _first(rows: Sequence[Row], text: str) -> Row | None:
    return next((row for row in rows if (row.fragment == text if row.whole else row.fragment in text)), None)


def _cleaned(text: str) -> str:
    masked = _ACCOUNT.sub(r"\1*****", text)
    return masked if len(masked) <= LONGEST_EVIDENCE else masked[: LONGEST_EVIDENCE - 1] + "…"


def _number(text: str) -> int:
    found = _NUMBER.search(text)
    return int(found.group()) if found else 0


def _stated_wait(text: str) -> float | None:
    """Seconds of "4 minutes & 47 seconds" or "retrying in 290s"; None when there is no figure."""
    parts = _WAIT.findall(text)
    return sum(int(figure) * _UNITS[unit[0].lower()] for figure, unit in parts) if parts else None


def _named(row: Row, text: str) -> str:
    found = _SETTING.search(text)
    return str(row.notice).format(_cleaned(found.group(1) if found else "?"))


def _cannot_work(meaning: ExitMeaning) -> Reason:
    return Reason(ReasonCode.CONTROLLER_FAILED, f"The controller can't work in this image: {meaning.sentence}.")
