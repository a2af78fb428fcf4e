"""What the two controllers print, and what each line means: the rows behind `reader`, as data.

A row names a fragment of a line (lower case, as it stands in the controllers' sources) and what that line says about
the login. Three places to look, because the same words mean different things in them: what the controller itself
logged, what scripts printed without a time stamp (only at the very beginning of a line: the gateway prints there too),
and the titles of windows that opened. The first row that fits counts, so the order matters.

Nothing here runs; `reader` applies the rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from spreadpilot_core.ibkr.model.gateways import Controller
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode


class LoginPhase(str, Enum):
    """What the controller's log says about the login, the same for both controllers."""

    UNKNOWN = "unknown"
    STARTING = "starting"
    FORM = "form"
    AUTHENTICATING = "authenticating"
    AWAITING_2FA = "awaiting_2fa"
    LOGGED_IN = "logged_in"
    REJECTED = "rejected"
    THROTTLED = "throttled"
    FAILED = "failed"
    """Failed for a reason that may pass; the controller may relaunch by itself."""
    SECOND_FACTOR_MISSED = "second_factor_missed"
    CONFLICT = "conflict"
    """Another session of the same user, and this one does not go on."""
    SESSION_LOST = "session_lost"
    """Was logged in; IBKR wants a new login."""
    RESTARTING = "restarting"
    """On schedule; a warm restart types no credentials."""
    STOPPING = "stopping"
    ENDED = "ended"
    STUCK = "stuck"
    """Only a human helps."""


P = LoginPhase
EVERY = frozenset(P)
VERDICTS = frozenset({P.REJECTED, P.THROTTLED, P.FAILED, P.SECOND_FACTOR_MISSED, P.CONFLICT, P.SESSION_LOST, P.STUCK})
"""Why a login ended. The first one of a program's life stays: stopping and ending are only its consequence."""
NOT_STARTED = frozenset({P.UNKNOWN, P.STARTING, P.ENDED})
BEFORE_LOGIN = NOT_STARTED | {P.FORM, P.AUTHENTICATING, P.AWAITING_2FA}
UNJUDGED = EVERY - VERDICTS
RUNNING = UNJUDGED - {P.RESTARTING, P.ENDED}
KNOWN_RUNNING = EVERY - {P.UNKNOWN, P.STOPPING, P.ENDED}
"""Where the log begins in the middle, a window may stand before a session that is logged in."""
FAILABLE = UNJUDGED | {P.SESSION_LOST}
SAYS_TYPED = VERDICTS | {P.AUTHENTICATING, P.AWAITING_2FA, P.LOGGED_IN}
"""User and password were typed, unless the row says otherwise."""
SCRIPTED = frozenset({P.UNKNOWN, P.STARTING, P.STOPPING, P.ENDED})
"""No gateway runs that could print a script's words."""


class Reading(Enum):
    """What must be read from the line beyond its fragment."""

    NOTHING = auto()
    STATED_WAIT = auto()
    APPROVAL_TIME = auto()
    """Seconds from the login to the closing of the second factor dialog."""
    EXIT_STATUS = auto()
    SCRIPT_ERROR = auto()
    """The text may be a line the controller would log."""
    DUMP_LINE = auto()
    """One line of ibcontroller's configuration dump."""
    SETTING_NAME = auto()


class Begins(Enum):
    """Whose life begins with this line."""

    PROGRAM = auto()
    """The gateway's JVM: everything known about the login is of an earlier life."""
    CONTAINER = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """One fragment and what it says."""

    fragment: str
    phase: LoginPhase | None = None
    only_from: frozenset[LoginPhase] = EVERY
    """Phases that this row may change; others stay."""
    if_logged_in: LoginPhase | None = None
    """The phase instead when a login had completed in this life."""
    begins: Begins | None = None
    reads: Reading = Reading.NOTHING
    is_attempt: bool = False
    is_window: bool = False
    """The login window is there, whatever the phase."""
    is_lap: bool = False
    """The controller relaunches by itself after a failure."""
    is_login_failed: bool = False
    """IBKR's dialog "Login failed"."""
    human: Reason | None = None
    """Why, when only a human helps; a mere notice when the login had completed, or the phase stays."""
    notice: str | None = None
    paper_accepted: bool = False
    warm: bool | None = None
    """From here on programs start without credentials, or with them; both controllers keep to it until they say so."""
    whole: bool = False
    """The fragment is the whole text."""
    untyped: bool = False
    """A failure that says nothing of whether user and password were typed."""


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of one controller."""

    line: re.Pattern[str]
    """A line of the controller's own log; group 1 is what it says."""
    window: re.Pattern[str]
    """In what it says: a window opened; group 1 is the title."""
    other_window: re.Pattern[str]
    """In what it says: something else about a window, which means nothing."""
    controller: Sequence[Row]
    script: Sequence[Row]
    titles: Sequence[Row]


DEVICE = Reason(
    ReasonCode.OPERATOR_INPUT_NEEDED,
    "IBKR offers several second factor devices, and the controller can't choose: choose it on the gateway's screen.",
)
MISMATCH = Reason(
    ReasonCode.CONTROLLER_FAILED,
    "The controller does not find its way in this gateway version: use an image whose parts fit together.",
)
PASSWORD = Reason(
    ReasonCode.OPERATOR_INPUT_NEEDED,
    "IBKR shows a password notice: log in to Client Portal and change the password.",
)
MESSAGES = Reason(
    ReasonCode.OPERATOR_INPUT_NEEDED,
    "IBKR shows login messages: log in to Client Portal and complete what it asks for.",
)
RESUME = Reason(
    ReasonCode.OPERATOR_INPUT_NEEDED,
    "IBKR's window to resume the login waits for a click on the gateway's screen.",
)
HANDOFF = Reason(
    ReasonCode.COMPETING_SESSION,
    "IBKR asks which of two sessions may trade: answer on the gateway's screen, or end the other session.",
)
CARD = Reason(
    ReasonCode.OPERATOR_INPUT_NEEDED,
    "IBKR asks for a security code that only a human can type: enrol the user in IB Key, or type it on the screen.",
)
OTHER_SESSION = Reason(
    ReasonCode.COMPETING_SESSION,
    "Another session of this user exists, and the controller is set to leave the choice to a human.",
)
API_CLICK = "An API connection waits for a click on the gateway's screen."
API_REFUSED = "The gateway refused an API connection, as it is set to."
NONE_APPLIED = "None of the gateway's settings were applied."
NO_CONFIGURATION = "The gateway's configuration window was not found, so its settings were not applied."
NO_READ_ONLY = "The setting Read-Only API was not applied."
NO_DISCLAIMER = "The paper trading disclaimer could not be accepted, so the API refuses clients."
TWO_MARKERS = "Restart data of two sessions was found and deleted: two gateways may share one settings directory."
LOGGED_IN_TWICE = "Another session of this user tried to log in."
TOO_OLD = "The image's ibcontroller is older than 0.1.4 and does not tell a rejected password from a crash."

_SPLASH = ("loading...", "authenticating...", "connecting to server...", "initializing environment...")
_COMMON_TITLES = (
    Row("second factor authentication", P.AWAITING_2FA),
    Row("security code card authentication", P.STUCK, human=CARD),
    Row("unrecognized username or password", P.REJECTED),
    Row("existing session detected", P.CONFLICT, only_from=BEFORE_LOGIN),
    Row("re-login is required", P.SESSION_LOST),
    Row("password notice", P.STUCK, only_from=KNOWN_RUNNING, human=PASSWORD),
    Row("login messages", P.STUCK, only_from=KNOWN_RUNNING, human=MESSAGES),
    Row("resume login", P.STUCK, human=RESUME),
    Row("restart in progress", P.RESTARTING, only_from=RUNNING),
    Row("shutdown progress", P.STOPPING, only_from=RUNNING),
    *(Row(title, P.AUTHENTICATING, only_from=BEFORE_LOGIN) for title in (*_SPLASH, "starting application...")),
)
_COMMON_SCRIPT = (
    Row(".> api_port set to", P.STARTING, only_from=frozenset({P.UNKNOWN})),
    Row(".> socat_port set to", P.STARTING, only_from=frozenset({P.UNKNOWN})),
    Row("forking :::", P.STARTING, only_from=frozenset({P.UNKNOWN})),
    Row(".> received sigint or sigterm", P.STOPPING, only_from=RUNNING),
    Row(".> done...", P.ENDED, only_from=UNJUDGED),
    Row(".> invalid trading_mode", P.ENDED, only_from=UNJUDGED),
    Row(".> invalid ibc_trading_mode", P.ENDED, only_from=UNJUDGED),
)

_IBC_CONTROLLER = (
    Row(
        "login dialog window_opened: loginstate is logged_out", P.FORM, only_from=EVERY - {P.RESTARTING}, is_window=True
    ),
    Row("login dialog window_opened", is_window=True),
    Row("login dialog has been invalidated", P.FAILED, only_from=FAILABLE, is_lap=True),
    Row("setting user name", P.AUTHENTICATING, only_from=BEFORE_LOGIN),
    Row("setting api user name", P.AUTHENTICATING, only_from=BEFORE_LOGIN),
    Row("setting password", P.AUTHENTICATING, only_from=BEFORE_LOGIN),
    Row("setting api password", P.AUTHENTICATING, only_from=BEFORE_LOGIN),
    Row("login attempt: ", P.AUTHENTICATING, is_attempt=True),
    Row("click button: paper log in", P.AUTHENTICATING, only_from=BEFORE_LOGIN),
    Row("click button: log in", P.AUTHENTICATING, only_from=BEFORE_LOGIN),
    Row("click button: i understand and accept", paper_accepted=True),
    Row("second factor authentication initiated", P.AWAITING_2FA),
    Row("duration since login: ", P.AUTHENTICATING, only_from=BEFORE_LOGIN, reads=Reading.APPROVAL_TIME),
    Row("if login has not completed, ibc will exit in", P.AUTHENTICATING, only_from=BEFORE_LOGIN),
    Row("re-login after second factor authentication timeout", P.SECOND_FACTOR_MISSED),
    Row("you should specify the required second factor device", P.STUCK, human=DEVICE),
    Row("could not find second factor device", P.STUCK, human=DEVICE),
    Row("could not select second factor device", P.STUCK, human=DEVICE),
    Row("login has completed: exiting via", P.STOPPING, only_from=RUNNING),
    Row("login has not completed: exiting immediately", P.STOPPING, only_from=RUNNING),
    Row("login has completed", P.LOGGED_IN),
    Row("login error message:", P.FAILED, only_from=FAILABLE),
    Row("login failed", P.FAILED, only_from=FAILABLE, is_login_failed=True),
    Row("connection to server failed", P.FAILED, only_from=FAILABLE),
    Row("cold restart in progress", P.FAILED, only_from=FAILABLE, is_lap=True),
    Row("too many failed login attempts", P.THROTTLED, reads=Reading.STATED_WAIT),
    Row("(scenario 1)", P.CONFLICT, human=OTHER_SESSION),
    Row("(scenario 2)", P.CONFLICT),
    Row("(scenario 3)", P.AUTHENTICATING, only_from=BEFORE_LOGIN | {P.CONFLICT}),
    Row("(scenario 4)", P.CONFLICT),
    Row("(scenario 5)", notice=LOGGED_IN_TWICE),
    Row("(scenario 6)", P.CONFLICT),
    Row("trading login handoff dialog; could not handle", P.STUCK, human=HANDOFF),
    Row("trading login handoff dialog; ", P.CONFLICT),
    Row("could not handle 'existing session detected'", P.STUCK, human=OTHER_SESSION),
    Row("could not handle 're-login is required'", P.SESSION_LOST),
    Row("re-login to session", P.SESSION_LOST),
    Row("the system is not currently available", P.FAILED, only_from=FAILABLE),
    Row("could not login: could not find control:", P.STUCK, human=MISMATCH),
    Row("failed to display login dialog", P.FAILED, only_from=FAILABLE, is_lap=True, untyped=True),
    Row("ibc closing because login has not completed", P.FAILED, only_from=FAILABLE),
    Row("exiting after error with exit code=", reads=Reading.EXIT_STATUS),
    Row("re-starting session", P.RESTARTING, only_from=NOT_STARTED, warm=True),
    Row("starting session: will exit if", P.STARTING, only_from=NOT_STARTED | {P.RESTARTING}, warm=False),
    Row("starting gateway", P.STARTING, only_from=frozenset({P.UNKNOWN})),
    Row("could not dismiss non-brokerage account", notice=NO_DISCLAIMER),
    Row("could not find read-only api checkbox", notice=NO_READ_ONLY),
    Row("getconfigdialog could not find", notice=NO_CONFIGURATION),
)
_IBC_SCRIPT = (
    Row(".> starting ibc/ib gateway", P.STARTING, begins=Begins.CONTAINER),
    Row("starting ibc version", P.STARTING, begins=Begins.PROGRAM),
    Row("starting gateway with this command", P.STARTING, begins=Begins.PROGRAM),
    Row("autorestart file not found", P.STARTING, only_from=frozenset({P.UNKNOWN}), warm=False),
    Row("autorestart file found at", P.RESTARTING, only_from=UNJUDGED, warm=True),
    Row("warning: more than one autorestart file", notice=TWO_MARKERS, warm=False),
    Row("ibc returned exit status ", reads=Reading.EXIT_STATUS),
    Row("ibc will cold-restart shortly", P.RESTARTING, only_from=UNJUDGED, warm=False),
    Row("ibc will restart shortly", P.RESTARTING, only_from=UNJUDGED),
    Row("ibc is paused", P.ENDED, only_from=UNJUDGED),
    Row("gateway finished", P.ENDED, only_from=UNJUDGED),
    Row("error: ", P.ENDED, only_from=SCRIPTED),
)

_IBCONTROLLER_CONTROLLER = (
    Row("launch command for"),
    Row("diagnostic dump"),
    Row("settings: entry ", notice="The setting {} was not applied.", reads=Reading.SETTING_NAME),
    Row("settings: "),
    Row("declarative settings application failed", notice=NONE_APPLIED),
    Row("declarative settings applied"),
    Row("launching instance", P.STARTING, begins=Begins.PROGRAM),
    Row("never became ready", P.FAILED, only_from=FAILABLE, untyped=True),
    Row("startup state: launching -> logging_in", P.STARTING, only_from=frozenset({P.UNKNOWN, P.ENDED})),
    Row("startup state: logging_in -> applying_settings", P.LOGGED_IN, only_from=BEFORE_LOGIN | {P.RESTARTING}),
    Row(
        "startup state: applying_settings -> ready",
        P.LOGGED_IN,
        only_from=BEFORE_LOGIN | {P.RESTARTING},
    ),
    Row("-> shutting_down", P.STOPPING, only_from=RUNNING),
    Row("skipping credential fill", P.RESTARTING, only_from=BEFORE_LOGIN, warm=True),
    Row("credentials submitted, awaiting outcome", P.AUTHENTICATING, is_attempt=True),
    Row("second factor authentication in progress", P.AWAITING_2FA),
    Row("re-login after second factor authentication timeout", P.SECOND_FACTOR_MISSED),
    Row("login completed", P.LOGGED_IN),
    Row("dismissed non_brokerage_account", paper_accepted=True),
    Row("dismissed "),
    Row("unrecognized username or password", P.REJECTED),
    Row("too many failed login attempts", P.THROTTLED, reads=Reading.STATED_WAIT),
    Row("full fresh login: login failed", P.FAILED, only_from=FAILABLE, is_lap=True, is_login_failed=True, warm=False),
    Row("transient login failure", P.FAILED, only_from=FAILABLE, is_lap=True, warm=False),
    Row("login frame never appeared -- relaunching", P.FAILED, only_from=FAILABLE, is_lap=True, untyped=True),
    Row("mfa_timeout_action=restart", P.SECOND_FACTOR_MISSED, is_lap=True, warm=False),
    Row("login error", P.FAILED, only_from=FAILABLE),
    Row("login failed", P.FAILED, only_from=FAILABLE, is_login_failed=True),
    Row("connection to server failed", P.FAILED, only_from=FAILABLE),
    Row("of the 2fa dialog appearing", P.SECOND_FACTOR_MISSED, only_from=FAILABLE),
    Row("of second factor authentication completing", P.FAILED, only_from=FAILABLE),
    Row("no 2fa dialog seen", P.FAILED, only_from=FAILABLE),
    Row("existing session detected -- manual", P.CONFLICT, human=OTHER_SESSION),
    Row("existing session detected -- first attempt", P.AUTHENTICATING, only_from=BEFORE_LOGIN | {P.CONFLICT}),
    Row("existing session detected -- primary, continuing", notice=LOGGED_IN_TWICE),
    Row("existing session detected", P.CONFLICT),
    Row("incoming api connection -- manual", notice=API_CLICK),
    Row("incoming api connection -- rejected", notice=API_REFUSED),
    Row("scheduled shutdown fired: cold_restart", P.RESTARTING, only_from=UNJUDGED, warm=False),
    Row("cold_restart_time reached", P.RESTARTING, only_from=UNJUDGED, warm=False),
    Row("scheduled shutdown fired", P.STOPPING, only_from=RUNNING),
    Row("autorestart marker present", P.RESTARTING, only_from=EVERY, warm=True),
    Row("agent process exited on its own", P.STOPPING, only_from=RUNNING),
    Row("dispatcher background task ended unexpectedly", P.STOPPING, only_from=RUNNING),
    Row("login frame never appeared", P.FAILED, only_from=FAILABLE, untyped=True),
    Row("aborting this cycle", P.FAILED, only_from=FAILABLE, if_logged_in=P.STOPPING, untyped=True),
    Row("cycle aborted", P.FAILED, only_from=FAILABLE, if_logged_in=P.STOPPING, untyped=True),
    Row("control loop cycle stopped", P.STOPPING, only_from=RUNNING),
    Row("control loop stop requested", P.STOPPING, only_from=RUNNING),
    Row("shutting down (", P.STOPPING, only_from=RUNNING),
    Row("shut down cleanly", P.STOPPING, only_from=RUNNING),
    Row("clean shutdown via", P.STOPPING, only_from=RUNNING),
    Row("process did not exit within", P.STOPPING, only_from=RUNNING),
)
_IBCONTROLLER_SCRIPT = (
    Row(".> starting ibcontroller/ib gateway", P.STARTING, begins=Begins.CONTAINER),
    Row("ibcontroller > loaded from dotenv", P.STARTING, begins=Begins.CONTAINER, reads=Reading.DUMP_LINE),
    Row("ibcontroller > config", reads=Reading.DUMP_LINE),
    Row("stopped: ", P.ENDED, only_from=UNJUDGED),
    Row("error: ", P.ENDED, only_from=SCRIPTED, reads=Reading.SCRIPT_ERROR),
)

TABLES: dict[Controller, Table] = {
    "ibc": Table(
        line=re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:\d{3} IBC: (.*)", re.IGNORECASE),
        window=re.compile(r"detected (?:frame|dialog) entitled: (.*); event=opened", re.IGNORECASE),
        other_window=re.compile(r"(?:detected|window structure for) ", re.IGNORECASE),
        controller=_IBC_CONTROLLER,
        script=(*_IBC_SCRIPT, *_COMMON_SCRIPT),
        titles=(
            *_COMMON_TITLES,
            Row("trading login handoff", P.CONFLICT, only_from=BEFORE_LOGIN),
            Row("login", P.FAILED, only_from=BEFORE_LOGIN, whole=True),
        ),
    ),
    "ibcontroller": Table(
        line=re.compile(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ibcontroller[.\w]*: (?:IBController > )?(.*)", re.IGNORECASE
        ),
        window=re.compile(r"unhandled unprompted window: \S+ ['\"](.*)['\"]", re.IGNORECASE),
        other_window=re.compile(r"unhandled unprompted window: ", re.IGNORECASE),
        controller=_IBCONTROLLER_CONTROLLER,
        script=(*_IBCONTROLLER_SCRIPT, *_COMMON_SCRIPT),
        titles=(
            *_COMMON_TITLES,
            Row("trading login handoff", P.STUCK, human=HANDOFF),
            *(
                Row(title, P.FORM, only_from=NOT_STARTED, whole=True, is_window=True)
                for title in ("ibkr gateway", "ib gateway", "interactive brokers gateway")
            ),
        ),
    ),
}
