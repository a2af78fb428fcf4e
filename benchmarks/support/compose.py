"""`docker compose up` of given containers: what a user without the manager would do, timed beside it.

The containers' configurations are those that the engine is asked to create, said in Compose's words. Two things differ: there is
nobody who attaches to a container to bring a password, so a word that is none is piped in by the container's own entrypoint; and
network and volumes are declared as there already.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROGRAMS = (["docker", "compose"], ["docker-compose"])
Config = Mapping[str, Any]


def installed() -> list[str] | None:
    """The command that answers, the plugin first; None when there is none."""
    return next((program for program in PROGRAMS if _answers([*program, "version"])), None)


def seconds_to_start(
    program: list[str], socket: str, containers: Mapping[str, Config], *, check: Callable[[], None]
) -> float:
    """Seconds of `up -d` for these containers, by name; they are taken down again.

    Args:
        program: what `installed` gave.
        socket: the engine's.
        containers: what the engine is asked to create, by name.
        check: called once all are up, before they are taken down.

    Raises:
        subprocess.CalledProcessError: Compose failed; what it said is on this process's standard error.
    """
    with tempfile.TemporaryDirectory(prefix="gm-compose-", dir="/tmp") as directory:
        place = Path(directory) / "compose.json"
        place.write_text(compose_file(containers))
        command = [
            *program,
            "--project-name",
            Path(directory).name.lower(),
            "--file",
            str(place),
            "--progress",
            "quiet",
        ]
        environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}"}
        begun = time.perf_counter()
        try:
            subprocess.run([*command, "up", "--detach"], env=environment, check=True)
            took = time.perf_counter() - begun
            check()
            return took
        finally:
            subprocess.run([*command, "down", "--timeout", "1"], env=environment, check=True)


def compose_file(containers: Mapping[str, Config]) -> str:
    """The file, as JSON, which is YAML too; no dollar in it stands for a variable."""
    hosts = {name: config["HostConfig"] for name, config in containers.items()}
    mounts = [mount for host in hosts.values() for mount in host["Mounts"]]
    file = {
        "services": {name: _service(name, config) for name, config in containers.items()},
        "networks": {
            name: {"name": name, "external": True} for name in {host["NetworkMode"] for host in hosts.values()}
        },
        "volumes": {name: {"name": name, "external": True} for name in [mount["Source"] for mount in mounts]},
    }
    return json.dumps(file).replace("$", "$$")


def _service(name: str, config: Config) -> dict[str, Any]:
    host, (shell, option, wrapper, *rest) = config["HostConfig"], config["Entrypoint"]
    return {
        "container_name": name,
        "image": config["Image"],
        "pull_policy": "never",
        "entrypoint": [shell, option, f"printf '8\\npassword' | (\n{wrapper})", *rest],
        "command": config["Cmd"],
        "environment": config["Env"],
        "labels": config["Labels"],
        "stop_grace_period": f"{config['StopTimeout']}s",
        "healthcheck": _health(config["Healthcheck"]),
        "ports": [
            f"{binding['HostIp']}:{binding['HostPort']}:{port}"
            for port, bindings in host["PortBindings"].items()
            for binding in bindings
        ],
        "networks": [host["NetworkMode"]],
        "restart": host["RestartPolicy"]["Name"],
        "init": host["Init"],
        "cap_drop": host["CapDrop"],
        "security_opt": host["SecurityOpt"],
        "pids_limit": host["PidsLimit"],
        "mem_limit": host["Memory"],
        "memswap_limit": host["MemorySwap"],
        "tmpfs": [f"{path}:{options}" for path, options in host["Tmpfs"].items()],
        "volumes": [
            {"type": mount["Type"], "source": mount["Source"], "target": mount["Target"], "volume": {"nocopy": True}}
            for mount in host["Mounts"]
        ],
        "logging": {"driver": host["LogConfig"]["Type"], "options": host["LogConfig"]["Config"]},
    }


def _health(check: Config) -> dict[str, Any]:
    names = {
        "Interval": "interval",
        "Timeout": "timeout",
        "StartPeriod": "start_period",
        "StartInterval": "start_interval",
    }
    times = {names[name]: f"{value // 1_000_000}ms" for name, value in check.items() if name in names}
    return {"test": check["Test"], "retries": check["Retries"], **times}


def _answers(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
