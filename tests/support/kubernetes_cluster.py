"""A real Kubernetes cluster for tests: yours, or one of our own that all workers and runs on this machine share.

GATEWAY_MANAGER_TEST_KUBECONFIG   names another cluster, used as it is
`make cluster`                    builds our own once (see tests/real_parts/kubernetes); without it a test is skipped, and says so

Fixtures (a test module imports them as `cluster_fixture`, `own_cluster_fixture`):

    cluster        the cluster that is named, else our own; the test runs in its network, and in a namespace of its own
    own_cluster    our own, for faults: a test may end and start its parts, and must leave it whole
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from real_parts.kubernetes.build import BUILD_MINUTES, PROGRAM
from real_parts.kubernetes.keeper import FAILED, READY, USERS
from real_parts.kubernetes.parts import PATIENCE, Parts
from support.real_parts import need

_OTHER_CLUSTER = "GATEWAY_MANAGER_TEST_KUBECONFIG"
_TESTS = Path(__file__).parents[1]
_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
"""What it needs, and the Debian package that has it."""

may_build = pytest.mark.timeout(BUILD_MINUTES * 60)


@dataclass(frozen=True)
class Cluster:
    """A cluster under test."""

    kubeconfig: Path
    parts: Parts | None = None
    """Its processes, where it is our own."""

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the network where its API server and pods have addresses."""
        if self.parts is None:
            yield
        else:
            with self.parts.inside():
                yield


@contextlib.contextmanager
def own_cluster() -> Iterator[Cluster]:
    """Our own cluster, up for as long as this holds; where it can't be had, the test is skipped, and fails in CI."""
    missing = sorted({package for name, package in _PROGRAMS.items() if shutil.which(name) is None})
    if os.geteuid() != 0 or missing:
        need(
            "a Kubernetes cluster",
            f"apt-get install -y {' '.join(missing) or 'containerd'} (and run the tests as root)",
        )
    made = PROGRAM.prepared("make cluster")
    directory = Path(f"/tmp/gm-cluster-{_digest()}")  # short: it holds Unix sockets
    directory.mkdir(mode=0o700, exist_ok=True)
    with (directory / USERS).open("ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for a keeper that is tidying up
        with FileLock(directory.with_suffix(".starting")):
            if not (directory / READY).exists():
                _start(directory, made)
        parts = Parts(directory, made)
        yield Cluster(parts.kubeconfig, parts)


def _digest() -> str:
    """Two versions of the sources have two clusters."""
    content = (path.read_bytes() for path in sorted((_TESTS / "real_parts" / "kubernetes").iterdir()) if path.is_file())
    return sha256(b"".join(content)).hexdigest()[:8]


def _start(directory: Path, made: Path) -> None:
    (directory / FAILED).unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(_TESTS), "NO_PROXY": "*", "no_proxy": "*"}
    command = [sys.executable, "-m", "real_parts.kubernetes.keeper", str(directory), str(made)]
    with (directory / "keeper.log").open("ab") as log:
        keeper = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while not (directory / READY).exists():
        if (directory / FAILED).exists() or keeper.poll() is not None or time.monotonic() > deadline:
            why = (directory / FAILED).read_text() if (directory / FAILED).exists() else "it ended"
            pytest.fail(f"the Kubernetes cluster did not start ({directory}): {why}", pytrace=False)
        time.sleep(0.05)
    keeper.returncode = 0  # it outlives this process: nobody here waits for it


_OWN = pytest.StashKey[Cluster]()


@pytest.fixture(scope="session", name="own_cluster")
def own_cluster_fixture(pytestconfig: pytest.Config) -> Cluster:
    """Our own, shared by all test modules that ask for it, ended once no run uses it any more."""
    if _OWN not in pytestconfig.stash:
        stack = contextlib.ExitStack()
        pytestconfig.stash[_OWN] = stack.enter_context(own_cluster())
        pytestconfig.add_cleanup(stack.close)
    return pytestconfig.stash[_OWN]


@pytest.fixture(scope="session", name="cluster")
def cluster_fixture(request: pytest.FixtureRequest) -> Cluster:
    """The cluster that is named, else our own."""
    if given := os.environ.get(_OTHER_CLUSTER):
        return Cluster(Path(given))
    own: Cluster = request.getfixturevalue("own_cluster")
    return own


def audit_logs(parts: Parts) -> list[Path]:
    """Its files: the API server begins another one every hundred megabytes."""
    return sorted(parts.directory.glob("audit*.log"))


def audited(parts: Parts, namespace: str) -> list[Mapping[str, Any]]:
    """What the API server did for anybody in this namespace that changed something, in order."""
    mark, events = f'"namespace":"{namespace}"', []
    for file in audit_logs(parts):
        with file.open() as lines:
            events += [json.loads(line) for line in lines if mark in line]
    done = (event for event in events if event["stage"] == "ResponseComplete")
    return sorted(done, key=lambda event: str(event["requestReceivedTimestamp"]))
