"""A real Docker Engine for tests: the one that is there, or one of our own that leaves nothing behind.

The engine of our own lives in name spaces of its own (network, mounts, processes), below a directory of its own: it meets
no other engine, and when the process that holds the name spaces dies, the kernel ends everything in them, also after
a SIGKILL of pytest. What its containers publish on loopback is published in *its* network, so a test that uses it enters that
network for as long as it runs (`inside`).

Fixtures (a test module imports them as `engine_fixture`, `own_engine_fixture`):

    engine        the engine that is there (DOCKER_HOST, /var/run/docker.sock), else `own_engine`
    own_engine    one of our own, for faults: it may be stopped, killed, started again
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.docker_http import DockerApi
from support.docker_images import remove_images
from support.real_parts import need

_NEW_NETWORK = 0x40000000
_SET_FLAGS = 0x8914  # SIOCSIFFLAGS
_UP_AND_RUNNING = 0x41
_PREFIX = "gateway-manager-engine-"
_READY_SECONDS = 60
_GROUPS_SECONDS = 5
_PROGRAMS = ("dockerd", "containerd", "docker-init", "unshare", "nsenter", "setpriv")
_HOLDER = "setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc docker-init -- sleep infinity"
_OTHER_ENGINE = "GATEWAY_MANAGER_TEST_DOCKER_HOST"
"""Set by the tests' environment from DOCKER_HOST."""
_CURE = "apt-get install -y --no-install-recommends docker.io (and run the tests as root)"


@dataclass(frozen=True)
class EngineUnderTest:
    """An engine that tests may use for what they label themselves."""

    socket: str
    own: OwnEngine | None = None

    @property
    def api(self) -> DockerApi:
        """The engine without the code under test."""
        return DockerApi(self.socket)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the network where the engine publishes ports."""
        if self.own is None:
            yield
        else:
            with self.own.inside():
                yield


def given_engine() -> DockerApi | None:
    """The engine that is there already, on this host and answering."""
    scheme, _, path = os.environ.get(_OTHER_ENGINE, "unix:///var/run/docker.sock").partition("://")
    api = DockerApi(path)
    return api if scheme == "unix" and api.is_there() else None


class OwnEngine:
    """One dockerd and its containerd in name spaces of their own."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir="/tmp"))
        self._group = f"/{self._directory.name}"
        self.socket = str(self._directory / "docker.sock")
        self.api = DockerApi(self.socket)
        self._helpers: list[subprocess.Popen[bytes]] = []
        # Dies with us (setpriv), and takes everything inside with it (unshare).
        self._holder = subprocess.Popen(_HOLDER.split())
        self._init = self._first_process()
        self._inside("mount", "-t", "tmpfs", "none", "/run")
        with self.inside():
            _bring_loopback_up()
        self._begin_containerd()

    # ------------------------------------------------------------------ what faults need

    def start(self, *options: str) -> None:
        """Start the engine and wait until it answers; `options` are dockerd's."""
        command = ["dockerd", "--containerd", str(self._directory / "containerd.sock"), "-H", f"unix://{self.socket}"]
        command += ["--data-root", str(self._directory / "data"), "--exec-root", str(self._directory / "exec")]
        command += ["--pidfile", str(self._pid_file), "--cgroup-parent", self._group, *options]
        self._spawn(command, "dockerd.log")
        deadline = time.monotonic() + _READY_SECONDS
        while not self.api.is_there():
            if time.monotonic() > deadline or self._helpers[-1].poll() is not None:
                raise RuntimeError(f"dockerd does not answer: {self._tail('dockerd.log')}")
            time.sleep(0.05)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the engine (SIGTERM ends its containers too unless it has live-restore, SIGKILL leaves them) and wait until it is gone."""
        pid = self._pid_file.read_text().strip()
        self._inside("kill", f"-{how.value}", pid)
        self._helpers.pop().wait(timeout=_READY_SECONDS)
        self._pid_file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the engine's network, with this thread and the processes it starts."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self._init}/ns/net", os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(here)
            os.close(here)
            os.close(there)

    def close(self) -> None:
        """End everything and remove every trace."""
        self._holder.kill()
        self._holder.wait()
        for helper in self._helpers:
            helper.wait(timeout=_READY_SECONDS)
        _remove_groups(self._directory.name)
        shutil.rmtree(self._directory, ignore_errors=True)

    # ------------------------------------------------------------------ inside

    @property
    def _pid_file(self) -> Path:
        return self._directory / "dockerd.pid"

    def _first_process(self) -> int:
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self._holder.poll() is None:
            found = children.read_text().split()
            if found and Path(f"/proc/{found[0]}/comm").read_text().strip() == "docker-init":
                return int(found[0])
            time.sleep(0.01)
        raise RuntimeError("name spaces can't be made here")

    def _begin_containerd(self) -> None:
        config = self._directory / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{self._directory}/containerd-root"\nstate = "{self._directory}/containerd-state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self._directory}/containerd.sock"\n'
        )
        self._spawn(["containerd", "--config", str(config)], "containerd.log")
        deadline = time.monotonic() + _READY_SECONDS
        while not (self._directory / "containerd.sock").exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"containerd does not start: {self._tail('containerd.log')}")
            time.sleep(0.02)

    def _enter_command(self) -> list[str]:
        return ["nsenter", "--target", str(self._init), "--net", "--mount", "--pid", "--"]

    def _inside(self, *command: str) -> None:
        subprocess.run([*self._enter_command(), *command], check=True)

    def _spawn(self, command: Sequence[str], log: str) -> None:
        with (self._directory / log).open("ab") as file:
            self._helpers.append(subprocess.Popen([*self._enter_command(), *command], stdout=file, stderr=file))

    def _tail(self, log: str) -> str:
        return (self._directory / log).read_text()[-2000:]


def _enter(network: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _bring_loopback_up() -> None:
    """In the network where this thread is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh", b"lo", _UP_AND_RUNNING))


def _sweep() -> None:
    """Remove what a pytest that was killed left: its engine is dead, its files and control groups are not."""
    left = {directory.name for place in ("/tmp", *_group_roots()) for directory in Path(place).glob(f"{_PREFIX}*")}
    for name in left:
        pid = name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            _remove_groups(name)
            shutil.rmtree(Path("/tmp") / name, ignore_errors=True)


def _group_roots() -> list[str]:
    """Where control groups begin: one tree, or in the older form one for each controller."""
    root = Path("/sys/fs/cgroup")
    return [str(root), *(str(tree) for tree in root.glob("*") if (tree / "tasks").exists() or tree.name == "unified")]


def _remove_groups(name: str) -> None:
    """Remove the empty control groups of an engine; the kernel may take a moment to see that they are empty."""
    deadline = time.monotonic() + _GROUPS_SECONDS
    while trees := [tree for root in _group_roots() if (tree := Path(root) / name).exists()]:
        for tree in trees:
            for directory in (*sorted((one for one in tree.rglob("*") if one.is_dir()), reverse=True), tree):
                with contextlib.suppress(OSError):
                    directory.rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


_OWN = pytest.StashKey[OwnEngine]()
_CLEANED = pytest.StashKey[bool]()


@pytest.fixture(scope="session", name="own_engine")
def own_engine_fixture(pytestconfig: pytest.Config) -> EngineUnderTest:
    """An engine of our own, started once for all test modules that ask for it, ended with the run."""
    if _OWN not in pytestconfig.stash:
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if os.geteuid() != 0 or missing:
            need("a Docker Engine", _CURE)
        _sweep()
        own = OwnEngine()
        pytestconfig.add_cleanup(own.close)
        own.start()
        pytestconfig.stash[_OWN] = own
    own = pytestconfig.stash[_OWN]
    return EngineUnderTest(own.socket, own)


@pytest.fixture(scope="session", name="engine")
def engine_fixture(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> EngineUnderTest:
    """The engine that is there, else one of our own; on the former, the images of this run are removed at its end."""
    given = given_engine()
    if given is None:
        own: EngineUnderTest = request.getfixturevalue("own_engine")
        return own
    if _CLEANED not in pytestconfig.stash:
        pytestconfig.stash[_CLEANED] = True
        pytestconfig.add_cleanup(lambda: remove_images(given))
    return EngineUnderTest(given.socket)
