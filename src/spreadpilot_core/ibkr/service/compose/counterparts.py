"""What has no counterpart in a follower's record, and why: variables of both generations of the image, and keys of Compose."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_RETRIES = "the manager alone decides when a login is tried again, so that no loop locks the user"
_SETTINGS = "each gateway keeps its settings in a volume of its own, and begins with fresh ones"
_SSH = "the gateway's port is on loopback alone; a tunnel is yours to make"
_SCRIPTS = "no script of yours runs in the container"
_NONE_IN_IMAGE = "it stays as the gateway has it; change it on the gateway's screen (gateway.vnc)"
_LOGS = "the manager reads the log, and needs it as it is"

VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TWS_SETTINGS_PATH": _SETTINGS,
        "IBC_TWS_SETTINGS_PATH": _SETTINGS,
        "TWS_ACCEPT_INCOMING": "clients are always accepted",
        "IBC_ACCEPT_INCOMING_CONNECTIONS": "clients are always accepted",
        "TWOFA_TIMEOUT_ACTION": _RETRIES,
        "IBC_MFA_TIMEOUT_ACTION": _RETRIES,
        "RELOGIN_AFTER_TWOFA_TIMEOUT": _RETRIES,
        "IBC_RELOGIN_AFTER_MFA_TIMEOUT": _RETRIES,
        "TWOFA_EXIT_INTERVAL": "it is 60 seconds",
        "IBC_MFA_EXIT_INTERVAL": "it is 60 seconds",
        "IBC_MFA_TIMEOUT": "it is 180 seconds, as IBKR has it",
        "IBC_LOGIN_DIALOG_DISPLAY_TIMEOUT": "it is 300 seconds",
        "TWOFA_DEVICE": "which device is asked is IBKR's default of that user",
        "BYPASS_WARNING": _NONE_IN_IMAGE,
        "TWS_MASTER_CLIENT_ID": _NONE_IN_IMAGE,
        "ALLOW_BLIND_TRADING": "it is off",
        "SAVE_TWS_SETTINGS": _SETTINGS,
        "AUTO_LOGOFF_TIME": "gateways restart daily instead (gateway.auto_restart_time), which costs no login",
        "IBC_AUTO_LOGOFF_TIME": "gateways restart daily instead (gateway.auto_restart_time), which costs no login",
        "TWS_COLD_RESTART": "the manager logs in anew when IBKR has ended a session",
        "IBC_COLD_RESTART_TIME": "the manager logs in anew when IBKR has ended a session",
        "IBC_CLOSEDOWN_AT": "a gateway runs until its follower is disabled or stopped",
        "CUSTOM_CONFIG": "the image's own configuration is used",
        "IBC_INI": "the image's own configuration is used",
        "IBC_LOG_LEVEL": _LOGS,
        "IBC_LOG_SINK": _LOGS,
        "IBC_LOG_DIR": _LOGS,
        "START_SCRIPTS": _SCRIPTS,
        "X_SCRIPTS": _SCRIPTS,
        "IBC_SCRIPTS": _SCRIPTS,
        "SSH_TUNNEL": _SSH,
        "SSH_OPTIONS": _SSH,
        "SSH_ALIVE_INTERVAL": _SSH,
        "SSH_ALIVE_COUNT": _SSH,
        "SSH_PASSPHRASE": _SSH,
        "SSH_PASSPHRASE_FILE": _SSH,
        "SSH_REMOTE_PORT": _SSH,
        "SSH_USER_TUNNEL": _SSH,
        "SSH_RESTART": _SSH,
        "SSH_VNC_PORT": _SSH,
        "SSH_RDP_PORT": _SSH,
        "GATEWAY_OR_TWS": "what runs is IB Gateway",
        "TWS_PATH": "it is the image's own",
    }
)
"""Name -> why it is not taken over."""
UNKNOWN_VARIABLE: Final = "the manager sets a gateway's variables itself, and not this one"

KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "restart": "the manager itself starts a gateway again, and knows when it must not",
        "volumes": _SETTINGS,
        "depends_on": "a gateway waits for no other container",
        "profiles": "`followers enable` and `disable` say who has a gateway",
        "container_name": "containers are named by container_prefix and the follower",
        "hostname": "clients reach a gateway by the endpoint that the manager names",
        "healthcheck": "the manager has a heartbeat of its own",
        "networks": "gateways have a network of their own, and are reached on loopback",
        "network_mode": "gateways have a network of their own; how their traffic leaves is the host's affair",
        "extra_hosts": "gateways have a network of their own",
        "dns": "gateways have the engine's own",
        "build": "images are pulled or loaded, not built",
        "command": "the image's own is run",
        "entrypoint": "the image's own is run",
        "logging": "logs rotate at three files of 10 MB",
        "deploy": "limits follow gateway.java_heap_mib, and each user has one gateway",
        "scale": "each user has one gateway",
        "mem_limit": "the memory limit follows gateway.java_heap_mib",
        "cpus": "gateways have no limit of processors",
        "stop_grace_period": "the setting stop_grace has it",
        "pull_policy": "the setting image_pull_policy has it",
        "platform": "the engine chooses",
        "user": "the image's own user runs it",
        "tmpfs": "gateways have what the manager mounts",
        "labels": "gateways have the manager's labels",
        "privileged": "gateways have no privileges",
        "cap_add": "gateways have no privileges",
    }
)
"""Key of a service -> why it is not taken over."""
UNKNOWN_KEY: Final = "a gateway's container is made as the manager needs it"
