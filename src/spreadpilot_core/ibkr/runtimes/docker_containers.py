"""A gateway's container as plain data: what the engine is asked to create, and what its inspections mean.

Pure: no engine, no I/O. `images` says what the image wants; the rest here is what this project wants of every container:
nothing published but on loopback, no privileges, bounded memory, processes and logs, and a secret that comes by standard
input onto a file system in memory.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, Final, get_args

import structlog

from spreadpilot_core.ibkr.exit_codes import NO_SECRET, NO_SETTINGS
from spreadpilot_core.ibkr.protocols import (
    ContainerId,
    Dialect,
    FollowerId,
    Gateway,
    GatewaySpec,
    LastWords,
    Leases,
    RuntimeState,
    TradingMode,
)
from spreadpilot_core.ibkr.runtimes import docker_naming as labels
from spreadpilot_core.ibkr.runtimes.docker_naming import Naming
from spreadpilot_core.ibkr.runtimes.images import (
    PASSWORD_FILE,
    SCREEN_PASSWORD_FILE,
    SECRET_DIRECTORY,
    Image,
    owner_of,
    user_in,
)

log = structlog.get_logger(__name__)

LOOPBACK: Final = "127.0.0.1"
STOP_SECONDS: Final = 90
"""How long `docker stop` and a stopping engine wait; a tidy close takes ibcontroller up to 25 s."""

_MIB = 1024 * 1024
_SMALLEST_MEMORY_MIB = 1024
_PROCESSES = 1024
"""Threads count, and a JVM with a screen has some hundred."""
_NANOSECONDS = 1_000_000_000
_STARTING_HEALTH_API = (1, 44)
"""From this API version on, a container may be checked faster while it starts."""

WRAPPER: Final = f"""\
set -u
if ! [ -w "$1" ]; then
  echo "gateway-manager: the settings volume at $1 does not belong to this user" >&2
  exit {NO_SETTINGS}
fi
shift
if [ -n "${{VNC_SERVER_PASSWORD_FILE:-}}" ]; then
  (umask 077; LC_ALL=C tr -dc a-zA-Z0-9 </dev/urandom | head -c 8 >{SCREEN_PASSWORD_FILE})
fi
read -r expected || expected=
(umask 077; cat >{PASSWORD_FILE})
got=$(wc -c <{PASSWORD_FILE})
if ! [ "$got" -eq "$expected" ] 2>/dev/null; then
  rm -f {PASSWORD_FILE}
  echo "gateway-manager: the secret did not come whole" >&2
  exit {NO_SECRET}
fi
exec "$@" </dev/null
"""
"""Runs before the image's own command. Its arguments are the settings' directory, which must be writable, and that command; the
secret's length and a newline come by standard input, then the secret.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How often a container looks at itself, in seconds: slow, for those who read `docker ps`. The manager probes faster."""

    interval: float = 60
    timeout: float = 10
    while_starting: float = 10
    start_period: float = 300


def container_config(
    image: Image,
    spec: GatewaySpec,
    leases: Leases,
    *,
    naming: Naming,
    api: tuple[int, int],
    health: HealthCheck,
    version: str,
) -> dict[str, Any]:
    """What the engine is asked to create; no secret is in it."""
    port = f"{image.contract.published_ports[spec.trading_mode]}/tcp"
    published = {port: [{"HostIp": LOOPBACK, "HostPort": str(leases.host_port)}]}
    if spec.options.vnc:
        published[f"{image.contract.screen_port}/tcp"] = [{"HostIp": LOOPBACK, "HostPort": ""}]
    return {
        "Image": image.reference,
        "Entrypoint": ["/bin/sh", "-c", WRAPPER, "gateway-manager", image.settings_path],
        "Cmd": list(image.command),
        "Env": [f"{name}={value}" for name, value in sorted(image.variables(spec).items())],
        "Labels": dict(naming.marks(spec.follower_id))
        | {
            labels.HOST_PORT: str(leases.host_port),
            labels.CLIENT_ID: str(leases.client_id),
            labels.TRADING_MODE: spec.trading_mode.value,
            labels.SPEC: spec.digest,
            labels.VERSION: version,
            labels.DIALECT: image.contract.dialect,
        },
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "Tty": False,
        "StopTimeout": STOP_SECONDS,
        "ExposedPorts": {port: {} for port in published},
        "Healthcheck": _health(image.contract.api_ports[spec.trading_mode], health, api),
        "HostConfig": _host_config(image, spec, naming) | {"PortBindings": published},
    }


def _host_config(image: Image, spec: GatewaySpec, naming: Naming) -> dict[str, Any]:
    memory = max(_SMALLEST_MEMORY_MIB, (spec.options.java_heap_mib or 0) * 4 // 3) * _MIB
    return {
        "NetworkMode": naming.network,
        "RestartPolicy": {"Name": "no"},
        "Init": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": _PROCESSES,
        "Memory": memory,
        "MemorySwap": memory,  # the sum of both: none of it is swap
        "Tmpfs": {
            SECRET_DIRECTORY: f"rw,noexec,nosuid,nodev,size=64k,uid={image.uid},gid={image.gid},mode=0700",
        },
        "Mounts": [
            {
                "Type": "volume",
                "Source": naming.volume(spec.follower_id, spec.trading_mode, spec.user),
                "Target": image.settings_path,
                "VolumeOptions": {"NoCopy": True, "Labels": dict(naming.marks(spec.follower_id))},
            }
        ],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    }


def _health(port: int, health: HealthCheck, api: tuple[int, int]) -> dict[str, Any]:
    # The state 0A is "listening". Connecting would count as a client, and prove no more.
    check = {
        "Test": ["CMD-SHELL", f"grep -qE ':{port:04X} [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6"],
        "Interval": round(health.interval * _NANOSECONDS),
        "Timeout": round(health.timeout * _NANOSECONDS),
        "StartPeriod": round(health.start_period * _NANOSECONDS),
        "Retries": 3,
    }
    if api >= _STARTING_HEALTH_API:
        check["StartInterval"] = round(health.while_starting * _NANOSECONDS)
    return check


def owned_directory(path: str, uid: int, gid: int) -> tuple[str, bytes]:
    """A directory entry with an owner, as an archive to unpack at the path that comes with it: no helper container."""
    place = PurePosixPath(path)
    entry = tarfile.TarInfo(place.name)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o700, uid, gid
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(entry)
    return str(place.parent), buffer.getvalue()


# ---------------------------------------------------------------------------------------------- reading inspections

_STATES = {
    "created": RuntimeState.CREATED,
    "running": RuntimeState.RUNNING,
    "restarting": RuntimeState.RUNNING,
    "paused": RuntimeState.PAUSED,
}
_ENDED = {"exited", "dead", "removing"}
_KILLED = 137


def gateway_from(inspection: Mapping[str, Any], *, naming: Naming, newest_image: str | None) -> Gateway | None:
    """What an inspection says, or None when the container is not this owner's.

    Args:
        inspection: the engine's answer to a container inspection.
        naming: whose containers are looked for.
        newest_image: the id that the image's name has now, to tell whether the container's is older.
    """
    config, state = inspection["Config"], inspection["State"]
    marks = config.get("Labels") or {}
    if not naming.owns(marks):
        return None
    try:
        leases = Leases(host_port=int(marks[labels.HOST_PORT]), client_id=int(marks[labels.CLIENT_ID]))
        follower_id, mode = FollowerId(marks[labels.FOLLOWER]), TradingMode(marks[labels.TRADING_MODE])
        dialect, digest = _dialect(marks[labels.DIALECT]), marks[labels.SPEC]
    except (KeyError, ValueError) as fault:
        log.warning("container with our owner label but not all others", container=inspection["Id"], fault=repr(fault))
        return None
    started = parse_time(state.get("StartedAt"))
    return Gateway(
        container_id=ContainerId(inspection["Id"]),
        name=inspection["Name"].removeprefix("/"),
        follower_id=follower_id,
        leases=leases,
        trading_mode=mode,
        user=user_in(config.get("Env") or (), dialect),
        spec_digest=digest,
        dialect=dialect,
        image=config["Image"],
        state=_STATES.get(state["Status"], RuntimeState.EXITED),
        host=LOOPBACK,
        started_at=started,
        exit_code=state.get("ExitCode") if started is not None and state["Status"] in _ENDED else None,
        health=(state.get("Health") or {}).get("Status"),
        vnc=_screen(inspection),
        notices=tuple(_notices(inspection, newest_image)),
    )


def _dialect(value: str) -> Dialect:
    if value not in get_args(Dialect):
        raise ValueError(value)
    return "ibc" if value == "ibc" else "ibcontroller"


def _screen(inspection: Mapping[str, Any]) -> str | None:
    ports = (inspection.get("NetworkSettings") or {}).get("Ports") or {}
    for inside, outside in ports.items():
        if inside == "5900/tcp" and outside:
            return f"{outside[0]['HostIp']}:{outside[0]['HostPort']}"
    return None


def _notices(inspection: Mapping[str, Any], newest_image: str | None) -> list[str]:
    notices = []
    image = inspection["Config"]["Image"]
    if newest_image is not None and newest_image != inspection.get("Image"):
        notices.append(f"The image {image} is newer on this engine than the one this gateway runs; a restart takes it.")
    return notices + _oom(inspection)


def _oom(inspection: Mapping[str, Any]) -> list[str]:
    """`OOMKilled` says that some process in it was killed in this life; it was the cause only with the exit code of it."""
    state = inspection["State"]
    if not state.get("OOMKilled") or state.get("ExitCode") != _KILLED or state.get("Running"):
        return []
    memory = inspection["HostConfig"].get("Memory", 0) // _MIB
    return [f"It was killed for want of memory at {memory} MiB; java_heap_mib raises both heap and limit."]


def last_words(inspection: Mapping[str, Any], lines: Sequence[str]) -> LastWords:
    """What an ended container left; one that never started has no exit code."""
    state = inspection["State"]
    if parse_time(state.get("StartedAt")) is None:
        return LastWords(None, lines)
    return LastWords(state.get("ExitCode"), [*lines, *(f"gateway-manager: {said}" for said in _oom(inspection))])


def doubtful_settings(inspection: Mapping[str, Any]) -> tuple[str, int, int] | None:
    """Where this container's settings are and whose they should be, when its own start has not proved that they are."""
    state, config = inspection["State"], inspection["Config"]
    if parse_time(state.get("StartedAt")) is not None and state.get("ExitCode") != NO_SETTINGS:
        return None
    path = (config.get("Entrypoint") or [""])[-1]  # the wrapper's argument; an image may have volumes of its own
    mounted = any(mount.get("Destination") == path for mount in inspection.get("Mounts") or ())
    return (path, *owner_of(config.get("User") or "")) if mounted else None


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


def parse_time(text: str | None) -> datetime | None:
    """The engine's time (RFC 3339, nanoseconds) cut to microseconds; None for its "never"."""
    if not text or text.startswith("0001-") or not (match := _TIME.fullmatch(text)):
        return None
    seconds, fraction, zone = match.groups()
    micro = (fraction or "0")[:6].ljust(6, "0")
    return datetime.fromisoformat(f"{seconds}.{micro}{'+00:00' if zone == 'Z' else zone}").astimezone(UTC)
