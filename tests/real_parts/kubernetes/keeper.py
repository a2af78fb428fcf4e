"""Keeps one cluster alive for as long as anybody uses it, and takes every trace of it away afterwards.

    python -m real_parts.kubernetes.keeper DIRECTORY PROGRAM

Whoever uses the cluster holds a shared lock on `DIRECTORY/users`; the kernel lets go of it when that process ends, however it
ends. Once nobody holds one the keeper ends the cluster, and whoever comes next starts another. So all workers of a test run,
and several runs, share one, and none that was killed leaves one behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from real_parts.kubernetes.parts import NODES, PATIENCE, PartError, Parts, control_groups

READY = "ready"
"""This file says that the cluster is up."""
FAILED = "failed"
"""This one, why it did not come up."""
USERS = "users"
_TICK = 1.0
_NAME_SPACES = "setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc --"


def main(directory: Path, program: Path) -> int:
    """Start it, wait until nobody uses it, end it."""
    parts = Parts(directory, program)
    users = (directory / USERS).open("ab")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    holder = subprocess.Popen([*_NAME_SPACES.split(), str(program), "init"])
    try:
        try:
            _start(parts, holder)
        except (PartError, OSError) as fault:
            (directory / FAILED).write_text(str(fault))
            return 1
        (directory / READY).write_text(str(os.getpid()))
        _wait_until_unused(users.fileno(), holder)
        return 0
    finally:
        (directory / READY).unlink(missing_ok=True)
        holder.kill()
        holder.wait()
        _tidy(directory)
        users.close()


def _start(parts: Parts, holder: subprocess.Popen[bytes]) -> None:
    (parts.directory / "init").write_text(str(_first_process(holder)))
    parts.prepare()
    parts.start_etcd()
    parts.start_containerd(NODES[0])
    parts.start_apiserver()
    parts.wait_for("kube-apiserver", lambda: _inside(parts, "/readyz"))
    parts.start_controllers()
    parts.start_proxy()
    parts.start_kubelet(NODES[0])
    accounts = "/api/v1/namespaces/default/serviceaccounts/default"
    parts.wait_for("kube-controller-manager", lambda: _inside(parts, accounts))
    with parts.inside():
        parts.wait_for(f"kubelet-{NODES[0].name}", lambda: parts.is_ready(NODES[0]))


def _inside(parts: Parts, path: str) -> bool:
    with parts.inside():
        return parts.answers(path)


def _first_process(holder: subprocess.Popen[bytes]) -> int:
    """`init` in its own name spaces; before its `exec` it is still `unshare`."""
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and holder.poll() is None:
        found = children.read_text().split()
        if found and b"\0init" in Path(f"/proc/{found[0]}/cmdline").read_bytes():
            return int(found[0])
        time.sleep(0.01)
    msg = "name spaces can't be made here"
    raise PartError(msg)


def _wait_until_unused(users: int, holder: subprocess.Popen[bytes]) -> None:
    while holder.poll() is None:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_TICK)
        else:
            return


def _tidy(directory: Path) -> None:
    """Remove its files, but for the lock that the next one takes, and its control groups."""
    deadline = time.monotonic() + PATIENCE / 10
    while (left := [group for tree in control_groups() if (group := tree / directory.name).exists()]) and (
        time.monotonic() < deadline
    ):
        for group in left:
            for each in (*sorted((one for one in group.rglob("*") if one.is_dir()), reverse=True), group):
                with contextlib.suppress(OSError):
                    each.rmdir()
        time.sleep(0.05)
    keep = {USERS, FAILED} | ({"log"} if (directory / FAILED).exists() else set())
    for each in directory.iterdir():
        if each.name not in keep:
            shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
