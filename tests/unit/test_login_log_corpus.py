"""Real logs of ibcontroller 0.1.4: the phases of each, from any line on, with repeats and gaps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.controller_log.reader import LoginLog
from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from support.controller_lines import corpus, phases, read

P = LoginPhase
UP_TO_LOGIN = [P.STARTING, P.FORM, P.AUTHENTICATING]
GOOD_LIFE = [*UP_TO_LOGIN, P.LOGGED_IN, P.STOPPING, P.ENDED]
LOGS = corpus()
EXPECTED = {
    "paper": GOOD_LIFE,
    "live2fa": [*UP_TO_LOGIN, P.AWAITING_2FA, P.AUTHENTICATING, P.LOGGED_IN, P.STOPPING, P.ENDED],
    "livetimeout": [*UP_TO_LOGIN, P.AWAITING_2FA, P.SECOND_FACTOR_MISSED],
    "reject": [*UP_TO_LOGIN, P.REJECTED],
    "toomany": [*UP_TO_LOGIN, P.THROTTLED],
    "loginfailed": [*UP_TO_LOGIN, P.FAILED, *UP_TO_LOGIN, P.FAILED, *GOOD_LIFE],
    "noframe": [P.STARTING, P.FAILED, P.STARTING, P.FAILED, *GOOD_LIFE],
    "hang": [*UP_TO_LOGIN, P.FAILED],
    "exist2": [*UP_TO_LOGIN, P.CONFLICT],
    "nightly": [*UP_TO_LOGIN, P.LOGGED_IN, P.STOPPING, P.RESTARTING, P.LOGGED_IN, P.STOPPING, P.ENDED],
    "userclose": GOOD_LIFE,
    "crash": GOOD_LIFE,
    "incoming": GOOD_LIFE,
    "misc": GOOD_LIFE,
}
ATTEMPTS = {"loginfailed": 3}
LAPS = {"loginfailed": 2, "noframe": 2}
NAMES = sorted(EXPECTED)


def _last(name: str) -> LoginPhase:
    return EXPECTED[name][-1]


def test_every_log_is_looked_at() -> None:
    """No log of the corpus is without an expectation."""
    assert sorted(LOGS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_phases_of_a_real_log(name: str) -> None:
    """The whole way of each log, its attempts and laps, and that its controller is new enough."""
    assert phases("ibcontroller", LOGS[name]) == EXPECTED[name]
    view = read("ibcontroller", LOGS[name]).view
    assert view.attempts == ATTEMPTS.get(name, 1)
    assert view.laps == LAPS.get(name, 0)
    assert view.saw_start
    assert not view.too_old
    assert view.completed is (P.LOGGED_IN in EXPECTED[name])
    assert view.paper_accepted is (P.LOGGED_IN in EXPECTED[name] and name != "live2fa")


def test_windows_after_the_login_are_notices() -> None:
    """Login messages and a password notice of a session that is logged in end nothing, and are told."""
    lines = LOGS["misc"]
    ready = read("ibcontroller", lines[: next(i for i, line in enumerate(lines) if "SHUTTING_DOWN" in line)])
    assert (ready.view.phase, ready.view.human) == (P.LOGGED_IN, None)
    assert len(ready.view.notices) == 2


@pytest.mark.parametrize("name", NAMES)
def test_log_that_starts_at_any_line(name: str) -> None:
    """From any line on the last phase is the same, or less is known; nothing looks like a good login that was none."""
    lines = LOGS[name]
    for start in range(len(lines)):
        view = read("ibcontroller", lines[start:]).view
        assert view.phase in (_last(name), P.UNKNOWN, P.STOPPING, P.ENDED), (start, view)
        assert view.completed <= (P.LOGGED_IN in EXPECTED[name])
        assert not view.too_old


@pytest.mark.parametrize("name", NAMES)
def test_log_with_repeated_blocks(name: str) -> None:
    """A rotation repeats up to 126 lines wherever it happens: the end, the attempts and the laps are the same."""
    lines = LOGS[name]
    for end in range(1, len(lines)):
        log = LoginLog("ibcontroller")
        for line in (*lines[:end], *lines[max(0, end - 126) : end], *lines[end:]):
            log.read(line)
        assert log.view.phase is _last(name), end
        assert log.view.attempts == ATTEMPTS.get(name, 1), end
        assert log.view.laps == LAPS.get(name, 0), end


@given(data=st.data())
def test_logs_mixed_line_by_line(data: st.DataObject) -> None:
    """Interleaved with each other and with lines lost, nothing raises and the counters only grow."""
    sources = [list(LOGS[name]) for name in data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))]
    log = LoginLog("ibcontroller")
    attempts = laps = 0
    for _ in range(150):
        source = data.draw(st.sampled_from(sources))
        del source[: data.draw(st.integers(0, 3))]
        if source:
            log.read(source.pop(0))
        assert log.view.attempts >= attempts
        assert log.view.laps >= laps
        attempts, laps = log.view.attempts, log.view.laps
