"""The simulator's images on a test's engine, without a registry: the users' Dockerfile on a base made of this machine.

The base is the running interpreter, what it is linked to, a busybox and a few time zones, loaded by `docker import`.
Images are named after this process and their content: made once for a run, and two runs on one engine don't meet.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

from support.docker_http import DockerApi, DockerApiError
from support.real_parts import need

Generation = Literal["ibc", "ibcontroller"]
GENERATIONS: tuple[Generation, ...] = ("ibc", "ibcontroller")

_REPOSITORY = f"gateway-manager-test-{os.getpid()}"
_ROOT = Path(__file__).parents[2]
_CONTEXT = ("docker/simulator", "src/spreadpilot_core/ibkr/simulator")
PYTHON = "opt/python"
_LEFT_OUT = {
    "test",
    "tests",
    "site-packages",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
}
_APPLETS = "sh cat wc rm head tr grep tee mkfifo sleep mkdir chown ls id env ps kill sha256sum nc echo dd stat mount"
_ZONES = ("Etc/UTC", "UTC", "America/New_York", "Europe/Zurich", "Asia/Hong_Kong")


def simulator_image(api: DockerApi, generation: Generation, environment: Mapping[str, str] | None = None) -> str:
    """The name of a simulator image on this engine; `environment` is added to it (faults, accounts, timings)."""
    context = _context()
    mark = hashlib.sha256(context + generation.encode()).hexdigest()[:12]
    name = f"{_REPOSITORY}:{generation}-{mark}"
    if not _has(api, name):
        build = {"dockerfile": "docker/simulator/Dockerfile", "target": generation, "t": name, "rm": 1}
        said = api.ask("POST", "/build", body=context, buildargs=json.dumps({"BASE": _base(api)}), **build)
        if not _has(api, name):
            raise RuntimeError(f"the simulator image was not built: {said[-2000:]}")
    return name if not environment else derived_image(api, name, environment)


def derived_image(
    api: DockerApi, base: str, environment: Mapping[str, str], *, command: list[str] | None = None
) -> str:
    """An image like `base` with more variables, or another command."""
    mark = hashlib.sha256(json.dumps([base, sorted(environment.items()), command]).encode()).hexdigest()[:12]
    name = f"{_REPOSITORY}:derived-{mark}"
    if not _has(api, name):
        config = api.ask("GET", f"/images/{base}/json")["Config"]
        config["Env"] = [*config["Env"], *(f"{key}={value}" for key, value in environment.items())]
        config["Cmd"] = command or config["Cmd"]
        config["Labels"] = (config.get("Labels") or {}) | {"gateway-manager-test": "derived"}
        container = api.ask("POST", "/containers/create", body={"Image": base, "Cmd": ["true"]})["Id"]
        api.ask("POST", "/commit", body=config, container=container, repo=_REPOSITORY, tag=name.partition(":")[2])
        api.remove(container)
    return name


def plain_image(api: DockerApi) -> str:
    """An image that is no gateway."""
    return derived_image(api, _base(api), {}, command=["sleep", "3600"])


def remove_images(api: DockerApi) -> None:
    """Every image that this run made, the derived ones first."""
    names = [name for image in api.ask("GET", "/images/json") for name in image["RepoTags"] or ()]
    for name in sorted(names, key=lambda name: ":base-" in name):
        if name.startswith(f"{_REPOSITORY}:"):
            api.ask("DELETE", f"/images/{name}", force=1)


def _has(api: DockerApi, name: str) -> bool:
    try:
        return bool(api.ask("GET", f"/images/{name}/json"))
    except DockerApiError:
        return False


def _base(api: DockerApi) -> str:
    tag = f"base-{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    name = f"{_REPOSITORY}:{tag}"
    if not _has(api, name):
        variables = f"PATH=/{PYTHON}/bin:/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/{PYTHON}/lib"
        changes = [f"ENV {variables} PYTHONDONTWRITEBYTECODE=1"]
        query = "&".join(f"changes={change.replace(' ', '%20')}" for change in changes)
        api.ask("POST", f"/images/create?{query}&fromSrc=-&repo={_REPOSITORY}&tag={tag}", body=base_archive())
    return name


# ---------------------------------------------------------------------------------------------- archives


@functools.cache
def _context() -> bytes:
    """The build context: what the Dockerfile copies, and itself."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for place in _CONTEXT:
            for file in sorted((_ROOT / place).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    entry = archive.gettarinfo(file, arcname=str(file.relative_to(_ROOT)))
                    entry.mtime = entry.uid = entry.gid = 0
                    with file.open("rb") as content:
                        archive.addfile(entry, content)
    return buffer.getvalue()


def base_archive() -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        _add_python(archive)
        for library in _linked_libraries():
            archive.add(library, arcname=str(library).lstrip("/"))
        _add_busybox(archive)
        for zone in _ZONES:
            archive.add(f"/usr/share/zoneinfo/{zone}", arcname=f"usr/share/zoneinfo/{zone}")
        add_text(archive, "etc/passwd", "root:x:0:0::/:/bin/sh\n")
        add_text(archive, "etc/group", "root:x:0:\n")
        for directory, mode in (
            ("tmp", 0o1777),
            ("run", 0o755),
            ("proc", 0o755),
            ("dev", 0o755),
            ("usr/local/bin", 0o755),
        ):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
    return buffer.getvalue()


def _add_python(archive: tarfile.TarFile) -> None:
    """With what is compiled of its library, whose files keep their times: else each container compiles it anew."""
    base, name = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    archive.add(os.path.realpath(base / "bin" / name), arcname=f"{PYTHON}/bin/python3")
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": str(base), "base": str(base)}))

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        part = Path(entry.name).name
        if part in _LEFT_OUT or part.startswith("config-") or part.endswith((".a", ".opt-1.pyc", ".opt-2.pyc")):
            return None
        entry.uid = entry.gid = 0
        return entry

    archive.add(library, arcname=f"{PYTHON}/lib/{name}", filter=wanted)
    for shared in (base / "lib").glob(f"lib{name}*.so.*"):
        archive.add(shared, arcname=f"{PYTHON}/lib/{shared.name}")


def _linked_libraries() -> list[Path]:
    modules = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
    return linked_to([Path(sys.executable).resolve(), *modules.glob("*.so")])


def linked_to(programs: Sequence[Path]) -> list[Path]:
    """The system's libraries that these programs or modules need."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    return sorted({path for path in _paths_in(said) if not path.is_relative_to(sys.base_prefix)})


def _paths_in(ldd: str) -> Iterator[Path]:
    for line in ldd.splitlines():
        name, arrow, place = line.strip().partition(" => ")
        path = (place if arrow else name).split(" (")[0]
        if path.startswith("/") and not line.endswith(":") and Path(path).exists():
            yield Path(path)


def _add_busybox(archive: tarfile.TarFile) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        need("busybox", "apt-get install -y busybox-static")
    archive.add(busybox, arcname="bin/busybox")
    for applet in _APPLETS.split():
        entry = tarfile.TarInfo(f"bin/{applet}")
        entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(entry)


def add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text.encode())
    archive.addfile(entry, BytesIO(text.encode()))
