"""The manager's own image on a test's nodes, without a registry and without Docker: put together as deploy/Dockerfile says.

What it builds on is the running interpreter, as for the simulator's image; the packages of requirements/service.txt are those that are
installed here. Variables, user and command are read from the Dockerfile.
"""

from __future__ import annotations

import compileall
import functools
import hashlib
import importlib.metadata
import re
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from filelock import FileLock

from real_parts.kubernetes.parts import NODES, Node, Parts, docker_archive
from support.docker_images import PYTHON, add_text, base_archive, linked_to
from support.kubernetes_images import BASE_VARIABLES, instructions_of

_ROOT = Path(__file__).parents[2]
_FILE = _ROOT / "deploy" / "Dockerfile"
_PACKAGE = _ROOT / "src" / "spreadpilot_core"
_LOCK = _ROOT / "requirements" / "service.txt"
_DISTRIBUTION = "spreadpilot-gateway-manager"
REPOSITORY = "docker.io/gateway-manager-tests/gateway-manager"
_PLACE = f"{PYTHON}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
_PROGRAM = f"""#!/{PYTHON}/bin/python3
import sys
from spreadpilot_core.ibkr.service.cli import main
sys.exit(main())
"""


def manager_image(parts: Parts, *, endings: tuple[str, ...] = (), node: Node = NODES[0]) -> tuple[str, str]:
    """Repository and tag of the manager's image on this node; it is there under the tag with each of `endings` too."""
    tag = _mark()
    with FileLock(parts.directory / f"{node.name}.manager-images"):
        known = (parts.ctr(node, "images", "ls", "-q") or "").split()
        if f"{REPOSITORY}:{tag}" not in known:
            stage = instructions_of(_FILE, "")
            variables = BASE_VARIABLES | stage.variables
            config: dict[str, object] = {
                "Env": [f"{name}={value}" for name, value in variables.items()],
                "Entrypoint": stage.entrypoint,
                "Cmd": stage.command,
                "User": stage.user,
            }
            layers = [base_archive(), _packages(), _program()]
            parts.load_image(docker_archive(f"{REPOSITORY}:{tag}", layers, config), nodes=[node])
        for more in endings:
            if f"{REPOSITORY}:{tag}-{more}" not in known:
                parts.ctr(node, "images", "tag", f"{REPOSITORY}:{tag}", f"{REPOSITORY}:{tag}-{more}")
    return REPOSITORY, tag


@functools.cache
def _mark() -> str:
    """Named after what goes into it, so that it is made once for each state of the sources."""
    digest = hashlib.sha256(
        Path(__file__).read_bytes() + _FILE.read_bytes() + _LOCK.read_bytes() + sys.version.encode()
    )
    for file in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(file.relative_to(_PACKAGE)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _packages() -> bytes:
    """What the lock names and is installed here, compiled as it is, and the libraries that it is linked to."""
    buffer = BytesIO()
    libraries: list[Path] = []
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for file, place in _files():
            _add(archive, file, f"{_PLACE}/{place}")
            if ".so" in file.suffixes:
                libraries.append(file)
        for library in linked_to(libraries):
            if not library.is_relative_to(sys.prefix):
                _add(archive, library, str(library).lstrip("/"))
    return buffer.getvalue()


def _files() -> Iterator[tuple[Path, str]]:
    names = re.findall(r"^([a-z0-9][a-z0-9._-]*)==", _LOCK.read_text(), re.MULTILINE)
    for name in sorted(set(names)):
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another Python than this one
        for each in found.files or ():
            file = Path(str(found.locate_file(each)))
            if (
                ".." not in each.parts
                and "tests" not in each.parts
                and not each.match("*.opt-?.pyc")
                and file.is_file()
            ):
                yield file, str(each)


def _program() -> bytes:
    compileall.compile_dir(_PACKAGE, quiet=1)  # once here, and not at each start in a pod
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in sorted(_PACKAGE.rglob("*")):
            if file.is_file():
                _add(archive, file, f"{_PLACE}/{file.relative_to(_PACKAGE.parent)}")
        about = importlib.metadata.distribution(_DISTRIBUTION).read_text("METADATA")
        add_text(archive, f"{_PLACE}/{_DISTRIBUTION.replace('-', '_')}-0.dist-info/METADATA", about or "")
        add_text(
            archive, "etc/passwd", "root:x:0:0::/:/bin/sh\nmanager:x:10001:10001::/var/lib/gateway-manager:/bin/sh\n"
        )
        add_text(archive, "etc/group", "root:x:0:\n")
        entry = tarfile.TarInfo("usr/local/bin/gateway-manager")
        entry.size, entry.mode = len(_PROGRAM), 0o755
        archive.addfile(entry, BytesIO(_PROGRAM.encode()))
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, file: Path, place: str) -> None:
    """With its time: what is compiled of it names that."""
    entry = archive.gettarinfo(file, arcname=place)
    entry.uid = entry.gid = 0
    with file.open("rb") as content:
        archive.addfile(entry, content)
