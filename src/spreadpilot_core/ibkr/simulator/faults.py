"""Every fault by name: when it can happen, what it takes, what it does. One table, read by scripts, `inject` and the docs.

Two kinds: a `login` fault belongs to one start of the gateway's program and is taken when that start comes to it; a
`running` fault happens when it is injected (or at its time after the login, by a script's `then`). This module is data and
its check; the controllers and the API's switches carry the faults out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. The first argument is the one that a bare value in a script means."""

    name: str
    kind: Literal["login", "running"]
    does: str
    arguments: Arguments = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arguments that take one of a few words."""


_TABLE = (
    Fault(
        name="slow_start",
        kind="login",
        does="the login form takes this much longer to show",
        arguments={"seconds": 30.0},
    ),
    Fault(
        name="no_login_form",
        kind="login",
        does="no login form shows within the controller's minute; both controllers start the program again",
    ),
    Fault(
        name="wrong_password",
        kind="login",
        does="IBKR rejects user name or password: IBC hangs (or, as `login_failed`, cold-restarts), ibcontroller exits with 77",
        arguments={"dialog": "unrecognized"},
        choices={"dialog": ("unrecognized", "login_failed")},
    ),
    Fault(
        name="login_failed",
        kind="login",
        does="the dialog `Login failed`: both controllers start over by themselves, without a pause",
    ),
    Fault(
        name="login_error",
        kind="login",
        does="the dialog `Login Error` with this text: both controllers start over by themselves",
        arguments={"text": "Login failed - Server disconnected, please try again"},
    ),
    Fault(
        name="connection_failed",
        kind="login",
        does="IBKR's servers can't be reached, for this reason: both controllers start over by themselves",
        arguments={"reason": "Server disconnected, please try again"},
    ),
    Fault(
        name="too_many_attempts",
        kind="login",
        does="IBKR throttles and states this wait: IBC stays there, ibcontroller exits with 77",
        arguments={"seconds": 53},
    ),
    Fault(
        name="login_hangs",
        kind="login",
        does="after the click on the login button nothing more: IBC stays there, ibcontroller exits with 69",
    ),
    Fault(
        name="second_factor",
        kind="login",
        does="how the prompt on the phone ends (live logins have one anyway, approved); "
        "`pending` waits for `approve_second_factor`, `stuck` is approved and then doesn't end",
        arguments={"answer": "approved", "seconds": None},
        choices={"answer": ("approved", "pending", "missed", "stuck")},
    ),
    Fault(
        name="login_handoff",
        kind="login",
        does="the dialog `Trading Login Handoff` after the second factor: IBC takes over as `primary`, else exits with 86; "
        "ibcontroller leaves it open",
    ),
    Fault(
        name="existing_session",
        kind="login",
        does="the user is logged in elsewhere; the setting of the container decides, unless the other session insists",
        arguments={"other": "yields"},
        choices={"other": ("yields", "primary")},
    ),
    Fault(
        name="login_notice",
        kind="login",
        does="a window that only a human can close stands in the way of the login",
        arguments={"title": "Login Messages"},
    ),
    Fault(
        name="crash_at_start",
        kind="login",
        does="the program dies with this code before its login form shows",
        arguments={"exit_code": 1},
    ),
    Fault(name="settings_failed", kind="login", does="a setting can't be applied after the login"),
    Fault(
        name="api_shut",
        kind="running",
        does="the API port is shut (connects are accepted and closed at once)",
    ),
    Fault(name="api_open", kind="running", does="the API port is open again"),
    Fault(
        name="mute",
        kind="running",
        does="new API connections are accepted and never answered; `start` still answers the handshake",
        arguments={"stage": "start"},
        choices={"stage": ("start", "handshake")},
    ),
    Fault(name="unmute", kind="running", does="API connections are answered again"),
    Fault(
        name="close_early",
        kind="running",
        does="new API connections are closed when they start, without an error",
        arguments={"on": True},
    ),
    Fault(
        name="disclaimer_pending",
        kind="running",
        does="API clients get error 10141 and are dropped for this long (in a script: after the login)",
        arguments={"seconds": 300.0},
    ),
    Fault(name="drop_clients", kind="running", does="every API connection ends"),
    Fault(name="freeze", kind="running", does="everything stands still, as a stopped process does"),
    Fault(name="thaw", kind="running", does="everything goes on"),
    Fault(
        name="link_lost",
        kind="running",
        does="1100: the gateway has lost IBKR; with `seconds` it comes back by itself",
        arguments={"seconds": None, "data": "kept"},
        choices={"data": ("kept", "lost")},
    ),
    Fault(
        name="link_restored",
        kind="running",
        does="1102, or 1101 when data was lost",
        arguments={"data": "kept"},
        choices={"data": ("kept", "lost")},
    ),
    Fault(
        name="notice",
        kind="running",
        does="any notice with request id -1; the farm codes 2103 to 2158 and 2110 bring their own text",
        arguments={"code": 2103, "text": None},
    ),
    Fault(name="approve_second_factor", kind="running", does="the phone approves the open prompt, or the next one"),
    Fault(name="miss_second_factor", kind="running", does="the open prompt runs out, or the next one"),
    Fault(
        name="session_lost",
        kind="running",
        does="`Re-login is required`: IBC tries and, unless it `recovers`, ends in `Unrecognized Username or Password`; "
        "ibcontroller does nothing; API connections are muted",
        arguments={"outcome": "rejected"},
        choices={"outcome": ("rejected", "recovers")},
    ),
    Fault(
        name="rejected_later",
        kind="running",
        does="`Unrecognized Username or Password` on a running session (ibcontroller exits with 77)",
    ),
    Fault(
        name="other_login",
        kind="running",
        does="the user logs in elsewhere while this session runs; the setting of the container decides",
    ),
    Fault(name="password_notice", kind="running", does="the window `Password Notice` shows; nobody closes it"),
    Fault(
        name="window",
        kind="running",
        does="a window with this title shows; nobody closes it",
        arguments={"title": "Login Messages"},
    ),
    Fault(name="nightly_restart", kind="running", does="the daily restart, now: no credentials, no phone, same books"),
    Fault(
        name="lose_token",
        kind="running",
        does="IBKR's weekly end of tokens: the next restart without credentials fails and needs a full login",
    ),
    Fault(name="log_off", kind="running", does="the program closes by itself (auto-logoff, File/Close); exit code 0"),
    Fault(
        name="crash",
        kind="running",
        does="the program dies with this code; IBC's container passes it on, ibcontroller's exits with 69",
        arguments={"exit_code": 134},
    ),
    Fault(name="out_of_memory", kind="running", does="the kernel kills the program (137)"),
    Fault(
        name="kill",
        kind="running",
        does="the whole container ends at once with this code and without a word",
        arguments={"exit_code": 137},
    ),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _TABLE}
AT_LOGIN = ("api_shut", "mute", "close_early", "disclaimer_pending")
"""Running faults that a script may also name for a start: they hold from that login on."""

_NUMBERS = ("seconds", "exit_code", "code")
_ON_OFF = ("on",)
_NUMBER, _SWITCH, _TEXT = ("a number", (int, float)), ("true or false", bool), ("text", str)
LARGEST = 1e9


def known(*, at_start: bool) -> tuple[str, ...]:
    """The names that a script may give for a start, or that `inject` takes."""
    if not at_start:
        return tuple(FAULTS)
    return tuple(name for name, fault in FAULTS.items() if fault.kind == "login" or name in AT_LOGIN)


def check(name: str, arguments: Any = None, *, at_start: bool = False) -> dict[str, Any]:
    """Give the fault's whole arguments; a bare value stands for the first one, True and None for the defaults.

    Raises `ValueError` with the known names, arguments or words.
    """
    if name not in (allowed := known(at_start=at_start)):
        where = "for a start" if at_start else "here"
        raise ValueError(f"there is no fault {name!r} {where}; known are {', '.join(allowed)}")
    fault = FAULTS[name]
    given = _named(fault, arguments)
    if unknown := set(given) - set(fault.arguments):
        takes = ", ".join(fault.arguments) or "none"
        raise ValueError(f"fault {name} takes no {', '.join(sorted(unknown))}; its arguments: {takes}")
    whole = {**fault.arguments, **given}
    for argument, value in whole.items():
        _check_kind(fault, argument, value)
    for argument, words in fault.choices.items():
        if whole[argument] not in words:
            raise ValueError(
                f"{argument} of fault {name} is {whole[argument]!r}, but must be one of {', '.join(words)}"
            )
    return whole


def _check_kind(fault: Fault, argument: str, value: Any) -> None:
    if value is None and fault.arguments[argument] is None:
        return
    what, kinds = _NUMBER if argument in _NUMBERS else _SWITCH if argument in _ON_OFF else _TEXT
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise ValueError(f"{argument} of fault {fault.name} is {value!r}, but must be {what}")
    if isinstance(value, (int, float)) and not 0 <= value < LARGEST:
        raise ValueError(f"{argument} of fault {fault.name} is {value!r}, but must not be negative, nor so large")


def _named(fault: Fault, arguments: Any) -> dict[str, Any]:
    if arguments is None or arguments is True:
        return {}
    if isinstance(arguments, Mapping):
        return dict(arguments)
    if not fault.arguments:
        raise ValueError(f"fault {fault.name} takes no arguments, only true")
    return {next(iter(fault.arguments)): arguments}
