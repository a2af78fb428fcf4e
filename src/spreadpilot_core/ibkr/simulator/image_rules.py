"""What the two generations of the gateway's image make of their environment and secret files, to the letter.

The simulator's own image obeys the same rules, so that a manager which gets a variable, a file or an encoding wrong fails
here as it would there: the older generation refuses a password given twice, the newer one prefers the file; one reads the
password as Java properties, the other strips it and fills in braces. This module reads and writes files below the
directories that it is told, and knows nothing of the gateway's life; `container` runs that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

IBC = "ibc"
IBCONTROLLER = "ibcontroller"

_LINE = "*" * 73
_MODES = ("live", "paper")
_ACTIONS = ("manual", "primary", "primaryoverride", "secondary")
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_TIME = re.compile(r"(0[1-9]|1[0-2]):[0-5]\d [AP]M")
_JTS_INI = """\
[IBGateway]
WriteDebug=false
TrustedIPs=127.0.0.1
ApiOnly=true

[Logon]
Locale=en
TimeZone={time_zone}
displayedproxymsg=1
UseSSL=true
s3store=true

[Communication]
"""


class Refused(Exception):  # noqa: N818  # what the image does, not a fault of this program
    """The container ends at once: these last lines, this exit code."""

    def __init__(self, exit_code: int, *lines: str) -> None:
        super().__init__(exit_code, *lines)
        self.exit_code = exit_code
        self.lines = lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the container was asked to be; `password` is what IBKR's login form receives."""

    controller: str
    user: str
    password: str
    trading_mode: str
    read_only: bool
    time_zone: str
    existing_session_action: str
    auto_restart_time: str | None
    relogin_after_missed: bool
    missed_action: str
    settings_dir: Path

    def __repr__(self) -> str:
        return f"Order({self.controller}, {self.user}, {self.trading_mode})"


def read_order(environment: Mapping[str, str]) -> Order:
    """Apply the rules of the generation that the image's own variables name.

    Raises:
        Refused: the real image ends here too.
    """
    given = {name: value for name, value in environment.items() if value}  # blank counts as unset in both
    return _ibcontroller(given) if "IBC_APP_DIR" in environment else _ibc(given)


# ---------------------------------------------------------------------------------------------- IBC


def _ibc(given: Mapping[str, str]) -> Order:
    banner = (_LINE, ".> Starting IBC/IB gateway", _LINE)
    heap = given.get("JAVA_HEAP_SIZE", "768")
    _exclusive(given, "VNC_SERVER_PASSWORD", banner)
    mode = given.get("TRADING_MODE", "")
    if mode not in _MODES:
        raise Refused(1, *banner, f".> Invalid TRADING_MODE: {mode}")
    raw = _exclusive(given, "TWS_PASSWORD", banner)
    time_zone = given.get("TIME_ZONE", "Etc/UTC")
    settings = _settings_dir(given.get("TWS_SETTINGS_PATH") or f"{_home(given)}/Jts", banner)
    _write_jts_ini(settings, time_zone, banner)
    properties = _config_ini(given, raw)
    if not heap.isdecimal():
        raise Refused(1, *banner, f"Invalid maximum heap size: -Xmx{heap}m")
    action = given.get("EXISTING_SESSION_DETECTED_ACTION", "manual")
    if action not in _ACTIONS:
        raise Refused(1105 % 256, *banner, f"IBC: ExistingSessionDetectedAction setting invalid: {action}")
    return Order(
        controller=IBC,
        user=properties["IbLoginId"],
        password=properties["IbPassword"],
        trading_mode=mode,
        read_only=given.get("READ_ONLY_API", "").lower() in {"yes", "true"},
        time_zone=given.get("TZ", "Etc/UTC"),
        existing_session_action=action,
        auto_restart_time=_time_or_none(given.get("AUTO_RESTART_TIME")),
        relogin_after_missed=given.get("RELOGIN_AFTER_TWOFA_TIMEOUT", "no").lower() == "yes",
        missed_action=given.get("TWOFA_TIMEOUT_ACTION", "exit"),
        settings_dir=settings,
    )


def _exclusive(given: Mapping[str, str], name: str, banner: Sequence[str]) -> bytes:
    """A variable or its `_FILE`, never both; trailing line ends go, as the shell takes them off."""
    if name in given and f"{name}_FILE" in given:
        raise Refused(1, *banner, f"error: both {name} and {name}_FILE are set (but are exclusive)")
    if f"{name}_FILE" not in given:
        return given.get(name, "").encode(errors="surrogateescape")
    path = given[f"{name}_FILE"]
    try:
        return Path(path).read_bytes().replace(b"\0", b"").rstrip(b"\n")
    except OSError as fault:
        raise Refused(1, *banner, f"common.sh: line 56: {path}: {fault.strerror}") from fault


def _config_ini(given: Mapping[str, str], password: bytes) -> Mapping[str, str]:
    """Write IBC's file as the image does, password in clear, and read it as Java does."""
    user = given.get("TWS_USERID", "").encode(errors="surrogateescape")
    content = (
        b"IbLoginId=" + user + b"\nIbPassword=" + password + b"\nTradingMode=" + given["TRADING_MODE"].encode() + b"\n"
    )
    path = Path(given.get("IBC_INI") or f"{_home(given)}/ibc/config.ini")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
    return java_properties(content)


_CONTINUED = re.compile(r"(?<!\\)(?:\\\\)*\\$")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.?))", re.DOTALL)
_JAVA_BLANKS = "".join(map(chr, range(33)))
_NAMED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def java_properties(content: bytes) -> Mapping[str, str]:
    """Key to value by the rules of `java.util.Properties` (for keys without escapes), values trimmed as IBC does."""
    properties: dict[str, str] = {}
    lines = iter(content.decode("latin-1").splitlines())
    for line in lines:
        whole = line.lstrip(" \t\f")
        if not whole or whole[0] in "#!":
            continue
        while _CONTINUED.search(whole):
            whole = whole[:-1] + next(lines, "").lstrip(" \t\f")
        key, value = re.split(r"[ \t\f]*[=: \t\f][ \t\f]*", whole + "=", maxsplit=1)
        properties[key] = _unescaped(value[:-1]).strip(_JAVA_BLANKS)
    return properties


def _unescaped(text: str) -> str:
    plain = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _NAMED.get(m[2], m[2]), text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # pairs of units become characters


# ---------------------------------------------------------------------------------------------- ibcontroller


def _ibcontroller(given: Mapping[str, str]) -> Order:
    banner = (_LINE, ".> Starting ibcontroller/IB gateway", _LINE)
    _exclusive(given, "VNC_SERVER_PASSWORD", banner)
    mode = given.get("IBC_TRADING_MODE", "")
    if mode not in _MODES:
        raise Refused(1, *banner, f".> Invalid IBC_TRADING_MODE: {mode}")
    settings = _settings_dir(given.get("IBC_TWS_SETTINGS_PATH") or f"{_home(given)}/Jts/gateway-{mode}", banner)
    time_zone = given.get("IBC_TIME_ZONE") or given.get("TZ", "Etc/UTC")
    _write_jts_ini(settings, time_zone, banner)
    try:
        return _controller_order(given, mode, settings, time_zone)
    except Refused as refused:
        raise Refused(refused.exit_code, *banner, *refused.lines) from None


def _controller_order(given: Mapping[str, str], mode: str, settings: Path, time_zone: str) -> Order:
    user, password = _from_file(given, "IBC_USERID"), _from_file(given, "IBC_PASSWORD")
    if not user or not password:
        raise Refused(78, "error: credentials not found")
    heap = given.get("IBC_JAVA_HEAP_SIZE", "768m")
    order = Order(
        controller=IBCONTROLLER,
        user=filled(user, {"program": "gateway", "trading_mode": mode, "userid": user}),
        password=filled(password, {"program": "gateway", "trading_mode": mode, "userid": user}),
        trading_mode=mode,
        read_only=_boolean(given, "IBC_READ_ONLY_API"),
        time_zone=time_zone,
        existing_session_action=_word(given, "IBC_EXISTING_SESSION_ACTION", _ACTIONS, "manual"),
        auto_restart_time=_time_or_none(given.get("IBC_AUTO_RESTART_TIME")),
        relogin_after_missed=_boolean(given, "IBC_RELOGIN_AFTER_MFA_TIMEOUT"),
        missed_action=_word(given, "IBC_MFA_TIMEOUT_ACTION", ("exit", "restart"), "exit"),
        settings_dir=settings,
    )
    _word(given, "IBC_ACCEPT_INCOMING_CONNECTIONS", ("accept", "reject", "manual"), "manual")
    if not re.fullmatch(r"\d+[kmgKMG]", heap):
        raise Refused(69, "error: instance never became ready (JVM exited)")  # -Xmx768 is 768 bytes
    return order


def _from_file(given: Mapping[str, str], name: str) -> str:
    """The file wins; its content is UTF-8 and stripped. An empty one falls back to the variable."""
    path = given.get(f"{name}_FILE")
    if path is None:
        return given.get(name, "")
    try:
        content = Path(path).read_bytes().decode()
    except OSError as fault:
        raise Refused(78, f"error: {name}_FILE={path}: [Errno {fault.errno}] {fault.strerror}: '{path}'") from fault
    except UnicodeDecodeError as fault:
        raise Refused(1, "Traceback (most recent call last):", f"UnicodeDecodeError: {fault.reason}") from fault
    return content.strip() or given.get(name, "")


def filled(text: str, settings: Mapping[str, str]) -> str:
    """What ibcontroller makes of a value: settings' names in braces are replaced, again and again, doubled braces halved."""
    for _ in range(5):
        text = re.sub(r"\{(\w+)\}", lambda m: settings.get(m[1], m[0]), text)
    return text.replace("{{", "{").replace("}}", "}")


def _boolean(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "false").lower()
    if value not in _TRUE | _FALSE:
        raise Refused(78, f"error: {name}: not a boolean")
    return value in _TRUE


def _word(given: Mapping[str, str], name: str, allowed: Sequence[str], default: str) -> str:
    value = given.get(name, default)
    if value not in allowed:
        raise Refused(78, f"error: {name}: not one of {', '.join(allowed)}")
    return value


# ---------------------------------------------------------------------------------------------- both


def _home(given: Mapping[str, str]) -> str:
    return given.get("HOME", "/home/ibgateway")


def _time_or_none(value: str | None) -> str | None:
    """A restart time that is written wrongly is logged by the controllers, and then none."""
    return value if value and _TIME.fullmatch(value) else None


def _settings_dir(path: str, banner: Sequence[str]) -> Path:
    """The scripts make the directory itself, never the one that it is in."""
    directory = Path(path)
    try:
        directory.mkdir(exist_ok=True)
    except OSError as fault:
        raise Refused(1, *banner, f"mkdir: cannot create directory '{path}': {fault.strerror}") from fault
    return directory


def _write_jts_ini(settings: Path, time_zone: str, banner: Sequence[str]) -> None:
    file = settings / "jts.ini"
    if file.exists():
        return
    try:
        file.write_text(_JTS_INI.format(time_zone=time_zone))
    except OSError as fault:
        raise Refused(1, *banner, f"common.sh: line 29: {file}: {fault.strerror}") from fault
