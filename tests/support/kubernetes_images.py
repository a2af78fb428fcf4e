"""The simulator's images on a test's nodes, without a registry and without Docker: put together as the users' Dockerfile says.

What it builds on is the same base as the Docker tests'; its instructions are read from docker/simulator/Dockerfile, so that variables,
user and command are told in one place. Its one RUN makes the user and the directories, which is done here by hand.
"""

from __future__ import annotations

import compileall
import functools
import hashlib
import json
import shlex
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from filelock import FileLock

from real_parts.kubernetes.parts import NODES, Node, Parts, docker_archive
from support.docker_images import PYTHON, Generation, add_text, base_archive

_ROOT = Path(__file__).parents[2]
_FILE = _ROOT / "docker" / "simulator" / "Dockerfile"
_HOME = "home/ibgateway"
_USER = 1000
_PATHS = f"/{PYTHON}/bin:/usr/local/bin:/usr/bin:/bin"
BASE_VARIABLES = {"PATH": _PATHS, "LD_LIBRARY_PATH": f"/{PYTHON}/lib", "PYTHONDONTWRITEBYTECODE": "1"}
_REPOSITORY = "docker.io/gateway-manager-tests/gateway-simulator"


def simulator_image(
    parts: Parts, generation: Generation, environment: Mapping[str, str] | None = None, *, node: Node = NODES[0]
) -> str:
    """The name of a simulator image on this node; `environment` is added to it (faults, accounts, timings)."""
    stage = instructions_of(_FILE, generation)
    variables = BASE_VARIABLES | stage.variables | dict(environment or {})
    config: dict[str, object] = {
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Cmd": stage.command,
        "User": stage.user,
        "WorkingDir": stage.directory,
    }
    layers = [_base(), _program()]
    mark = hashlib.sha256(json.dumps(config).encode() + b"".join(map(_digest, layers))).hexdigest()[:12]
    name = f"{_REPOSITORY}:{generation}-{mark}"
    with FileLock(parts.directory / f"{node.name}.images"):
        if name not in (parts.ctr(node, "images", "ls", "-q") or "").split():
            parts.load_image(docker_archive(name, layers, config), nodes=[node])
    return name


def plain_image(parts: Parts, *, node: Node = NODES[0]) -> str:
    """The name of an image that is no gateway's."""
    name = f"{_REPOSITORY}:plain"
    with FileLock(parts.directory / f"{node.name}.images"):
        if name not in (parts.ctr(node, "images", "ls", "-q") or "").split():
            variables = [f"{key}={value}" for key, value in BASE_VARIABLES.items()]
            config: dict[str, object] = {"Env": variables, "Cmd": ["sleep", "3600"], "User": f"{_USER}:{_USER}"}
            parts.load_image(docker_archive(name, [_base()], config), nodes=[node])
    return name


class Stage:
    """What the instructions of one stage, and of those it is built from, come to."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.command: list[str] = []
        self.entrypoint: list[str] = []
        self.user = ""
        self.directory = ""


@functools.cache
def instructions_of(file: Path, stage_name: str) -> Stage:
    """The instructions of a Dockerfile's stage; one without a name is called ""."""
    stages: dict[str, Stage] = {}
    current = Stage()
    for line in file.read_text().replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        match word:
            case "FROM":
                base, _, name = rest.partition(" AS ")
                current, before = Stage(), stages.get(base)
                if before is not None:
                    current.__dict__.update(before.__dict__ | {"variables": dict(before.variables)})
                stages[name] = current
            case "ENV":
                current.variables |= dict(each.split("=", 1) for each in shlex.split(rest))
            case "USER":
                current.user = rest
            case "WORKDIR":
                current.directory = rest
            case "CMD":
                current.command = json.loads(rest)
            case "ENTRYPOINT":
                current.entrypoint = json.loads(rest)
    return stages[stage_name]


@functools.cache
def _base() -> bytes:
    return base_archive()


@functools.cache
def _program() -> bytes:
    """What COPY and RUN of the Dockerfile put into the image."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add_text(archive, "etc/passwd", f"root:x:0:0::/:/bin/sh\nibgateway:x:{_USER}:{_USER}::/{_HOME}:/bin/sh\n")
        add_text(archive, "etc/group", f"root:x:0:\nibgateway:x:{_USER}:\n")
        for directory in ("", "/scripts", "/ibc", "/Jts"):
            entry = tarfile.TarInfo(f"{_HOME}{directory}")
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o755, _USER, _USER
            archive.addfile(entry)
        copied = {"docker/simulator/run.sh": f"{_HOME}/scripts/run.sh"}
        copied["docker/simulator/gateway-simulator"] = "usr/local/bin/gateway-simulator"
        package = _ROOT / "src" / "spreadpilot_core" / "ibkr" / "simulator"
        compileall.compile_dir(package, quiet=1)
        for file in sorted(each for each in package.rglob("*.py*") if not each.match("*.opt-?.pyc")):
            copied[str(file.relative_to(_ROOT))] = f"opt/gateway-simulator/{file.relative_to(_ROOT / 'src')}"
        for source, target in copied.items():
            entry = archive.gettarinfo(_ROOT / source, arcname=target)
            entry.uid = entry.gid = 0  # with its time: what is compiled of it names that
            with (_ROOT / source).open("rb") as content:
                archive.addfile(entry, content)
    return buffer.getvalue()


@functools.cache
def _digest(layer: bytes) -> bytes:
    return hashlib.sha256(layer).digest()
