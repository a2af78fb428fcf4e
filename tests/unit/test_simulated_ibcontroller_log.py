"""What a simulated ibcontroller prints, beside what the real one printed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from support.controller_lines import corpus
from support.simulated_life import QUICK, Life, living, whole_life

CONTROLLER = "ibcontroller"
LATE_DISCLAIMER = replace(QUICK, disclaimer=QUICK.settings * 2)
"""In the real logs the disclaimer was accepted last."""
LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]+) (ibcontroller\.\w+): (.*)$")
VARYING = (
    (re.compile(r"pid=\d+"), "pid=N"),
    (re.compile(r"within \d+\.0s"), "within N s"),
    (re.compile(r"launch command for .*?(-Drestart=\w+)?'?, '-cp.*"), r"launch command \1"),
    (re.compile(r" \(Simulated Trading\)"), ""),
    (re.compile(r"settings: (?:skipping|applying) API/Settings.*"), "settings: read-only API"),
)


def controller_lines(lines: Sequence[str]) -> list[str]:
    """What the controller itself logged, without what differs from run to run."""
    found = []
    for line in lines:
        if match := LINE.match(line):
            level, module, text = match.groups()
            for pattern, instead in VARYING:
                text = pattern.sub(instead, text)
            found.append(f"{level} {module}: {text}")
    return found


def plain(lines: Sequence[str]) -> list[str]:
    """Lines without stamps, those of the image's scripts left out."""
    return [line for line in lines if not LINE.match(line) and not line.startswith((".>", "***", "Forking"))]


ENDING_BY_ITSELF: Mapping[str, tuple[int, Sequence[Mapping[str, Any]], Mapping[str, Any]]] = {
    "reject": (77, [{"wrong_password": True}], {}),
    "toomany": (77, [{"too_many_attempts": 53}], {}),
    "hang": (69, [{"login_hangs": True}], {}),
    "livetimeout": (75, [{"second_factor": "missed"}], {"trading_mode": "live"}),
}


@pytest.mark.parametrize("name", ENDING_BY_ITSELF)
async def test_failed_login_reads_like_the_real_one(name: str) -> None:
    """The same messages of the same modules in the same order, the same last line, the documented exit code."""
    code, laps, options = ENDING_BY_ITSELF[name]
    ended, life = await whole_life(CONTROLLER, laps, **options)
    real = corpus()[name]
    assert ended == code
    assert controller_lines(life.lines) == controller_lines(real)
    assert life.lines[-1].split("within")[0] == real[-1].split("within")[0]


LOGGED_IN: Mapping[str, tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]] = {
    "paper": ([], {}),
    "live2fa": ([], {"trading_mode": "live"}),
    "loginfailed": ([{"login_failed": True}, {"login_failed": True}], {}),
    "noframe": ([{"no_login_form": True}, {"no_login_form": True}], {}),
}


async def _stopped_when_ready(life: Life) -> int:
    await life.said("APPLYING_SETTINGS -> READY")
    await life.usable()
    return await life.stopped()


@pytest.mark.parametrize("name", LOGGED_IN)
async def test_good_login_reads_like_the_real_one(name: str) -> None:
    """A login, also after laps that failed, and a SIGTERM: the real messages in the real order, exit code 0."""
    laps, options = LOGGED_IN[name]
    async with living(CONTROLLER, laps, timings=LATE_DISCLAIMER, **options) as life:
        assert await _stopped_when_ready(life) == 0
    assert controller_lines(life.lines) == controller_lines(corpus()[name])
    assert "stopped: REQUESTED" in life.lines


async def test_nightly_restart_reads_like_the_real_one() -> None:
    """The program ends, is found to restart, and logs in without credentials: as the real log has it."""
    async with living(CONTROLLER, timings=LATE_DISCLAIMER) as life:
        await life.said("dismissed non_brokerage_account")
        life.gateway.inject("nightly_restart")
        await life.said("dismissed non_brokerage_account", 2)
        assert await life.stopped() == 0
    assert controller_lines(life.lines) == controller_lines(corpus()["nightly"])


@pytest.mark.parametrize(("name", "fault", "code"), [("userclose", "log_off", 0), ("crash", "crash", 69)])
async def test_program_that_ends_reads_like_the_real_one(name: str, fault: str, code: int) -> None:
    """A closed and a crashed program: the real messages, and the exit codes 0 and 69."""
    async with living(CONTROLLER, timings=LATE_DISCLAIMER) as life:
        await life.said("dismissed non_brokerage_account")
        life.gateway.inject(fault)
        assert await life.ended() == code
    real = corpus()[name]
    assert controller_lines(life.lines) == controller_lines(real)
    assert life.lines[-1] == real[-1]


async def test_windows_of_a_running_session_read_like_the_real_ones() -> None:
    """Login messages and a password notice are told as the real log tells them, and end nothing."""
    async with living(CONTROLLER) as life:
        await life.usable()
        life.gateway.inject("window", title="IBKR Login Messages")
        life.gateway.inject("password_notice")
        await life.said("Password Notice")
        real = [line for line in controller_lines(corpus()["misc"]) if "Messages" in line or "Notice" in line]
        assert controller_lines(life.lines)[-2:] == real


async def test_existing_session_reads_like_the_real_one() -> None:
    """Another session that insists: continued once, then ended, in the real words."""
    _, life = await whole_life(CONTROLLER, [{"existing_session": "primary"}])
    real = [line for line in controller_lines(corpus()["exist2"]) if "existing session" in line]
    assert [line for line in controller_lines(life.lines) if "existing session" in line] == real


async def test_dump_of_environment_and_settings() -> None:
    """The dump has the real one's lines, with the values that the gateway was given, and shows no credentials."""
    async with living(CONTROLLER, user="kira.user", time_zone="Europe/Zurich", auto_restart_time="11:45 PM") as life:
        await life.said("config userid")
    names = [line.split("=")[0] for line in plain(life.lines)]
    assert names == [line.split("=")[0] for line in plain(corpus()["paper"])][: len(names)]
    assert "IBController > config time_zone=Europe/Zurich" in life.lines
    assert "IBController > config auto_restart_time=11:45 PM" in life.lines
    assert not life.count("kira.user")


async def test_stop_before_the_login() -> None:
    """SIGTERM before the login ends the program at once: no File/Close, still 0."""
    async with living(CONTROLLER, [{"slow_start": 60}]) as life:
        await life.said("LAUNCHING -> LOGGING_IN")
        assert await life.stopped() == 0
    assert life.count("shutting down (never logged in) -- terminating directly") == 1
    assert not life.count("File/Close")


async def test_empty_password() -> None:
    """Without a password there is no launch: exit code 78 and the sentence that says what is missing."""
    code, life = await whole_life(CONTROLLER, password="")
    assert code == 78
    assert life.count("error: credentials not found")
    assert not life.count("launching instance")


@pytest.mark.parametrize(
    ("lap", "options", "code", "said"),
    [
        ({"connection_failed": "multiple Paper Trading users"}, {}, 77, "gateway connection failed"),
        ({"crash_at_start": 1}, {}, 69, "never became ready"),
        ({"login_notice": "Resume login"}, {}, 69, "unhandled unprompted window: javax.swing.JDialog 'Resume login'"),
        ({"login_handoff": True}, {"trading_mode": "live"}, 69, "'Trading Login Handoff'"),
        (
            {"second_factor": "stuck"},
            {"trading_mode": "live", "relogin_after_missed": True},
            75,
            "ExitInterval watchdog",
        ),
        ({"existing_session": True}, {"existing_session_action": "secondary"}, 0, "secondary, ending this session"),
        ({"existing_session": True}, {"existing_session_action": "manual"}, 69, "manual, leaving for the user"),
        ({"wrong_password": True}, {"old_controller": True}, 1, "'Unrecognized Username or Password'"),
        ({"login_failed": True}, {"old_controller": True}, 1, "'Login failed'"),
    ],
)
async def test_other_ends(lap: dict[str, Any], options: dict[str, Any], code: int, said: str) -> None:
    """Each remaining way to fail has its own words and its own exit code."""
    ended, life = await whole_life(CONTROLLER, [lap], **options)
    assert ended == code
    assert life.count(said)


async def test_old_controller_shows_its_settings_at_the_end_only() -> None:
    """Before 0.1.4 the dump comes last and lacks two settings; a crash counts as a good end."""
    async with living(CONTROLLER, old_controller=True) as life:
        await life.usable()
        assert not life.count("IBController > config")
        life.gateway.inject("crash")
        assert await life.ended() == 0
    assert life.count("IBController > config")
    assert not life.count("mfa_timeout_action")


@pytest.mark.parametrize(
    ("lap", "options", "said"),
    [
        ({"login_failed": True}, {}, "transient login failure -- relaunching"),
        ({"login_error": True}, {}, "login error: Login failed - Server disconnected, please try again | OK"),
        ({"connection_failed": "no network"}, {}, "Connection to server failed: no network"),
        ({"no_login_form": True}, {}, "login frame never appeared -- relaunching (restart hash=None)"),
        (
            {"second_factor": "missed"},
            {"trading_mode": "live", "missed_action": "restart"},
            "mfa_timeout_action=restart -- relaunching",
        ),
    ],
)
async def test_loops_without_end(lap: dict[str, Any], options: dict[str, Any], said: str) -> None:
    """What may pass is tried again and again by the controller itself, until somebody stops the container."""
    async with living(CONTROLLER, [{**lap, "forever": True}], **options) as life:
        await life.said("launching instance", 6)
        assert await life.stopped() == 0
    assert life.count(said) >= 5


async def test_throttled_with_relogin_tries_again_after_the_stated_wait() -> None:
    """With re-login on, it waits three seconds longer than IBKR says and submits once more."""
    async with living(CONTROLLER, [{"too_many_attempts": 0}], relogin_after_missed=True) as life:
        await life.said("retrying in 3s")
        await life.usable()
    assert life.count("credentials submitted") == 2
