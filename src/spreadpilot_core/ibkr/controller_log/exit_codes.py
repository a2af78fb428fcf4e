"""What the exit code of a gateway's container means, per controller.

The codes of the two controllers overlap (77 and 78 are a missing button and wrong arguments in one, a refused login and
a wrong setting in the other), so a code alone says nothing: the key is (controller, code). A code of 0 never means
"restart me": a log-off, a lost session conflict and a human's File > Close all end with it; the log tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from spreadpilot_core.ibkr.model.gateways import Controller


class ExitKind(str, Enum):
    """What a code says about trying again."""

    TIDY = "tidy"
    """Ended by its own or somebody's choice; the log's last phase says which."""
    REJECTED_OR_THROTTLED = "rejected_or_throttled"
    """IBKR refused the login: never again without a change."""
    SECOND_FACTOR = "second_factor"
    """The phone approval, or the login after it, was not completed."""
    CONFIG = "config"
    """Settings, files or versions are wrong: trying again changes nothing."""
    CRASH = "crash"
    """The gateway's program died or hung: one try more, after a pause."""
    KILLED = "killed"
    """Ended from outside without being asked first (SIGKILL, out of memory)."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ExitMeaning:
    """The kind, and a clause for a sentence: "ended with code 77 (IBKR refused the login)"."""

    kind: ExitKind
    sentence: str


NO_SECRET: Final = 96
"""Of a container whose secret did not come whole: nothing of the image ran. Neither controller has this code."""
NO_SETTINGS: Final = 97
"""Of a container whose settings volume is not its user's: nothing of the image ran. Neither controller has this code."""

LOGIN_LOOP: Final = 98
"""Of a container whose guard ended it: its controller logged in again and again. Neither controller has this code."""

_NO_SCREEN = "the gateway's screen was not there within 10 s"
"""Both images then end with code 1, as for their settings. A machine that starts fifty gateways at once may be that slow:
one that waits for a human then is worse than two tries more that type no password.
"""

_ANY_CONTROLLER = {
    NO_SECRET: ExitMeaning(ExitKind.CRASH, "its secret did not come whole"),
    NO_SETTINGS: ExitMeaning(ExitKind.CRASH, "its settings volume did not belong to the image's user"),
    LOGIN_LOOP: ExitMeaning(ExitKind.CRASH, "its own guard ended it, since its controller logged in again and again"),
    125: ExitMeaning(ExitKind.CONFIG, "the container could not be run"),
    126: ExitMeaning(ExitKind.CONFIG, "the image's command can't be executed"),
    127: ExitMeaning(ExitKind.CONFIG, "the image's command was not found"),
    134: ExitMeaning(ExitKind.CRASH, "the gateway's program aborted"),
    137: ExitMeaning(ExitKind.KILLED, "it was killed"),
    139: ExitMeaning(ExitKind.CRASH, "the gateway's program crashed"),
    143: ExitMeaning(ExitKind.TIDY, "it was asked to stop"),
}

_IBC = {
    0: ExitMeaning(ExitKind.TIDY, "the gateway closed itself: a log-off, another session, or File > Close"),
    1: ExitMeaning(ExitKind.CRASH, f"a start script refused, java is missing, or {_NO_SCREEN}"),
    2: ExitMeaning(ExitKind.CONFIG, "the start script was given no gateway version"),
    3: ExitMeaning(ExitKind.CONFIG, "the start script was given a wrong argument"),
    4: ExitMeaning(ExitKind.CONFIG, "this gateway version is not installed in the image"),
    5: ExitMeaning(ExitKind.CONFIG, "a directory of the image is missing"),
    6: ExitMeaning(ExitKind.CONFIG, "the controller's settings file is missing"),
    7: ExitMeaning(ExitKind.CONFIG, "the gateway's vmoptions file is missing"),
    8: ExitMeaning(ExitKind.CONFIG, "the operating system is not supported"),
    76: ExitMeaning(ExitKind.CRASH, "the controller met an unhandled exception"),
    77: ExitMeaning(
        ExitKind.CONFIG, "the controller did not find a button or field: it and the gateway's version don't fit"
    ),
    78: ExitMeaning(ExitKind.CONFIG, "the controller was given wrong arguments"),
    79: ExitMeaning(ExitKind.CONFIG, "the controller's settings file does not exist"),
    80: ExitMeaning(ExitKind.CONFIG, "the trading mode is neither live nor paper"),
    81: ExitMeaning(ExitKind.CONFIG, "one of the controller's settings has a wrong value"),
    82: ExitMeaning(ExitKind.CONFIG, "the gateway's settings directory can't be created"),
    83: ExitMeaning(ExitKind.CONFIG, "the gateway's program has no entry point the controller knows"),
    84: ExitMeaning(ExitKind.CONFIG, "the path of jts.ini is wrong"),
    85: ExitMeaning(ExitKind.CONFIG, "jts.ini can't be read or written"),
    86: ExitMeaning(ExitKind.CRASH, "the controller met a dialog that its settings don't allow for"),
    87: ExitMeaning(ExitKind.SECOND_FACTOR, "the login did not complete after the phone approval"),
    88: ExitMeaning(ExitKind.CRASH, "the gateway showed no login form"),
    159: ExitMeaning(ExitKind.CRASH, "the controller failed inside"),
}

_IBCONTROLLER = {
    0: ExitMeaning(ExitKind.TIDY, "it was stopped, or the gateway closed itself"),
    1: ExitMeaning(ExitKind.CRASH, f"the controller or a start script failed at once, or {_NO_SCREEN}"),
    2: ExitMeaning(ExitKind.CONFIG, "the controller was given wrong arguments"),
    69: ExitMeaning(ExitKind.CRASH, "the gateway's program died, or the login hung"),
    75: ExitMeaning(ExitKind.SECOND_FACTOR, "the phone approval, or the login after it, was not completed"),
    77: ExitMeaning(ExitKind.REJECTED_OR_THROTTLED, "IBKR refused the login"),
    78: ExitMeaning(ExitKind.CONFIG, "a setting is wrong, the credentials or the gateway's program are missing"),
}

_BY_CONTROLLER: dict[Controller, dict[int, ExitMeaning]] = {"ibc": _IBC, "ibcontroller": _IBCONTROLLER}
_NOT_KNOWN = ExitMeaning(ExitKind.UNKNOWN, "no code is known")
_NOT_LISTED = ExitMeaning(ExitKind.UNKNOWN, "a code without a known meaning")


def exit_meaning(controller: Controller, code: int | None) -> ExitMeaning:
    """What this code means from a container that holds this controller; None is a code nobody knows."""
    if code is None:
        return _NOT_KNOWN
    return _BY_CONTROLLER[controller].get(code) or _ANY_CONTROLLER.get(code, _NOT_LISTED)
