"""The five commands of docs/kubernetes.md, run word for word on a real cluster: from an empty namespace to a logged-in fleet."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from real_parts.kubernetes.parts import Parts
from support.cluster_place import DEADLINE
from support.documents import ROOT, fits
from support.kubernetes_cluster import Cluster, may_build, own_cluster_fixture  # noqa: F401  # a fixture
from support.kubernetes_images import simulator_image
from support.waiting import wait_until

pytestmark = [pytest.mark.real_part("kubernetes"), may_build]

_IMAGE = "registry.example/gateway-simulator:ibcontroller"
_MARK = "=====code "


@pytest.fixture(name="directory")
def directory_fixture() -> Iterator[Path]:
    """A reader's home; its name is short, since it holds Unix sockets."""
    home = Path(tempfile.mkdtemp(prefix="gm-five-", dir="/tmp"))
    yield home
    shutil.rmtree(home)


def commands(text: str) -> list[tuple[str, str]]:
    """Those of a block, each with what it prints; what is indented goes on with the command."""
    found = re.findall(r"^\$ (.*\n(?: .*\n)*)((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
    return [(command, wanted) for command, wanted in found]


def environment(parts: Parts, home: Path) -> dict[str, str]:
    """The reader's: kubectl and the command on the PATH, and a kubeconfig."""
    programs = home / "bin"
    programs.mkdir()
    kubectl = programs / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec "{parts.program}" kubectl "$@"\n')
    kubectl.chmod(0o755)
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {"HOME": str(home), "PATH": os.pathsep.join(path), "KUBECONFIG": str(parts.kubeconfig)}


def test_five_commands_lead_from_an_empty_cluster_to_a_logged_in_fleet(own_cluster: Cluster, directory: Path) -> None:
    """Nothing is changed but the image's registry and the namespace, which other runs have too; the end leaves no pod."""
    assert own_cluster.parts is not None
    parts, namespace = own_cluster.parts, f"gm-five-{secrets.token_hex(3)}"
    text = (ROOT / "docs/kubernetes.md").read_text()
    block = re.search(r"## From an empty cluster.*?```console\n(.*?)```", text, re.DOTALL)
    assert block is not None
    steps = commands(
        re.sub(r"\btrading\b", namespace, block[1].replace(_IMAGE, simulator_image(parts, "ibcontroller")))
    )
    assert len(steps) == 5
    script = "".join(f"{command}echo {_MARK}$?\n" for command, _ in steps)
    output = directory / "output"
    with own_cluster.inside(), output.open("wb") as file:
        shell = subprocess.Popen(
            ["bash", "-c", f"{script}wait"],
            cwd=directory,
            env=environment(parts, directory),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with suppress(TimeoutError):  # what was printed until then tells more
                wait_until(lambda: output.read_text().count(_MARK) == len(steps), within=2 * DEADLINE)
            parted = re.split(rf"{_MARK}(\d+)\n", output.read_text())
            assert parted[1::2] == ["0"] * len(steps), output.read_text()
            for (command, wanted), printed in zip(steps, parted[::2], strict=False):
                assert not wanted or fits(wanted, printed), f"{command}: {printed}"
            assert pods(parts, namespace) == ["pod/ibgateway-follower-alice", "pod/ibgateway-follower-ben"]
            os.killpg(shell.pid, signal.SIGTERM)
            wait_until(lambda: pods(parts, namespace) == [], within=DEADLINE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
            parts.kubectl("delete", "namespace", namespace, "--wait=false", check=False)


def pods(parts: Parts, namespace: str) -> list[str]:
    """Their names, in order."""
    return sorted(parts.kubectl("get", "pods", "-n", namespace, "-o", "name").split())
