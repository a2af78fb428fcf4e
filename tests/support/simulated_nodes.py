"""Nodes of the tests' own cluster that run nothing: kwok says of their pods that they run and end, as fast as it is asked to.

Scheduler, controllers and API server are real. A pod takes whatever is sent to its standard input, prints the same lines as any other
pod of its role, and has an address at which nobody answers. Pods get to such nodes from a namespace of `simulated_namespace` alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from real_parts.kubernetes.parts import NODES, Parts
from spreadpilot_core.ibkr.kubernetes.naming import ROLE
from support.go_programs import SOURCES, GoProgram

PROGRAM = GoProgram("kwok", "kwok", linker_flags="-s -w")
SIMULATED = {"key": "gateway-manager-tests", "value": "simulated", "effect": "NoSchedule"}
"""Of every such node: nothing but what is meant for them gets there."""
_LABELS = {"gateway-manager-tests": "simulated"}
_KUBELET = NODES[1]
"""Whose address and certificate their kubelet has."""
_PORT = 10270
_ADDRESSES = "10.245.0.1/16"
_LEASE_SECONDS = 16


@contextlib.contextmanager
def simulated_nodes(parts: Parts, count: int, printed: Mapping[str, str]) -> Iterator[None]:
    """`count` of them for as long as this holds; from inside of the cluster's network alone.

    Args:
        parts: of the tests' own cluster.
        count: how many.
        printed: what a pod prints, by its role.
    """
    program = PROGRAM.prepared("make cluster")
    names = [f"simulated-{number}" for number in range(count)]
    with FileLock(parts.directory / "simulated.lock"), contextlib.ExitStack() as stack:
        said = parts.directory / "simulated"
        said.mkdir(exist_ok=True)
        for role, text in printed.items():
            (said / role).write_text(text)
        for part, command in _commands(parts, said).items():
            parts.start(part, str(program), *command)
            stack.callback(parts.end, part)
        for name in names:
            parts.ask("POST", "/api/v1/nodes", _node(name))
            stack.callback(parts.ask, "DELETE", f"/api/v1/nodes/{name}")
        for name in names:
            parts.wait_for("kwok", lambda name=name: parts.answers(f"/api/v1/nodes/{name}", str(_PORT).encode()))
        yield


def _commands(parts: Parts, said: Path) -> dict[str, list[str]]:
    pki, known = parts.pki, f"--kubeconfig={parts.kubeconfig}"
    server = [f"--cert={pki}/{_KUBELET.name}-server.crt", f"--key={pki}/{_KUBELET.name}-server.key"]
    pods = [f"--label={ROLE}", f"--printed={said}", f"--listen={_KUBELET.address}:{_PORT}"]
    nodes = [f"--manage-nodes-with-label-selector={'='.join(*_LABELS.items())}", f"--cidr={_ADDRESSES}"]
    nodes += [f"--node-ip={_KUBELET.address}", f"--node-port={_PORT}", "--server-address=127.0.0.1:10271"]
    nodes += [f"--node-lease-duration-seconds={_LEASE_SECONDS}", f"--config={SOURCES / 'kwok' / 'stages.yaml'}"]
    return {"kwok-kubelet": ["kubelet", known, *server, *pods], "kwok": ["kwok", known, *nodes]}


def _node(name: str) -> dict[str, object]:
    labels = {**_LABELS, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": [SIMULATED]}}


@contextlib.contextmanager
def simulated_namespace(parts: Parts, name: str) -> Iterator[None]:
    """A namespace whose pods run on simulated nodes, gone afterwards with everything in it."""
    tolerated = json.dumps([{"key": SIMULATED["key"], "operator": "Exists"}])
    annotations = {
        "scheduler.alpha.kubernetes.io/node-selector": "=".join(*_LABELS.items()),
        "scheduler.alpha.kubernetes.io/defaultTolerations": tolerated,
    }
    parts.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name, "annotations": annotations}})
    try:
        yield
    finally:
        _free(parts, name)
        parts.ask("DELETE", f"/api/v1/namespaces/{name}")


def _free(parts: Parts, namespace: str) -> None:
    """Pods that somebody left can go."""
    pods, free = f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"finalizers": None}}

    def let_go(pod: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            parts.ask("PATCH", f"{pods}/{pod['metadata']['name']}", free, kind="application/merge-patch+json")

    parts.ask("DELETE", pods, {"gracePeriodSeconds": 0})
    with ThreadPoolExecutor() as some:
        list(some.map(let_go, parts.ask("GET", pods)["items"]))
