"""What a simulated IBC container prints: the shape of its lines, the order of each scene, what it does by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from support.simulated_life import Life, living, whole_life

CONTROLLER = "ibc"
IBC = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:\d{3} IBC: ")
WINDOW = re.compile(
    r"detected (?:frame|dialog) entitled: .+; "
    r"event=(?:Opened|Closed|Activated|Deactivated|Focused|Lost focus)$"
)
TO_THE_FORM = (
    ".> Starting IBC/IB gateway",
    ".> API_PORT set to: 4002",
    ".> SOCAT_PORT set to: 4004",
    "Forking :::4002 onto 0.0.0.0:4004 > trading mode paper ",
    "Starting IBC version  on ",
    "autorestart file not found: full authentication will be required",
    "Starting Gateway with this command:",
    "IBC: Starting session: will exit if login dialog is not displayed within 60 seconds",
    "IBC: Starting Gateway",
    "IBC: detected frame entitled: IBKR Gateway; event=Opened",
    "IBC: Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT",
)
TYPED = (
    "IBC: Setting Trading mode = paper",
    "IBC: Setting user name",
    "IBC: Setting password",
    "IBC: Login attempt: 1",
    "IBC: Click button: Paper Log In",
)
SPLASH = (
    "IBC: detected frame entitled: Loading...; event=Opened",
    "IBC: Found Gateway main window",
    "IBC: detected frame entitled: Authenticating...; event=Opened",
)
COMPLETED = (
    "IBC: detected frame entitled: Connecting to server...; event=Opened",
    "IBC: detected frame entitled: Initializing environment...; event=Opened",
    "IBC: detected frame entitled: Starting application...; event=Closed",
    "IBC: Login has completed",
)
ACCEPTED = "IBC: Click button: I understand and accept"
CONFIGURED = "IBC: Configuration tasks completed"


def in_order(life: Life, fragments: Sequence[str]) -> None:
    """Each fragment begins a message, in this order."""
    messages = iter(life.messages)
    for fragment in fragments:
        assert any(message.startswith(fragment) for message in messages), f"{fragment!r} missing in {life.messages}"


async def test_cold_paper_login() -> None:
    """Banner, form, credentials, splash, login, disclaimer, settings, SIGTERM: every scene in order, exit code 143."""
    async with living(CONTROLLER) as life:
        await life.said(CONFIGURED)
        await life.said(ACCEPTED)
        assert await life.stopped() == 143
    in_order(life, (*TO_THE_FORM, *TYPED, *SPLASH, *COMPLETED, ACCEPTED))
    in_order(life, (COMPLETED[-1], "IBC: Read-Only API checkbox is already set to: false", CONFIGURED))
    in_order(
        life,
        (
            ".> \N{FACE THROWING A KISS} Received SIGINT or SIGTERM. Shutting down IB Gateway.",
            ".> Stopping IBC.",
            "IBC returned exit status 143",
            "Gateway finished",
        ),
    )


async def test_shape_of_lines() -> None:
    """Every line of IBC has its stamp with a colon before the milliseconds; script lines have none."""
    async with living(CONTROLLER) as life:
        await life.said(CONFIGURED)
    for line in life.lines:
        assert ("IBC: " in line) == bool(IBC.match(line))
        if "detected " in line:
            assert WINDOW.search(line)


async def test_stamps_are_in_the_containers_zone() -> None:
    """The stamp has no offset and is in the zone that the container was given."""
    async with (
        living(CONTROLLER, time_zone="Pacific/Kiritimati") as life,
        living(CONTROLLER, time_zone="Pacific/Niue") as other,
    ):
        await life.said("IBC: Starting Gateway")
        await other.said("IBC: Starting Gateway")
    days = [next(line[:10] for line in each.lines if IBC.match(line)) for each in (life, other)]
    assert days[0] > days[1]


async def test_live_login_with_approval() -> None:
    """The prompt, its closing and the time since the login; live has no disclaimer."""
    async with living(CONTROLLER, trading_mode="live", accounts=["U1234567"]) as life:
        await life.said(CONFIGURED)
    in_order(
        life,
        (
            "Forking :::4001 onto 0.0.0.0:4003 > trading mode live",
            "IBC: Click button: Log In",
            "IBC: detected dialog entitled: Second Factor Authentication; event=Opened",
            "IBC: Second Factor Authentication initiated",
            "IBC: detected dialog entitled: Second Factor Authentication; event=Closed",
            "IBC: Duration since login: 0 seconds",
            *COMPLETED,
        ),
    )
    assert not life.count("I understand and accept")


async def test_approval_at_run_time_ends_a_pending_prompt() -> None:
    """A pending prompt waits for the phone, and for nothing else."""
    async with living(CONTROLLER, [{"second_factor": "pending"}], trading_mode="live") as life:
        await life.said("Second Factor Authentication initiated")
        assert not life.gateway.is_usable
        life.gateway.inject("approve_second_factor")
        await life.usable()


@pytest.mark.parametrize(
    ("lap", "options", "last"),
    [
        ({"wrong_password": True}, {}, "dialog entitled: Unrecognized Username or Password; event=Opened"),
        ({"too_many_attempts": 53}, {}, "Please wait 53 seconds before attempting to re-login again."),
        ({"too_many_attempts": 287}, {}, "Please wait 4 minutes & 47 seconds before attempting to re-login again."),
        ({"login_hangs": True}, {}, "frame entitled: Authenticating...; event=Opened"),
        ({"login_notice": "Resume login"}, {}, "dialog entitled: Resume login; event=Opened"),
        (
            {"second_factor": "missed"},
            {"trading_mode": "live"},
            "Re-login after second factor authentication timeout not required",
        ),
        ({"second_factor": "stuck"}, {"trading_mode": "live"}, "Duration since login: 0 seconds"),
        ({"existing_session": True}, {"existing_session_action": "manual"}, "(scenario 1)"),
        ({"login_handoff": True}, {"trading_mode": "live", "existing_session_action": "manual"}, "Handoff dialog; {}"),
    ],
)
async def test_waits_for_ever(lap: dict[str, Any], options: dict[str, Any], last: str) -> None:
    """What IBC has no answer to leaves the container up and silent; only SIGTERM ends it."""
    async with living(CONTROLLER, [lap], **options) as life:
        await life.said(last)
        assert life.lines[-1].endswith(last)
        assert life.count("Login attempt") == 1
        assert not life.gateway.is_usable
        assert await life.stopped() == 143


async def test_empty_password_waits_after_setting_it() -> None:
    """`Setting password` without a login attempt: IBC waits for ever."""
    async with living(CONTROLLER, password="") as life:
        await life.said("Setting password")
        assert life.lines[-1].endswith("IBC: Setting password")
        assert await life.stopped() == 143
    assert not life.count("Login attempt")


@pytest.mark.parametrize(
    ("lap", "said"),
    [
        ({"wrong_password": "login_failed"}, "IBC: Login failed"),
        ({"login_failed": True}, "IBC: Login failed"),
        ({"login_error": "please try again"}, "please try again"),
        ({"connection_failed": "no network"}, "IBC: Connection to server failed: no network"),
    ],
)
async def test_cold_restarts_without_end(lap: dict[str, Any], said: str) -> None:
    """These dialogs make IBC start over with a full login, again and again, until the container is stopped."""
    async with living(CONTROLLER, [{**lap, "forever": True}]) as life:
        await life.said("Starting Gateway with this command", 5)
        assert await life.stopped() == 143
    in_order(
        life, (said, "IBC: Cold restart in progress", "IBC returned exit status 0", "IBC will cold-restart shortly")
    )
    assert life.count("Cold restart in progress") >= 4
    assert life.count("Login attempt: 1") >= 4
    assert not life.count("Login attempt: 2")


async def test_missing_login_form_restarts_without_end() -> None:
    """No form: the error block, 1112 as 88, and the same start once more."""
    async with living(CONTROLLER, [{"no_login_form": True}, {"no_login_form": True}]) as life:
        await life.usable()
    in_order(
        life,
        (
            "!" * 79,
            "IBC: IBC closing after TWS/Gateway failed to display login dialog",
            "!" * 79,
            "IBC: Exiting after error with exit code=1112",
            "IBC returned exit status 88",
            "IBC will restart shortly",
        ),
    )
    assert life.count("exit status 88") == 2


@pytest.mark.parametrize(
    ("lap", "options", "code", "said"),
    [
        ({"existing_session": True}, {"existing_session_action": "secondary"}, 0, "(scenario 2)"),
        ({"existing_session": "primary"}, {}, 0, "(scenario 4)"),
        (
            {"login_handoff": True},
            {"trading_mode": "live", "existing_session_action": "secondary"},
            86,
            "Trading Login Handoff dialog; error: {}",
        ),
        (
            {"second_factor": "stuck"},
            {"trading_mode": "live", "relogin_after_missed": True},
            87,
            "Exiting after error with exit code=1111",
        ),
        ({"crash_at_start": 1}, {}, 1, "IBC returned exit status 1"),
    ],
)
async def test_ends(lap: dict[str, Any], options: dict[str, Any], code: int, said: str) -> None:
    """What ends the container by itself, with the code that the script passes on."""
    ended, life = await whole_life(CONTROLLER, [lap], **options)
    assert ended == code
    assert life.count(said)
    assert life.messages[-2:] == ["Gateway finished", ""]


async def test_unfinished_second_factor_restarts_when_told_to() -> None:
    """With the action `restart`, 87 begins a new login instead of ending the container."""
    options = {"trading_mode": "live", "relogin_after_missed": True, "missed_action": "restart"}
    async with living(CONTROLLER, [{"second_factor": "stuck"}], **options) as life:
        await life.usable()
    assert life.count("IBC returned exit status 87") == 1


async def test_missed_prompts_without_end_when_relogin_is_on() -> None:
    """With re-login on, each missed prompt is followed by the next, counted as attempts of one program."""
    laps = [{"second_factor": "missed", "forever": True}]
    async with living(CONTROLLER, laps, trading_mode="live", relogin_after_missed=True) as life:
        await life.said("IBC: Login attempt: 4")
    in_order(
        life,
        ("IBC: Duration since login: 180 seconds", "IBC: Re-login after second factor authentication timeout in 5"),
    )


async def test_throttled_with_relogin_tries_again_after_the_stated_wait() -> None:
    """With re-login on, it says when it will try again, and does so once."""
    async with living(CONTROLLER, [{"too_many_attempts": 0}], relogin_after_missed=True) as life:
        await life.said("IBC: Will re-login at ")
        await life.usable()
    in_order(
        life, ("IBC: Login attempt: 1", "IBC: Will re-login at", "IBC: Login attempt: 2", "IBC: Login has completed")
    )
    assert life.count("login number: 2")


async def test_nightly_restart() -> None:
    """The marker is found, no credentials are typed, and the disclaimer is accepted again."""
    async with living(CONTROLLER) as life:
        await life.usable()
        life.gateway.inject("nightly_restart")
        await life.said(ACCEPTED, 2)
    in_order(
        life,
        (
            "IBC: detected dialog entitled: Restart in progress; event=Opened",
            "IBC returned exit status 0",
            "autorestart file found at /home/ibgateway/tws_settings/",
            "IBC will restart shortly",
            "Starting Gateway with this command:",
            "IBC: Re-starting session",
            "IBC: Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT",
            "IBC: Login has completed",
            ACCEPTED,
        ),
    )
    assert life.count("Login attempt") == 1


async def test_log_off_ends_with_zero() -> None:
    """An auto-logoff closes the program: exit code 0, no marker."""
    async with living(CONTROLLER) as life:
        await life.usable()
        life.gateway.inject("log_off")
        assert await life.ended() == 0
    in_order(
        life,
        ("IBC: detected dialog entitled: Shutdown progress; event=Opened", "IBC returned exit status 0", "Gateway"),
    )


@pytest.mark.parametrize(("fault", "code"), [("crash", 134), ("out_of_memory", 137)])
async def test_death_of_the_program_is_the_containers(fault: str, code: int) -> None:
    """The script passes the program's code on."""
    async with living(CONTROLLER) as life:
        await life.usable()
        life.gateway.inject(fault)
        assert await life.ended() == code
    assert life.count(f"IBC returned exit status {code}") == 1


@pytest.mark.parametrize(
    ("action", "scenario", "code"),
    [("primary", 5, None), ("primaryoverride", 6, 0), ("secondary", 2, 0), ("manual", 1, None)],
)
async def test_other_login_while_running(action: str, scenario: int, code: int | None) -> None:
    """Another login of the user is answered as the setting says: kept, yielded to, or left to a human."""
    async with living(CONTROLLER, existing_session_action=action) as life:
        await life.usable()
        life.gateway.inject("other_login")
        await life.said(f"(scenario {scenario})")
        if code is None:
            assert life.gateway.is_usable
        else:
            assert await life.ended() == code


async def test_lost_session_ends_in_the_rejection_dialog() -> None:
    """`Re-login is required` is clicked and ends in `Unrecognized Username or Password`; nothing more happens."""
    async with living(CONTROLLER) as life:
        await life.usable()
        life.gateway.inject("session_lost")
        await life.said("Unrecognized Username or Password; event=Opened")
        assert not life.gateway.is_usable
        in_order(life, ("IBC: Re-login to session", "IBC: Click button: Re-login"))


async def test_lost_session_may_recover() -> None:
    """A re-login that works brings the session back without a new attempt of IBC's own."""
    async with living(CONTROLLER) as life:
        await life.usable()
        life.gateway.inject("session_lost", outcome="recovers")
        await life.said("Login has completed", 2)
        await life.usable()
    assert life.count("Login attempt") == 1


async def test_setting_that_is_not_applied() -> None:
    """A missing control is an error block; the tasks go on."""
    async with living(CONTROLLER, [{"settings_failed": True}]) as life:
        await life.said(CONFIGURED)
    in_order(life, ("!" * 79, "IBC: could not find Read-Only API checkbox", "!" * 79, CONFIGURED))
