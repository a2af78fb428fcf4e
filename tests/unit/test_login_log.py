"""What each line of the two controllers means; the rows stand here once more, independent of the implementation's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.controller_log.reader import LoginLog
from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from support.controller_lines import ibc, ibcontroller, phases, read, told, window

P = LoginPhase

IBC_START = [
    ".> Starting IBC/IB gateway",
    "Starting IBC version  on 2026-11-24 at 14:00:00",
    "autorestart file not found: full authentication will be required",
    "Starting Gateway with this command:",
]
IBC_FORM = [*IBC_START, ibc("Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT")]
IBC_TRIED = [*IBC_FORM, ibc("Login attempt: 1")]
IBC_PROMPTED = [*IBC_TRIED, ibc("Second Factor Authentication initiated")]
IBC_IN = [*IBC_TRIED, ibc("Login has completed")]

IBCONTROLLER_START = [
    ".> Starting ibcontroller/IB gateway",
    "IBController > loaded from dotenv (override=False)",
    "IBController > Config: ",
    "IBController > config mfa_timeout_action=exit",
    told("launching instance gateway-paper (paper)"),
    told("startup state: LAUNCHING -> LOGGING_IN"),
]
IBCONTROLLER_FORM = [*IBCONTROLLER_START, window("IBKR Gateway")]
IBCONTROLLER_TRIED = [*IBCONTROLLER_FORM, told("credentials submitted, awaiting outcome")]
IBCONTROLLER_PROMPTED = [*IBCONTROLLER_TRIED, told("second factor authentication in progress")]
IBCONTROLLER_IN = [*IBCONTROLLER_TRIED, told("login completed")]


def dialog(title: str, event: str = "Opened") -> str:
    return ibc(f"detected dialog entitled: {title}; event={event}")


def frame(title: str, event: str = "Opened") -> str:
    return ibc(f"detected frame entitled: {title}; event={event}")


IBC_ROWS: list[tuple[list[str], str, LoginPhase, dict[str, Any]]] = [
    # the normal way
    ([], ".> Starting IBC/IB gateway", P.STARTING, {"saw_start": True}),
    ([], ".> API_PORT set to: 4002", P.STARTING, {"saw_start": False}),
    ([], ".> SOCAT_PORT set to: 4004", P.STARTING, {}),
    ([], "Forking :::4002 onto 0.0.0.0:4004 > trading mode paper", P.STARTING, {}),
    ([], "Starting IBC version  on 2026-11-24 at 14:00:00", P.STARTING, {"saw_start": True}),
    (IBC_IN, "Starting IBC version  on 2026-11-24 at 14:00:00", P.STARTING, {"completed": False, "completed_before": True}),
    (IBC_START[:2], IBC_START[2], P.STARTING, {"warm": False}),
    (IBC_START[:2], "autorestart file found at /settings/abc/autorestart: authentication will not be required", P.RESTARTING, {"warm": True}),
    ([], "Starting Gateway with this command:", P.STARTING, {"saw_start": True}),
    (IBC_IN, "Starting Gateway with this command:", P.STARTING, {"completed": False, "completed_before": True}),
    (IBC_START, ibc("Starting session: will exit if login dialog is not displayed within 60 seconds"), P.STARTING, {}),
    (IBC_START, ibc("Re-starting session"), P.RESTARTING, {"warm": True}),
    ([], ibc("Starting Gateway"), P.STARTING, {}),
    (IBC_START, ibc("Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT"), P.FORM, {}),
    (IBC_IN, ibc("Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT"), P.FORM, {"completed": False, "completed_before": True}),
    (IBC_TRIED, ibc("Login dialog WINDOW_OPENED: LoginState is LOGGING_IN"), P.AUTHENTICATING, {}),
    (IBC_FORM, ibc("Setting user name"), P.AUTHENTICATING, {"attempts": 0}),
    (IBC_FORM, ibc("Setting password"), P.AUTHENTICATING, {"attempts": 0}),
    (IBC_FORM, ibc("Login attempt: 1"), P.AUTHENTICATING, {"attempts": 1}),
    (IBC_FORM, ibc("Click button: Paper Log In"), P.AUTHENTICATING, {}),
    (IBC_FORM, ibc("Click button: Log In"), P.AUTHENTICATING, {}),
    (IBC_FORM, frame("Loading..."), P.AUTHENTICATING, {}),
    (IBC_FORM, frame("Authenticating..."), P.AUTHENTICATING, {}),
    (IBC_FORM, frame("Connecting to server..."), P.AUTHENTICATING, {}),
    (IBC_FORM, frame("Initializing environment..."), P.AUTHENTICATING, {}),
    (IBC_TRIED, ibc("Second Factor Authentication initiated"), P.AWAITING_2FA, {}),
    (IBC_TRIED, frame("Starting application...", "Closed"), P.AUTHENTICATING, {"completed": False}),
    (IBC_TRIED, ibc("Login has completed"), P.LOGGED_IN, {"completed": True}),
    (IBC_IN, ibc("Click button: I understand and accept"), P.LOGGED_IN, {"paper_accepted": True}),
    (IBC_TRIED, ibc("Configuration tasks completed"), P.AUTHENTICATING, {}),
    (IBC_IN, ibc("Configuration tasks completed"), P.LOGGED_IN, {}),
    # what can go wrong
    (IBC_TRIED, dialog("Second Factor Authentication"), P.AWAITING_2FA, {}),
    (IBC_PROMPTED, dialog("Second Factor Authentication", "Closed"), P.AWAITING_2FA, {}),
    (IBC_PROMPTED, ibc("Duration since login: 13 seconds"), P.AUTHENTICATING, {}),
    (IBC_PROMPTED, ibc("Duration since login: 179 seconds"), P.AUTHENTICATING, {}),
    (IBC_PROMPTED, ibc("Duration since login: 180 seconds"), P.SECOND_FACTOR_MISSED, {}),
    (IBC_PROMPTED, ibc("If login has not completed, IBC will exit in 60 seconds"), P.AUTHENTICATING, {}),
    (IBC_PROMPTED, ibc("Re-login after second factor authentication timeout in 5 second"), P.SECOND_FACTOR_MISSED, {}),
    (IBC_PROMPTED, ibc("Re-login after second factor authentication timeout not required"), P.SECOND_FACTOR_MISSED, {}),
    (IBC_TRIED, ibc("You should specify the required second factor device using the SecondFactorDevice setting in config.ini"), P.STUCK, {"human": "device"}),
    (IBC_TRIED, ibc("could not find second factor device 'IB Key' in the list"), P.STUCK, {"human": "device"}),
    (IBC_TRIED, dialog("Security Code Card Authentication"), P.STUCK, {"human": "security code"}),
    (IBC_TRIED, dialog("Unrecognized Username or Password"), P.REJECTED, {}),
    (IBC_IN, dialog("Unrecognized Username or Password"), P.REJECTED, {"completed": False, "completed_before": True}),
    (IBC_TRIED, ibc("Login failed"), P.FAILED, {"login_failed": True, "laps": 0}),
    ([*IBC_TRIED, ibc("Login failed")], ibc("Cold restart in progress"), P.FAILED, {"laps": 1, "evidence": "Login failed"}),
    (IBC_TRIED, ibc("Login error message:"), P.FAILED, {"login_failed": False}),
    ([*IBC_TRIED, ibc("Login error message:")], "Login failed - Server disconnected, please try again", P.FAILED, {"evidence": "Login error message: Login failed - Server disconnected, please try again", "login_failed": False}),
    (IBC_TRIED, ibc("Connection to server failed: Server error, will retry"), P.FAILED, {"login_failed": False}),
    (IBC_TRIED, ibc("Connection to server failed: The specified user has multiple Paper Trading users associated with it"), P.STUCK, {"human": "paper"}),
    (IBC_FORM, ibc("Login dialog has been invalidated - initiate cold restart"), P.FAILED, {"laps": 1}),
    (IBC_TRIED, ibc("Too many failed login attempts. Please wait 53 seconds before attempting to re-login again."), P.THROTTLED, {"wait_seconds": 53.0}),
    (IBC_TRIED, ibc("Too many failed login attempts. Please wait 4 minutes & 47 seconds before attempting to re-login again."), P.THROTTLED, {"wait_seconds": 287.0}),
    (IBC_TRIED, ibc("Too many failed login attempts. Please wait 1 minute before attempting to re-login again."), P.THROTTLED, {"wait_seconds": 60.0}),
    (IBC_TRIED, ibc("Too many failed login attempts."), P.THROTTLED, {"wait_seconds": None}),
    ([*IBC_TRIED, ibc("Too many failed login attempts. Please wait 53 seconds before attempting to re-login again.")], ibc("Will re-login at 2026-11-24 14:30:00; login number: 2"), P.THROTTLED, {"wait_seconds": 53.0}),
    (IBC_TRIED, dialog("Existing session detected"), P.CONFLICT, {"human": None}),
    (IBC_IN, dialog("Existing session detected"), P.LOGGED_IN, {"completed": True}),
    (IBC_TRIED, ibc("User must choose whether to continue with this session (scenario 1)"), P.CONFLICT, {"human": "human"}),
    (IBC_IN, ibc("User must choose whether to continue with this session (scenario 1)"), P.LOGGED_IN, {"human": None, "notices": "session"}),
    (IBC_TRIED, ibc("End this session and let the other session proceed (scenario 2)"), P.CONFLICT, {}),
    ([*IBC_TRIED, dialog("Existing session detected")], ibc("Don't know the type of the other session, so continue this one (scenario 3)"), P.AUTHENTICATING, {}),
    (IBC_TRIED, ibc("Other session must be primary or primary override, so end this session and let the other one proceed (scenario 4)"), P.CONFLICT, {}),
    (IBC_IN, ibc("Continue this session and let the other session exit (scenario 5)"), P.LOGGED_IN, {"completed": True, "notices": "session"}),
    (IBC_IN, ibc("Other session may be primary, so end this session and let the other one proceed (scenario 6)"), P.CONFLICT, {"completed": False, "completed_before": True}),
    (IBC_PROMPTED, ibc("Trading Login Handoff dialog; {}"), P.CONFLICT, {}),
    (IBC_PROMPTED, ibc("Trading Login Handoff dialog; error: {}"), P.CONFLICT, {}),
    (IBC_PROMPTED, ibc("Trading Login Handoff dialog; could not handle because {}"), P.STUCK, {"human": "sessions"}),
    (IBC_IN, ibc("Re-login to session"), P.SESSION_LOST, {"completed": False, "completed_before": True}),
    (IBC_IN, dialog("Re-login is required"), P.SESSION_LOST, {}),
    (IBC_TRIED, frame("IBKR Password Notice"), P.STUCK, {"human": "password"}),
    (IBC_IN, frame("Password Notice"), P.LOGGED_IN, {"human": None, "notices": "password"}),
    (IBC_TRIED, ibc("The system is not currently available."), P.FAILED, {}),
    (IBC_TRIED, dialog("Login"), P.FAILED, {}),
    (IBC_TRIED, dialog("Login Messages"), P.STUCK, {"human": "messages"}),
    (IBC_PROMPTED, frame("Resume login"), P.STUCK, {"human": "resume"}),
    (IBC_FORM, ibc("could not login: could not find control: Username"), P.STUCK, {"human": "version"}),
    (IBC_START, ibc("IBC closing after TWS/Gateway failed to display login dialog"), P.FAILED, {"laps": 1}),
    (IBC_PROMPTED, ibc("IBC closing because login has not completed after Second Factor Authentication"), P.FAILED, {}),
    (IBC_TRIED, ibc("Exiting after error with exit code=1111"), P.FAILED, {}),
    (IBC_START, ibc("Exiting after error with exit code=1105"), P.STUCK, {"human": "setting"}),
    (IBC_IN, dialog("Restart in progress"), P.RESTARTING, {"completed": False, "completed_before": True}),
    (IBC_IN, dialog("Shutdown progress"), P.STOPPING, {"completed": True}),
    ([*IBC_IN, dialog("Restart in progress")], dialog("Shutdown progress"), P.RESTARTING, {}),
    (IBC_TRIED, ibc("Login has not completed: exiting immediately"), P.STOPPING, {}),
    (IBC_IN, ibc("Login has completed: exiting via [File, Close] menu"), P.STOPPING, {"completed": True}),
    (IBC_IN, "IBC returned exit status 0", P.ENDED, {"completed": True}),
    (IBC_IN, "IBC returned exit status 76", P.ENDED, {}),
    (IBC_TRIED, "IBC returned exit status 76", P.FAILED, {}),
    (IBC_TRIED, "IBC returned exit status 143", P.ENDED, {}),
    (IBC_PROMPTED, "IBC returned exit status 87", P.FAILED, {}),
    (IBC_START, "IBC returned exit status 79", P.STUCK, {"human": "settings file"}),
    (IBC_IN, "IBC will cold-restart shortly", P.RESTARTING, {"warm": False}),
    (IBC_IN, "IBC will restart shortly", P.RESTARTING, {}),
    (IBC_IN, "WARNING: More than one autorestart file was found. IBC can't determine which is", P.LOGGED_IN, {"notices": "settings directory"}),
    (IBC_IN, "IBC is paused", P.ENDED, {}),
    (IBC_IN, "Gateway finished", P.ENDED, {}),
    (IBC_IN, ".> 😘 Received SIGINT or SIGTERM. Shutting down IB Gateway.", P.STOPPING, {"completed": True}),
    (IBC_IN, ".> Done... 143", P.ENDED, {}),
    ([], ".> Invalid TRADING_MODE: ", P.ENDED, {}),
    (IBC_START[:1], "error: both TWS_PASSWORD and TWS_PASSWORD_FILE are set (but are exclusive)", P.ENDED, {}),
    (IBC_START[:1], "Error: IBC path: /home/ibgateway/ibc  does not exist", P.ENDED, {}),
    (IBC_IN, ibc("could not find Read-Only API checkbox"), P.LOGGED_IN, {"notices": "read-only api"}),
    (IBC_IN, ibc("could not dismiss non-brokerage account warning dialog."), P.LOGGED_IN, {"notices": "disclaimer"}),
]  # fmt: skip

IBCONTROLLER_ROWS: list[tuple[list[str], str, LoginPhase, dict[str, Any]]] = [
    ([], ".> Starting ibcontroller/IB gateway", P.STARTING, {"saw_start": True}),
    ([], "IBController > loaded from dotenv (override=False)", P.STARTING, {"saw_start": True}),
    (IBCONTROLLER_IN, "IBController > loaded from dotenv (override=False)", P.STARTING, {"completed": False, "completed_before": True}),
    ([], told("launching instance gateway-paper (paper)"), P.STARTING, {"saw_start": True}),
    (IBCONTROLLER_IN, told("launching instance gateway-paper (paper)"), P.STARTING, {"completed": False, "completed_before": True}),
    (IBCONTROLLER_START, told("instance gateway-paper ready, pid=1785"), P.STARTING, {}),
    (IBCONTROLLER_START, ibcontroller("instance gateway-paper never became ready, terminating"), P.FAILED, {}),
    ([], told("startup state: LAUNCHING -> LOGGING_IN"), P.STARTING, {"saw_start": False}),
    (IBCONTROLLER_START, window("IBKR Gateway"), P.FORM, {}),
    (IBCONTROLLER_START, window("IB Gateway"), P.FORM, {}),
    (IBCONTROLLER_IN, window("IBKR Gateway"), P.LOGGED_IN, {}),
    (IBCONTROLLER_FORM, told("credentials submitted, awaiting outcome"), P.AUTHENTICATING, {"attempts": 1}),
    (IBCONTROLLER_TRIED, told("credentials submitted, awaiting outcome"), P.AUTHENTICATING, {"attempts": 2}),
    (IBCONTROLLER_FORM, window("Authenticating..."), P.AUTHENTICATING, {"attempts": 0}),
    (IBCONTROLLER_PROMPTED, window("Authenticating..."), P.AUTHENTICATING, {}),
    (IBCONTROLLER_START, told("restart_expected flag -- skipping credential fill"), P.RESTARTING, {"warm": True, "attempts": 0}),
    ([*IBCONTROLLER_START, told("restart_expected flag -- skipping credential fill")], window("IBKR Gateway"), P.RESTARTING, {"warm": True}),
    (IBCONTROLLER_TRIED, told("second factor authentication in progress"), P.AWAITING_2FA, {}),
    (IBCONTROLLER_TRIED, window("Second Factor Authentication"), P.AWAITING_2FA, {}),
    (IBCONTROLLER_TRIED, told("login completed"), P.LOGGED_IN, {"completed": True}),
    ([], told("login completed, state=LoginState.LOGGED_IN"), P.LOGGED_IN, {"completed": True, "saw_start": False}),
    (IBCONTROLLER_IN, told("settings: applying API/Settings (Read-Only API) toggle = True"), P.LOGGED_IN, {"notices": None}),
    (IBCONTROLLER_IN, told("settings: skipping Lock and Exit (None) -- value resolved to None"), P.LOGGED_IN, {"notices": None}),
    (IBCONTROLLER_IN, told("settings: could not load /x/ibkr_settings.toml -- continuing with built-in settings only: [Errno 2]"), P.LOGGED_IN, {"notices": None}),
    (IBCONTROLLER_IN, told("settings: entry API/Settings (Read-Only API) failed -- skipping: no such control"), P.LOGGED_IN, {"notices": "read-only api"}),
    (IBCONTROLLER_IN, told("declarative settings applied (built-in only)"), P.LOGGED_IN, {"notices": None}),
    (IBCONTROLLER_IN, told("declarative settings application failed -- continuing without them"), P.LOGGED_IN, {"notices": "none of the gateway's settings"}),
    (IBCONTROLLER_IN, ibcontroller("dismissed non_brokerage_account (declarative rule)", module="recognisers"), P.LOGGED_IN, {"paper_accepted": True}),
    (IBCONTROLLER_IN, ibcontroller("dismissed auto_restart_confirmation (declarative rule)"), P.LOGGED_IN, {"paper_accepted": False}),
    (IBCONTROLLER_IN, told("startup state: APPLYING_SETTINGS -> READY"), P.LOGGED_IN, {}),
    ([], told("startup state: APPLYING_SETTINGS -> READY"), P.LOGGED_IN, {"completed": True}),
    (IBCONTROLLER_TRIED, told("unrecognized username or password -- login rejected"), P.REJECTED, {}),
    (IBCONTROLLER_TRIED, window("Unrecognized Username or Password"), P.REJECTED, {}),
    (IBCONTROLLER_IN, told("unrecognized username or password -- login rejected"), P.REJECTED, {"completed": False, "completed_before": True}),
    (IBCONTROLLER_TRIED, ibcontroller("too many failed login attempts -- relogin disabled, stopping"), P.THROTTLED, {"wait_seconds": None}),
    (IBCONTROLLER_TRIED, ibcontroller("too many failed login attempts -- retrying in 290s"), P.THROTTLED, {"wait_seconds": 290.0}),
    (IBCONTROLLER_TRIED, told("login failed -- transient, relaunching"), P.FAILED, {"login_failed": True, "laps": 0}),
    (IBCONTROLLER_TRIED, told("login error: Login failed - Server disconnected, please try again | OK"), P.FAILED, {"login_failed": False}),
    (IBCONTROLLER_TRIED, told("Connection to server failed: Server error, will retry"), P.FAILED, {"login_failed": False}),
    (IBCONTROLLER_TRIED, told("Connection to server failed: The specified user has multiple Paper Trading users associated with it"), P.STUCK, {"human": "paper"}),
    (IBCONTROLLER_TRIED, told("transient login failure -- relaunching with a full fresh login: login failed; server disconnected"), P.FAILED, {"laps": 1, "login_failed": True}),
    (IBCONTROLLER_TRIED, told("transient login failure -- relaunching with a full fresh login: login error dialog; server disconnected"), P.FAILED, {"laps": 1, "login_failed": False}),
    (IBCONTROLLER_TRIED, told("existing session detected -- manual, leaving for the user"), P.CONFLICT, {"human": "human"}),
    (IBCONTROLLER_IN, told("existing session detected -- manual, leaving for the user"), P.LOGGED_IN, {"human": None, "notices": "session"}),
    (IBCONTROLLER_TRIED, told("existing session detected -- first attempt, continuing this session"), P.AUTHENTICATING, {}),
    (IBCONTROLLER_TRIED, told("existing session detected -- second attempt, ending this session"), P.CONFLICT, {}),
    (IBCONTROLLER_TRIED, told("existing session detected -- secondary, ending this session"), P.CONFLICT, {}),
    (IBCONTROLLER_IN, told("existing session detected -- primary, continuing this session"), P.LOGGED_IN, {"completed": True, "notices": "session"}),
    (IBCONTROLLER_IN, told("existing session detected -- primaryoverride, ending this session"), P.CONFLICT, {"completed": False, "completed_before": True}),
    (IBCONTROLLER_IN, told("incoming API connection -- accepted"), P.LOGGED_IN, {"notices": None}),
    (IBCONTROLLER_IN, told("incoming API connection -- rejected"), P.LOGGED_IN, {"notices": "refused"}),
    (IBCONTROLLER_IN, told("incoming API connection -- manual, leaving for the user"), P.LOGGED_IN, {"notices": "click"}),
    (IBCONTROLLER_START, told("login frame never appeared -- relaunching (restart hash=None): login frame never appeared within 60.0s"), P.FAILED, {"laps": 1, "attempts": 0}),
    (IBCONTROLLER_PROMPTED, told("mfa_timeout_action=restart -- relaunching with a full fresh login: login did not complete"), P.SECOND_FACTOR_MISSED, {"laps": 1}),
    (IBCONTROLLER_PROMPTED, told("cycle aborted: login did not complete within 180.0s of the 2FA dialog appearing (mfa_timeout)"), P.SECOND_FACTOR_MISSED, {}),
    (IBCONTROLLER_PROMPTED, told("cycle aborted: login did not complete within 60.0s of second factor authentication completing (x)"), P.FAILED, {}),
    (IBCONTROLLER_TRIED, told("cycle aborted: login did not complete within 180.0s of credentials being submitted, no 2FA dialog seen"), P.FAILED, {}),
    (IBCONTROLLER_TRIED, told("cycle aborted: no component with accessible name 'Username'"), P.FAILED, {}),
    (IBCONTROLLER_IN, told("cycle aborted: window gone"), P.STOPPING, {"completed": True}),
    (IBCONTROLLER_IN, told("control loop cycle aborted by an unhandled exception"), P.STOPPING, {}),
    (IBCONTROLLER_IN, told("scheduled COLD_RESTART at 2026-11-29 07:05:00 (in 300000s)"), P.LOGGED_IN, {"completed": True}),
    (IBCONTROLLER_IN, told("scheduled shutdown fired: COLD_RESTART"), P.RESTARTING, {"warm": False}),
    (IBCONTROLLER_IN, told("cold_restart_time reached -- relaunching with a full fresh login (no restart hash)"), P.RESTARTING, {"warm": False}),
    (IBCONTROLLER_IN, told("scheduled shutdown fired: TIDY_CLOSEDOWN"), P.STOPPING, {}),
    (IBCONTROLLER_IN, ibcontroller("agent process exited on its own (returncode=0)"), P.STOPPING, {"completed": True}),
    (IBCONTROLLER_TRIED, told("PROCESS_EXITED during LOGGING_IN -- aborting this cycle"), P.FAILED, {}),
    (IBCONTROLLER_IN, told("PROCESS_CLOSED during APPLYING_SETTINGS -- aborting this cycle"), P.STOPPING, {}),
    (IBCONTROLLER_IN, ibcontroller("dispatcher background task ended unexpectedly, process still alive: <Task>"), P.STOPPING, {}),
    (IBCONTROLLER_IN, ibcontroller("Gateway restarted on its own schedule (autorestart marker present at /s, hash=abc) -- relaunching"), P.RESTARTING, {"warm": True, "completed": False, "completed_before": True}),
    (IBCONTROLLER_IN, told("startup state: READY -> SHUTTING_DOWN"), P.STOPPING, {"completed": True}),
    (IBCONTROLLER_IN, told("shut down cleanly via File/Close (returncode=0)"), P.STOPPING, {}),
    (IBCONTROLLER_IN, told("clean shutdown via File/Close did not exit within 15.0s -- terminating"), P.STOPPING, {}),
    (IBCONTROLLER_TRIED, told("process did not exit within 5.0s of SIGTERM -- killing"), P.STOPPING, {}),
    (IBCONTROLLER_TRIED, told("shutting down (never logged in) -- terminating directly"), P.STOPPING, {}),
    (IBCONTROLLER_IN, told("shutting down (process already exited) -- nothing to terminate"), P.STOPPING, {}),
    (IBCONTROLLER_IN, told("control loop cycle stopped: PROCESS_CLOSED"), P.STOPPING, {}),
    (IBCONTROLLER_IN, told("control loop stop requested (task cancelled)"), P.STOPPING, {}),
    (IBCONTROLLER_IN, "stopped: REQUESTED", P.ENDED, {"completed": True}),
    (IBCONTROLLER_START[:2], "error: credentials not found -- set IBC_USERID and IBC_PASSWORD in the environment", P.ENDED, {}),
    (IBCONTROLLER_TRIED, "error: unrecognized username or password", P.REJECTED, {}),
    (IBCONTROLLER_TRIED, "error: too many failed login attempts, relogin disabled", P.THROTTLED, {}),
    (IBCONTROLLER_PROMPTED, "error: login did not complete within 180.0s of the 2FA dialog appearing (mfa_timeout)", P.SECOND_FACTOR_MISSED, {}),
    ([], ".> Invalid IBC_TRADING_MODE: ", P.ENDED, {}),
    (IBCONTROLLER_TRIED, ".> Received SIGINT or SIGTERM. Shutting down IB Gateway.", P.STOPPING, {}),
    (IBCONTROLLER_IN, ".> Done... 0", P.ENDED, {}),
    (IBCONTROLLER_IN, window("Re-login is required"), P.SESSION_LOST, {"completed": False, "completed_before": True, "human": None}),
    (IBCONTROLLER_TRIED, window("Password Notice"), P.STUCK, {"human": "password"}),
    (IBCONTROLLER_TRIED, window("IBKR Login Messages"), P.STUCK, {"human": "messages"}),
    (IBCONTROLLER_IN, window("IBKR Login Messages"), P.LOGGED_IN, {"human": None, "notices": "messages"}),
    (IBCONTROLLER_PROMPTED, window("Resume login"), P.STUCK, {"human": "resume"}),
    (IBCONTROLLER_PROMPTED, window("Trading Login Handoff"), P.STUCK, {"human": "sessions"}),
    (IBCONTROLLER_IN, window("The user's Password Notice"), P.LOGGED_IN, {"notices": "password"}),
    (IBCONTROLLER_IN, window("DU1234567 Trader Workstation Configuration (Simulated Trading)"), P.LOGGED_IN, {"notices": None}),
]  # fmt: skip


def _check(log: LoginLog, phase: LoginPhase, expected: dict[str, Any]) -> None:
    assert log.view.phase is phase
    for field, value in expected.items():
        found = getattr(log.view, field)
        if field in ("human", "notices"):
            text = " ".join(found) if isinstance(found, tuple) else str(found or "")
            assert value.lower() in text.lower() if value else not text, (field, found)
        else:
            assert found == value, (field, found)


@pytest.mark.parametrize(("before", "line", "phase", "expected"), IBC_ROWS)
def test_ibc_line(before: list[str], line: str, phase: LoginPhase, expected: dict[str, Any]) -> None:
    """Each line that IBC or its scripts print leads to the phase and facts written beside it."""
    _check(read("ibc", [*before, line]), phase, expected)


@pytest.mark.parametrize(("before", "line", "phase", "expected"), IBCONTROLLER_ROWS)
def test_ibcontroller_line(before: list[str], line: str, phase: LoginPhase, expected: dict[str, Any]) -> None:
    """Each line that ibcontroller or its scripts print leads to the phase and facts written beside it."""
    _check(read("ibcontroller", [*before, line]), phase, expected)


@pytest.mark.parametrize(("controller", "rows"), [("ibc", IBC_ROWS), ("ibcontroller", IBCONTROLLER_ROWS)])
def test_case_does_not_matter(controller: Any, rows: list[tuple[list[str], str, LoginPhase, dict[str, Any]]]) -> None:
    """Older controllers wrote some words with other capitals: the phase is the same in any case."""
    for before, line, phase, _ in rows:
        if line.startswith("error: "):
            continue  # in capitals the gateway itself prints it
        assert read(controller, [*before, line.upper()]).view.phase is phase, line


@pytest.mark.parametrize(
    ("controller", "lines", "tail", "verdict"),
    [
        ("ibc", [*IBC_TRIED, dialog("Unrecognized Username or Password")], ["IBC returned exit status 143", "Gateway finished", ".> Done... 143"], P.REJECTED),
        ("ibc", [*IBC_TRIED, ibc("Login failed"), ibc("Cold restart in progress")], [ibc("Login has not completed: exiting immediately"), "IBC returned exit status 0", "IBC will cold-restart shortly"], P.FAILED),
        ("ibc", [*IBC_PROMPTED, ibc("Duration since login: 185 seconds")], ["IBC returned exit status 143"], P.SECOND_FACTOR_MISSED),
        ("ibc", [*IBC_TRIED, ibc("(scenario 4)")], [dialog("Shutdown progress"), "IBC returned exit status 0", "Gateway finished"], P.CONFLICT),
        ("ibcontroller", [*IBCONTROLLER_TRIED, told("unrecognized username or password -- login rejected")], [told("cycle aborted: unrecognized username or password"), told("startup state: LOGGING_IN -> SHUTTING_DOWN"), told("shutting down (never logged in) -- terminating directly"), "error: unrecognized username or password", ".> Done... 77"], P.REJECTED),
        ("ibcontroller", [*IBCONTROLLER_TRIED, window("Login Messages")], [told("cycle aborted: login did not complete within 180.0s of credentials being submitted, no 2FA dialog seen"), told("startup state: LOGGING_IN -> SHUTTING_DOWN"), "error: login did not complete"], P.STUCK),
        ("ibcontroller", [*IBCONTROLLER_TRIED, told("existing session detected -- manual, leaving for the user")], [told("cycle aborted: login did not complete within 180.0s of credentials being submitted, no 2FA dialog seen")], P.CONFLICT),
    ],
)  # fmt: skip
def test_verdict_outlives_its_consequences(
    controller: Any, lines: list[str], tail: list[str], verdict: LoginPhase
) -> None:
    """Why a login ended stays the phase while the program stops and ends because of it."""
    log = read(controller, lines)
    evidence = log.view.evidence
    for line in tail:
        log.read(line)
        assert log.view.phase is verdict, line
    assert log.view.evidence == evidence


def test_a_repeated_attempt_is_counted_once_and_a_new_one_again() -> None:
    """Attempts count lines over the whole container: a line that the runtime repeats counts once, each relaunch anew."""
    lap = [*IBC_TRIED, ibc("Login failed"), ibc("Cold restart in progress"), "IBC returned exit status 0", "IBC will cold-restart shortly"]  # fmt: skip
    log = read("ibc", [*lap, *lap])
    assert (log.view.attempts, log.view.laps, log.view.phase) == (1, 1, P.FAILED)
    log = read("ibc", [*lap, "Starting Gateway with this command:", ibc("Login attempt: 1"), ibc("Login failed")])
    assert (log.view.attempts, log.view.laps) == (2, 1)
    log.read(ibc("Cold restart in progress"))
    assert log.view.laps == 2


@pytest.mark.parametrize(
    ("controller", "lap", "login"),
    [
        ("ibc", lambda: [*IBC_TRIED, ibc("Connection to server failed: no route"), ibc("Cold restart in progress")], "Login has completed"),
        ("ibcontroller", lambda: [*IBCONTROLLER_TRIED, told("transient login failure -- relaunching with a full fresh login: x")], "login completed"),
    ],
)  # fmt: skip
def test_laps_before_a_completed_login_make_no_loop_of_a_later_one(controller: Any, lap: Any, login: str) -> None:
    """A gateway lives for weeks: one lap in each weekly login is no controller that loops."""
    say = ibc if controller == "ibc" else told
    log = read(controller, lap())
    assert (log.view.laps, log.view.laps_cleared) == (1, 0)
    log.read(say(login))
    assert (log.view.laps, log.view.laps_cleared) == (1, 1)
    log.read(
        "Starting Gateway with this command:"
        if controller == "ibc"
        else told("launching instance gateway-paper (paper)")
    )
    log.read(say("Connection to server failed: no route"))
    log.read(say("Cold restart in progress" if controller == "ibc" else "transient login failure -- relaunching"))
    assert (log.view.laps, log.view.laps_cleared, log.view.phase) == (2, 1, P.FAILED)


def test_a_failure_is_remembered_over_the_relaunch_until_a_login_completes() -> None:
    """The controller relaunches within milliseconds: what failed is still there to be seen afterwards."""
    log = read("ibcontroller", [*IBCONTROLLER_TRIED, told("login failed -- transient, relaunching"), told("launching instance gateway-paper (paper)")])  # fmt: skip
    assert log.view.phase is P.STARTING
    assert log.view.login_failed
    assert log.view.last_failure == "login failed -- transient, relaunching"
    log.read(told("login completed"))
    assert (log.view.login_failed, log.view.last_failure) == (False, "")


def test_a_repeated_block_with_a_start_changes_nothing() -> None:
    """A program's start is unstamped in IBC's log: repeated by a rotation, it must not look like a new start."""
    log = read("ibc", IBC_IN)
    before = log.view
    for line in IBC_IN:
        log.read(line)
    after = log.view
    assert after.phase_serial >= before.phase_serial
    assert (after.phase, after.attempts, after.completed, after.completed_before) == (P.LOGGED_IN, 1, True, False)


def test_nightly_restart_of_ibc_is_warm_and_no_attempt() -> None:
    """Restart dialog, end, marker, new program: restarting all the way, and logged in without another attempt."""
    night = [
        dialog("Restart in progress"),
        "IBC returned exit status 0",
        "autorestart file found at /settings/abc/autorestart: authentication will not be required",
        "AUTORESTART_OPTION is -Drestart=abc",
        "IBC will restart shortly",
        "Starting Gateway with this command:",
        ibc("Re-starting session"),
        ibc("Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT"),
        frame("Authenticating..."),
        ibc("Login has completed"),
    ]
    assert phases("ibc", [*IBC_IN, *night])[-2:] == [P.RESTARTING, P.LOGGED_IN]
    assert len(phases("ibc", [*IBC_IN, *night])) == len(phases("ibc", IBC_IN)) + 2
    assert read("ibc", [*IBC_IN, *night]).view.attempts == 1


def test_weekly_cold_restart_types_credentials_again() -> None:
    """A planned cold restart is no lap, and the next program is not warm."""
    week = [
        told("scheduled shutdown fired: COLD_RESTART"),
        told("startup state: READY -> SHUTTING_DOWN"),
        told("shut down cleanly via File/Close (returncode=0)"),
        told("control loop cycle stopped: COLD_RESTART"),
        told("cold_restart_time reached -- relaunching with a full fresh login (no restart hash)"),
        told("launching instance gateway-live (live)"),
        told("credentials submitted, awaiting outcome"),
    ]
    assert phases("ibcontroller", [*IBCONTROLLER_IN, *week])[-3:] == [P.RESTARTING, P.STARTING, P.AUTHENTICATING]
    view = read("ibcontroller", [*IBCONTROLLER_IN, *week]).view
    assert (view.laps, view.warm, view.attempts, view.completed_before) == (0, False, 2, True)


def test_a_human_who_clicks_frees_a_stuck_login() -> None:
    """A window that only a human can answer is over when the login goes on."""
    log = read("ibcontroller", [*IBCONTROLLER_TRIED, window("Login Messages"), told("login completed")])
    assert (log.view.phase, log.view.human) == (P.LOGGED_IN, None)


@pytest.mark.parametrize("split", range(4))
def test_one_stream_whole_before_the_other(split: int) -> None:
    """An engine that was away hands over standard error first, and the container's first lines after the login's end."""
    printed = [*IBCONTROLLER_START[:3], IBCONTROLLER_START[3], "IBController > config userid=*******"]
    logged = [line for line in IBCONTROLLER_IN if line not in printed]
    before, late = printed[:split], printed[split:]
    log = read("ibcontroller", [*before, *logged, *late])
    assert (log.view.phase, log.view.completed, log.view.attempts, log.view.too_old) == (P.LOGGED_IN, True, 1, False)
    assert log.view.saw_start


def test_a_container_that_begins_again_is_another_life() -> None:
    """Its first lines for the second time: what was known of the login is over."""
    view = read("ibcontroller", [*IBCONTROLLER_IN, *IBCONTROLLER_START[:2]]).view
    assert (view.phase, view.completed, view.completed_before) == (P.STARTING, False, True)


def test_older_ibcontroller_is_told_by_its_dump() -> None:
    """Before 0.1.4 the dump has no mfa_timeout_action, or comes only at the end."""
    dump = [
        "IBController > loaded from dotenv (override=False)",
        "IBController > Config: ",
        "IBController > config mfa_timeout=180.0",
    ]
    assert read("ibcontroller", [*dump, "IBController > config userid=*******"]).view.too_old
    newer = [*dump, "IBController > config mfa_timeout_action=exit", "IBController > config userid=*******"]
    assert not read("ibcontroller", newer).view.too_old
    late = [".> Starting ibcontroller/IB gateway", told("launching instance gateway-paper (paper)")]
    assert read("ibcontroller", [*late, window("IBKR Gateway")]).view.too_old
    assert not read("ibcontroller", ["IBController > config userid=*******", window("IBKR Gateway")]).view.too_old
    assert "older than 0.1.4" in read("ibcontroller", [*late, window("IBKR Gateway")]).view.notices[0]


def test_evidence_masks_accounts_and_stays_short() -> None:
    """No account id is shown, wherever it stands, and no line fills a screen."""
    secret = [
        told("login error: account DU1234567 and U7654321 (F1234567) are closed" + " x" * 2000),
        told("settings: entry Accounts/DU1234567 (x) failed -- skipping: y"),
    ]
    log = LoginLog("ibcontroller")
    for line in secret:
        log.read(line)
    shown = repr(log.view)
    assert not any(digits in shown for digits in ("1234567", "7654321"))
    assert len(log.view.evidence) <= 300


def test_the_dump_of_environment_and_configuration_is_never_evidence() -> None:
    """Whatever a setting's value is, even the very words of an event, it says nothing and is shown nowhere."""
    words = ["login completed", "error: unrecognized username or password", "stopped: REQUESTED", "credentials submitted, awaiting outcome"]  # fmt: skip
    lines = [f"IBController > {kind} IBC_X={word}" for kind in ("env", "config") for word in words]
    log = read("ibcontroller", [*IBCONTROLLER_START, *lines])
    assert log.view == read("ibcontroller", IBCONTROLLER_START).view
    assert read("ibc", [*IBC_START, *(f"    {word}=Login has completed" for word in words)]).view.phase is P.STARTING


def test_what_the_gateway_itself_prints_is_not_the_controller() -> None:
    """The gateway's own lines have no controller's stamp: the same words in them mean nothing."""
    noise = [
        "login completed",
        "  IBC: Login has completed",
        "ERROR: something inside",
        'Traceback (most recent call last):\n  File "x.py", line 1',
        "ibcontroller.agent_client.AgentError: error: window gone",
        '2026-11-24 14:00:00,000 diagnostic "login completed"',
        "",
        "\x00\xff",
    ]
    for lines, controller in ((IBC_TRIED, "ibc"), (IBCONTROLLER_TRIED, "ibcontroller")):
        assert read(controller, [*lines, *noise]).view == read(controller, lines).view  # type: ignore[arg-type]  # both are controllers


def test_engine_time_stamps_and_line_ends_do_no_harm() -> None:
    """A line is the same with the engine's own time stamp before it and any line end behind it."""
    log = read("ibc", [f"2026-11-24T14:00:00.123456789Z {ibc('Login attempt: 1')}\r\n"])
    assert (log.view.phase, log.view.evidence) == (P.AUTHENTICATING, "Login attempt: 1")


def test_read_says_whether_the_view_changed() -> None:
    """True for news alone, so that a supervisor is not woken by noise."""
    log = LoginLog("ibc")
    line = ibc("Login attempt: 1")
    assert log.read(line)
    assert not log.read(line)
    assert not log.read("noise")


_ALL = {
    "ibc": [line for before, line, *_ in IBC_ROWS for line in (*before, line)],
    "ibcontroller": [line for before, line, *_ in IBCONTROLLER_ROWS for line in (*before, line)],
}


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
@given(data=st.data())
def test_nothing_raises_and_counters_never_fall(controller: Any, data: st.DataObject) -> None:
    """Any lines in any order, cut, repeated, mixed with rubbish: no exception, and what counts only grows."""
    line = st.one_of(st.sampled_from(_ALL[controller]), st.text(max_size=80))
    cut = st.builds(lambda text, start, end: text[start : end or None], line, st.integers(0, 9), st.integers(-9, 0))
    log = LoginLog(controller)
    serial = attempts = 0
    for text in data.draw(st.lists(st.one_of(line, cut), max_size=60)):
        before = log.view
        assert log.read(text) == (log.view != before)
        assert log.view.phase_serial >= serial
        assert (log.view.phase_serial > serial) == (log.view.phase is not before.phase)
        assert log.view.attempts >= attempts
        assert log.view.completed <= (log.view.phase in (P.LOGGED_IN, P.STOPPING, P.ENDED))
        assert bool(log.view.human) <= (log.view.phase in (P.STUCK, P.CONFLICT))
        serial, attempts = log.view.phase_serial, log.view.attempts
