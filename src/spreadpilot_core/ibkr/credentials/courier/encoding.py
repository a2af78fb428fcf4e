r"""How a password must be written so that IBKR's login form receives it as it is, for each controller; or why it can't be.

Every printable password of up to 128 characters is written so that it arrives, except those that the controller's own
rules change on the way:

    ibc           copies the file's value into `config.ini`, which Java reads as Latin-1 properties and then trims: a
                  backslash is doubled, what is not ASCII is written as \uXXXX (UTF-16 units), outer blanks would be lost
    ibcontroller  reads the file as UTF-8, strips it, and puts it through `str.format` with its settings: `{{`, `}}` and
                  `{name of a setting}` would be replaced and can't be escaped

Pure; knows no file and no container. A reason never quotes the password.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, get_args

from spreadpilot_core.ibkr.model.users import canonical_user, differs_in_more_than_case

Controller = Literal["ibc", "ibcontroller"]

LONGEST = 128
"""Characters. IBKR allows far fewer; longer ones are a mistake in the secret."""

_NEVER = {
    "Cc": "a control character or line break",
    "Zl": "a line break",
    "Zp": "a line break",
    "Cs": "half a character",
}

_SETTINGS = (
    "accept_incoming_connections",
    "auto_logoff_time",
    "auto_restart_time",
    "closedown_at",
    "cold_restart_time",
    "diagnostic_scope",
    "diagnostic_when",
    "existing_session_action",
    "instance",
    "java_heap_size",
    "log_backup_count",
    "log_dir",
    "log_level",
    "log_max_bytes",
    "log_sink",
    "login_dialog_display_timeout",
    "mfa_exit_interval",
    "mfa_timeout",
    "mfa_timeout_action",
    "password",
    "program",
    "read_only_api",
    "read_only_login",
    "relogin_after_mfa_timeout",
    "settings_file",
    "time_zone",
    "trace_enabled",
    "trading_mode",
    "tws_channel",
    "tws_path",
    "tws_settings_path",
    "tws_version",
    "userid",
)
"""The names that ibcontroller 0.1.x replaces inside braces."""

_REPLACED = re.compile(rf"\{{(?:{'|'.join(_SETTINGS)})[}}!:.\[]")


class UntypableError(ValueError):
    """Why a user name or password can't reach the login form; a clause that goes after "the password"."""


def check(value: str) -> None:
    """Refuse what no controller can take.

    Raises:
        UntypableError: says which rule, never the value.
    """
    if not value:
        reason = "is empty"
        raise UntypableError(reason)
    if len(value) > LONGEST:
        reason = f"has {len(value)} characters; at most {LONGEST} can be right"
        raise UntypableError(reason)
    for character in value:
        if named := _NEVER.get(unicodedata.category(character)):
            reason = f"holds {named}, which no login form takes"
            raise UntypableError(reason)
    if value != value.strip(" "):
        reason = "begins or ends with a blank, which the controllers cut off"
        raise UntypableError(reason)


def encode(value: str, controller: Controller) -> bytes:
    """The bytes for the password file of this controller.

    Raises:
        UntypableError: the value can't arrive unchanged.
    """
    check(value)
    return _properties(value) if controller == "ibc" else _template(value)


def check_user(user: str, controller: Controller) -> None:
    """Refuse a user name that is none of IBKR's, or that the controller would change on its way through the environment.

    It is given in lower case (`canonical_user`), as IBKR's names are; what differs in more than case is a slip in the secret.

    Raises:
        UntypableError: the name can't arrive unchanged.
    """
    if differs_in_more_than_case(user):
        reason = "holds a blank, an invisible character or a letter in another form, as none of IBKR's user names does"
        raise UntypableError(reason)
    user = canonical_user(user)
    if encode(user, controller) != user.encode():
        reason = "holds a character that the controller would change (a backslash, or one that is not ASCII)"
        raise UntypableError(reason)


def untypable(user: str, password: str) -> dict[Controller, str]:
    """Which controllers can't type this login, and why: a clause each that begins with "the user name" or "the password"."""
    reasons: dict[Controller, str] = {}
    for controller in get_args(Controller):
        what = "user name"
        try:
            check_user(user, controller)
            what = "password"
            encode(password, controller)
        except UntypableError as error:
            reasons[controller] = f"the {what} {error}"
    return reasons


def _properties(value: str) -> bytes:
    units = value.encode("utf-16-be")
    points = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(_escaped(point) for point in points).encode("ascii")


def _escaped(point: int) -> str:
    if chr(point) == "\\":
        return r"\\"
    return chr(point) if chr(point).isascii() else f"\\u{point:04X}"


def _template(value: str) -> bytes:
    if value != value.strip():
        reason = "begins or ends with a blank, which ibcontroller cuts off"
        raise UntypableError(reason)
    if "{{" in value or "}}" in value:
        reason = "holds {{ or }}, which ibcontroller would change; choose one without"
        raise UntypableError(reason)
    if _REPLACED.search(value):
        reason = "holds the name of an ibcontroller setting in braces, which it would replace; choose one without"
        raise UntypableError(reason)
    return value.encode()
