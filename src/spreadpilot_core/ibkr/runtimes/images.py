"""What an image of IB Gateway wants, told by looking at it.

The build of `ghcr.io/gnzsnz/ib-gateway` changed its controller: older images let IBC type the login, newer ones
ibcontroller, under the same tags. The two take other variables, another password file and answer with another log and
other exit codes. This module reads an image's inspection and says, as data, which of the two it is and what it wants;
`docker.containers` makes a container of that. It knows no engine and does no I/O.

What the image leaves unset has its default in the image's sample compose file alone, so `variables` names every one of
those: a gateway started without them hangs in a dialog, or logs in again and again by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spreadpilot_core.ibkr.errors import UnknownImageError
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.model.gateways import Controller, GatewaySpec

SECRET_DIRECTORY = "/run/gateway-manager"  # noqa: S105  # a place, not a secret
PASSWORD_FILE = f"{SECRET_DIRECTORY}/password"
SCREEN_PASSWORD_FILE = f"{SECRET_DIRECTORY}/screen"

RESET_HOURS_VARIABLE = "SIMULATOR_RESET_HOURS"
"""Only a simulator's image has it: by itself empty, so that what logs in to no IBKR waits for none."""

_SAME_IN_BOTH = {"TZ": "{time_zone}", "TIME_ZONE": "{time_zone}", "CUSTOM_CONFIG": "NO"}


_SMALLEST_MEMORY_MIB = 1024


def memory_limit_mib(options: GatewayOptions) -> int:
    """What a gateway may use in all, for the heap that it is given."""
    return max(_SMALLEST_MEMORY_MIB, (options.java_heap_mib or 0) * 4 // 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageContract:
    """What one generation of the image wants, and where it listens."""

    controller: Controller
    controller_name: str
    """The controller's own name, for sentences."""
    marker: str
    """The variable in the image's environment that no other generation has."""
    user_variable: str
    password_file_variable: str
    settings_path_variable: str
    variables: Mapping[str, str]
    """Variable to value; `{…}` is filled from the gateway's options."""
    screen_password_variable: str = "VNC_SERVER_PASSWORD_FILE"  # noqa: S105  # a variable's name
    screen_port: int = 5900
    command: Sequence[str] = ("/home/ibgateway/scripts/run.sh",)
    """What the image runs, where nobody can look it up; both generations run the same."""
    published_ports: Mapping[TradingMode, int]
    """Where socat listens for the world; it accepts even while the gateway does not."""
    api_ports: Mapping[TradingMode, int]
    """Where the gateway itself listens, on the container's loopback, once it is logged in."""


_PUBLISHED = {TradingMode.LIVE: 4003, TradingMode.PAPER: 4004}
_API = {TradingMode.LIVE: 4001, TradingMode.PAPER: 4002}

IBC = ImageContract(
    controller="ibc",
    controller_name="IBC",
    marker="IBC_INI",
    user_variable="TWS_USERID",
    password_file_variable="TWS_PASSWORD_FILE",  # noqa: S106  # a variable's name
    settings_path_variable="TWS_SETTINGS_PATH",
    variables=_SAME_IN_BOTH
    | {
        "TRADING_MODE": "{trading_mode}",
        "READ_ONLY_API": "{read_only_api}",
        "EXISTING_SESSION_DETECTED_ACTION": "{existing_session_action}",
        "TWS_ACCEPT_INCOMING": "accept",
        "TWOFA_TIMEOUT_ACTION": "exit",
        "RELOGIN_AFTER_TWOFA_TIMEOUT": "no",
        "TWOFA_EXIT_INTERVAL": "60",
        "ALLOW_BLIND_TRADING": "no",
        "AUTO_RESTART_TIME": "{auto_restart_time}",
        "JAVA_HEAP_SIZE": "{java_heap_mib}",
    },
    published_ports=_PUBLISHED,
    api_ports=_API,
)

IBCONTROLLER = ImageContract(
    controller="ibcontroller",
    controller_name="ibcontroller",
    marker="IBC_APP_DIR",
    user_variable="IBC_USERID",
    password_file_variable="IBC_PASSWORD_FILE",  # noqa: S106  # a variable's name
    settings_path_variable="IBC_TWS_SETTINGS_PATH",
    variables=_SAME_IN_BOTH
    | {
        "IBC_TRADING_MODE": "{trading_mode}",
        "IBC_READ_ONLY_API": "{read_only_api}",
        "IBC_EXISTING_SESSION_ACTION": "{existing_session_action}",
        "IBC_ACCEPT_INCOMING_CONNECTIONS": "accept",
        "IBC_MFA_TIMEOUT": "180",
        "IBC_MFA_EXIT_INTERVAL": "60",
        "IBC_LOGIN_DIALOG_DISPLAY_TIMEOUT": "300",  # its own minute is too short for a host that starts many at once
        "IBC_MFA_TIMEOUT_ACTION": "exit",
        "IBC_RELOGIN_AFTER_MFA_TIMEOUT": "no",
        "IBC_AUTO_RESTART_TIME": "{auto_restart_time}",
        "IBC_TIME_ZONE": "{time_zone}",
        "IBC_JAVA_HEAP_SIZE": "{java_heap_mib}m",
        "IBC_LOG_LEVEL": "info",  # a quieter log hides a good login
        "IBC_LOG_SINK": "std",
    },
    published_ports=_PUBLISHED,
    api_ports=_API,
)

CONTRACTS: Sequence[ImageContract] = (IBCONTROLLER, IBC)
"""In the order in which they are looked for: both generations have variables that begin with `IBC_`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image that fits a contract."""

    reference: str
    id: str
    contract: ImageContract
    command: Sequence[str]
    """The image's own entrypoint and command, which run after the secret has come."""
    uid: int
    gid: int
    reset_hours: str | None = None
    """When the simulator in it resets; None: IBKR's own hours."""
    settings_path: str
    """Where the gateway keeps its settings; a volume is mounted here."""

    def variables(self, spec: GatewaySpec) -> Mapping[str, str]:
        """The container's whole environment, beyond what the image has itself; no secret is in it."""
        options = spec.options
        values = {
            "trading_mode": spec.trading_mode.value,
            "read_only_api": "yes" if options.read_only_api else "no",
            "existing_session_action": options.existing_session_action,
            "auto_restart_time": options.auto_restart_time,
            "time_zone": options.time_zone,
            "java_heap_mib": options.java_heap_mib,
        }
        contract = self.contract
        filled = {name: text.format_map(values) for name, text in contract.variables.items()}
        filled[contract.user_variable] = spec.user
        filled[contract.password_file_variable] = PASSWORD_FILE
        filled[contract.settings_path_variable] = self.settings_path
        if options.vnc:
            filled[contract.screen_password_variable] = SCREEN_PASSWORD_FILE
        return filled


def identify(reference: str, inspection: Mapping[str, Any], *, override: Controller | None = None) -> Image:
    """Tell an image's generation from what the engine says of it.

    Args:
        reference: the image's name, as the settings have it.
        inspection: the engine's answer to an image inspection.
        override: the generation, where the operator knows better (`image_contract`).

    Raises:
        UnknownImageError: it fits no contract, or has nothing to run.
    """
    config = inspection.get("Config") or {}
    environment = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    contract = _contract(reference, environment, config.get("Labels") or {}, override)
    command = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if not command:
        raise UnknownImageError(reference, "it has neither an entrypoint nor a command, so there is nothing to run")
    uid, gid = owner_of(config.get("User") or "")
    home = environment.get("HOME") or "/home/ibgateway"
    return Image(
        reference=reference,
        id=inspection["Id"],
        contract=contract,
        command=command,
        uid=uid,
        gid=gid,
        reset_hours=environment.get(RESET_HOURS_VARIABLE),
        settings_path=f"{home}/tws_settings",
    )


def _contract(
    reference: str, environment: Mapping[str, str], labels: Mapping[str, str], override: Controller | None
) -> ImageContract:
    if override is not None:
        return next(contract for contract in CONTRACTS if contract.controller == override)
    for contract in CONTRACTS:
        if contract.marker in environment:
            return contract
    expected = " or ".join(f"{contract.marker} (the {contract.controller_name} generation)" for contract in CONTRACTS)
    has = ", ".join(sorted(environment)) or "no variable at all"
    title = labels.get("org.opencontainers.image.title") or labels.get("org.opencontainers.image.description")
    called = f"; it calls itself {title.strip()!r}" if title else ""
    raise UnknownImageError(reference, f"its environment has {has}, but not {expected}{called}")


def user_in(environment: Iterable[str], controller: Controller) -> str | None:
    """The IBKR user that a container of this generation was given, from its `NAME=value` lines."""
    contract = IBC if controller == IBC.controller else IBCONTROLLER
    values = dict(line.split("=", 1) for line in environment if "=" in line)
    return values.get(contract.user_variable) or None


def reset_hours_in(environment: Iterable[str]) -> str | None:
    """When the simulator in a container resets; None: it is none, and IBKR's own hours count."""
    return dict(line.split("=", 1) for line in environment if "=" in line).get(RESET_HOURS_VARIABLE)


def owner_of(user: str) -> tuple[int, int]:
    """The ids behind an image's `USER`: none is root, a name is the image's one user, 1000:1000 by default."""
    if not user:
        return 0, 0
    uid, _, gid = user.partition(":")
    number = int(uid) if uid.isdecimal() else 1000
    return number, int(gid) if gid.isdecimal() else number
