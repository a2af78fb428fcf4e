"""A gateway's container as plain data: what the engine is asked to create, and what its inspections mean.

Pure: no engine, no I/O. `images` says what the image wants; the rest here is what this project wants of every container:
nothing published but on loopback, no privileges, bounded memory, processes and logs, and a secret that comes by standard
input onto a file system in memory.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, Final, get_args

from spreadpilot_core.ibkr.controller_log.exit_codes import NO_SETTINGS
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import (
    Controller,
    Endpoint,
    ForeignGateway,
    Gateway,
    GatewayPhase,
    GatewaySpec,
    LastWords,
)
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.runtimes.docker import naming as labels
from spreadpilot_core.ibkr.runtimes.docker.naming import Naming
from spreadpilot_core.ibkr.runtimes.images import (
    PASSWORD_FILE,
    SECRET_DIRECTORY,
    Image,
    memory_limit_mib,
    owner_of,
    reset_hours_in,
    user_in,
)
from spreadpilot_core.ibkr.runtimes.wrapper import LOGINS_LEFT_VARIABLE, WRAPPER
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

LOOPBACK: Final = "127.0.0.1"
STOP_SECONDS: Final = 90
"""How long `docker stop` and a stopping engine wait; a tidy close takes ibcontroller up to 25 s."""

_MIB = 1024 * 1024
_PROCESSES = 1024
"""Threads count, and a JVM with a screen has some hundred."""
_NANOSECONDS = 1_000_000_000
_STARTING_HEALTH_API = (1, 44)
"""From this API version on, a container may be checked faster while it starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How often a container looks at itself, in seconds: slow, for those who read `docker ps`. The manager probes faster."""

    interval: float = 60
    timeout: float = 10
    while_starting: float = 10
    start_period: float = 300


@dataclass(frozen=True, slots=True)
class Labelled:
    """What its labels tell the next manager beside its spec."""

    host_port: int
    client_id: int


def container_config(
    image: Image,
    spec: GatewaySpec,
    labelled: Labelled,
    *,
    naming: Naming,
    api: tuple[int, int],
    health: HealthCheck,
    version: str,
    network: str | None = None,
) -> dict[str, Any]:
    """What the engine is asked to create; no secret is in it."""
    port = f"{image.contract.published_ports[spec.trading_mode]}/tcp"
    published = {port: [{"HostIp": LOOPBACK, "HostPort": str(labelled.host_port)}]}
    if spec.options.vnc:
        published[f"{image.contract.screen_port}/tcp"] = [{"HostIp": LOOPBACK, "HostPort": ""}]
    variables = {**image.variables(spec), LOGINS_LEFT_VARIABLE: str(spec.logins_left)}
    return {
        "Image": image.reference,
        "Entrypoint": ["/bin/sh", "-c", WRAPPER, "gateway-manager", image.settings_path],
        "Cmd": list(image.command),
        "Env": [f"{name}={value}" for name, value in sorted(variables.items())],
        "Labels": dict(naming.marks(spec.follower_id))
        | {
            labels.HOST_PORT: str(labelled.host_port),
            labels.CLIENT_ID: str(labelled.client_id),
            labels.TRADING_MODE: spec.trading_mode.value,
            labels.SPEC: spec.digest,
            labels.VERSION: version,
            labels.CONTROLLER: image.contract.controller,
            labels.LAUNCH: spec.launch_id,
            labels.USER: user_digest(spec.user),
        },
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "Tty": False,
        "StopTimeout": STOP_SECONDS,
        "ExposedPorts": {port: {} for port in published},
        "Healthcheck": _health(image.contract.api_ports[spec.trading_mode], health, api),
        "HostConfig": _host_config(image, spec, naming)
        | {"PortBindings": published, "NetworkMode": network or naming.network},
    }


def _host_config(image: Image, spec: GatewaySpec, naming: Naming) -> dict[str, Any]:
    memory = memory_limit_mib(spec.options) * _MIB
    return {
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

_PHASES = {
    "created": GatewayPhase.AWAITING_SECRET,
    "running": GatewayPhase.RUNNING,
    "restarting": GatewayPhase.RUNNING,
    "paused": GatewayPhase.PAUSED,
}
_ENDED = {"exited", "dead", "removing"}
_KILLED = 137
_DIGITS_OF_A_PORT = 5
_LONGEST_LABEL = 256
"""Characters; a follower's id, the longest of what we write, has half of it."""


def gateway_from(inspection: Mapping[str, Any], *, naming: Naming, newest_image: str | None) -> Gateway | None:
    """What an inspection says, or None when the container bears no identity of this manager.

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
        _must_be_short(marks)
        host_port, client_id = int(marks[labels.HOST_PORT]), int(marks[labels.CLIENT_ID])
        name, owner = inspection["Name"].removeprefix("/"), Naming(marks[labels.OWNER])
        follower_id, mode = FollowerId(marks[labels.FOLLOWER]), TradingMode(marks[labels.TRADING_MODE])
        controller, digest = _controller(marks[labels.CONTROLLER]), marks[labels.SPEC]
    except (KeyError, ValueError) as fault:
        log.warning("container without all of our labels", container=inspection["Id"], fault=f"{fault!r:.99}")
        return None
    started = parse_time(state.get("StartedAt"))
    return Gateway(
        container_id=ContainerId(inspection["Id"]),
        name=name[:_LONGEST_LABEL],
        follower_id=follower_id,
        client_id=client_id,
        endpoint=Endpoint(LOOPBACK, host_port),
        trading_mode=mode,
        identity=marks[labels.IDENTITY],
        launch_id=marks.get(labels.LAUNCH, ""),
        faults=tuple(_faults(inspection, host_port)),
        is_renamed=name != owner.container(follower_id),
        is_restarted=is_restarted(state),
        ended_by=ReasonCode.OUT_OF_MEMORY if _oom(inspection) else None,
        user=user_in(config.get("Env") or (), controller),
        spec_digest=digest,
        controller=controller,
        image=config["Image"],
        phase=_PHASES.get(state["Status"], GatewayPhase.EXITED),
        started_at=started,
        exit_code=state.get("ExitCode") if started is not None and state["Status"] in _ENDED else None,
        health=(state.get("Health") or {}).get("Status"),
        reset_hours=reset_hours_in(config.get("Env") or ()),
        vnc=_screen(inspection),
        notices=tuple(_notices(inspection, newest_image)),
    )


def foreign_from(inspection: Mapping[str, Any], *, naming: Naming) -> ForeignGateway | None:
    """What an inspection says of a container with another manager's identity; None when it has one of ours."""
    config, state = inspection["Config"], inspection["State"]
    marks = config.get("Labels") or {}
    if naming.owns(marks):
        return None
    port = marks.get(labels.HOST_PORT, "")
    host_port = int(port) if port.isascii() and port.isdigit() and len(port) <= _DIGITS_OF_A_PORT else None
    is_gateway = host_port is not None and not any(_faults(inspection, host_port))
    return ForeignGateway(
        container_id=ContainerId(inspection["Id"]),
        name=inspection["Name"].removeprefix("/")[:_LONGEST_LABEL],
        identity=marks.get(labels.IDENTITY, "unknown")[:_LONGEST_LABEL],
        follower_id=marks.get(labels.FOLLOWER, "")[:_LONGEST_LABEL],
        host_port=host_port,
        user_digest=marks.get(labels.USER, "")[:_LONGEST_LABEL] or None if is_gateway else None,
        is_ended=state["Status"] in _ENDED,
    )


def _must_be_short(marks: Mapping[str, str]) -> None:
    """Whoever labels a container may write at any length; nothing of ours is long."""
    for each in (labels.OWNER, labels.IDENTITY, labels.FOLLOWER, labels.LAUNCH, labels.SPEC):
        if len(marks.get(each, "")) > _LONGEST_LABEL:
            raise ValueError(each)


def _faults(inspection: Mapping[str, Any], host_port: int) -> Iterator[str]:
    """What about a container is not as `container_config` has containers made, whatever labels an image has given it."""
    host = inspection.get("HostConfig") or {}
    bindings = [each for row in (host.get("PortBindings") or {}).values() for each in row or ()]
    on_loopback = all(each.get("HostIp") == LOOPBACK for each in bindings) and host.get("NetworkMode") != "host"
    if not on_loopback or str(host_port) not in [each.get("HostPort") for each in bindings]:
        yield f"it does not publish port {host_port} on loopback"
    match inspection["Config"].get("Entrypoint"):
        case ["/bin/sh", "-c", str(wrapper), "gateway-manager", _, *_] if PASSWORD_FILE in wrapper:
            if SECRET_DIRECTORY not in (host.get("Tmpfs") or {}):  # an image hands on the entrypoint, and not this
                yield "it has no place for a secret"
        case _:
            yield "it has another entrypoint"


def is_restarted(state: Mapping[str, Any]) -> bool:
    """Whether a container that runs has ended before: whatever started it again, nobody gave it its secret again."""
    runs = state["Status"] in {"running", "paused", "restarting"}
    return runs and (parse_time(state.get("FinishedAt")) is not None or state["Status"] == "restarting")


def _controller(value: str) -> Controller:
    if value not in get_args(Controller):
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
    policy = ((inspection.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no"
    if policy != "no":
        notices.append(
            f"Somebody gave its container the restart policy {policy}; a gateway that the engine starts again can't log in,"
            f" and is replaced. `docker update --restart=no {inspection['Name'].removeprefix('/')}` takes it back."
        )
    return notices + _oom(inspection)


def _oom(inspection: Mapping[str, Any]) -> list[str]:
    """`OOMKilled` says that some process in it was killed in this life; it was the cause only with the exit code of it."""
    state = inspection["State"]
    if not state.get("OOMKilled") or state.get("ExitCode") != _KILLED or state.get("Running"):
        return []
    memory = inspection["HostConfig"].get("Memory", 0) // _MIB
    return [f"It was OOM-killed at {memory} MiB; java_heap_mib raises both heap and limit."]


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
