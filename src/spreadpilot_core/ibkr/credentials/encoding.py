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
from typing import Literal

Dialect = Literal["ibc", "ibcontroller"]

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


def encode(value: str, dialect: Dialect) -> bytes:
    """The bytes for the password file of this controller.

    Raises:
        UntypableError: the value can't arrive unchanged.
    """
    check(value)
    return _properties(value) if dialect == "ibc" else _template(value)


def check_user(user: str, dialect: Dialect) -> None:
    """Refuse a user name that the controller would change; it goes through the container's environment as it is.

    Raises:
        UntypableError: the name can't arrive unchanged.
    """
    if encode(user, dialect) != user.encode():
        reason = "holds a character that the controller would change (a backslash, or one that is not ASCII)"
        raise UntypableError(reason)


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
