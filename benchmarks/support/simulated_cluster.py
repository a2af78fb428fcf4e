"""Where `kubernetes_sizes` measures: a namespace on simulated nodes, an account in it, and an API server that counts its requests."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_parts.kubernetes.parts import NODES, Parts
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from spreadpilot_core.ibkr.kubernetes.rights import Right, needed
from support.docker_images import Generation
from support.kubernetes_images import BASE_VARIABLES, SIMULATOR, instructions_of
from support.simulated_nodes import simulated_namespace

SERVER = "kube-apiserver-counting"
PORT = 6444
ACCOUNT = "manager"
_AT_ONCE = 20
_GONE_WITHIN = 600.0


@dataclass(frozen=True)
class Stage:
    """One fleet's namespace."""

    namespace: str
    kubeconfig: Path
    """Of the account that the manager has, on the API server that counts."""
    storage_class: str
    audit: Path


def counted(audit: Path, namespace: str) -> int:
    """How many requests the namespace's account has made so far."""
    user = f'"username":"system:serviceaccount:{namespace}:{ACCOUNT}"'
    with audit.open() as lines:
        return sum(user in line for line in lines)


def printed_by_pods(generation: Generation) -> dict[str, str]:
    """What simulated pods print, by their role: a gateway that begins, and an image that tells of itself."""
    stage = instructions_of(SIMULATOR, generation)
    variables = "\n".join(f"{name}={value}" for name, value in (BASE_VARIABLES | stage.variables).items())
    home = stage.variables["HOME"]
    return {"gateway": "Starting.\n", "image-probe": f"1000\n1000\n{home}\n{variables}\n"}


@contextmanager
def counting_server(parts: Parts) -> Iterator[Path]:
    """Another API server of the cluster, asked by nobody but the accounts below; each request is a line of its audit log."""
    policy = parts.directory / "counting-policy.json"
    accounts = {"level": "Metadata", "userGroups": ["system:serviceaccounts"]}
    stages = ["ResponseStarted", "ResponseComplete", "Panic"]
    said = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": stages}
    policy.write_text(json.dumps({**said, "rules": [accounts, {"level": "None"}]}))
    parts.start_apiserver(SERVER, PORT, f"--audit-policy-file={policy}", "--endpoint-reconciler-type=none")
    try:
        ready = (f"--server={_address()}", "get", "--raw", "/readyz")
        parts.wait_for(SERVER, lambda: parts.kubectl(*ready, check=False) == "ok")
        yield parts.directory / f"{SERVER}.log"
    finally:
        parts.end(SERVER)


@contextmanager
def stage(parts: Parts, audit: Path, volumes: int) -> Iterator[Stage]:
    """A namespace with this many volumes for settings; all of it is gone afterwards, so that nothing of it is still being removed."""
    name = f"gm-bench-{secrets.token_hex(3)}"
    try:
        with simulated_namespace(parts, name):
            asyncio.run(_make_volumes(parts, name, volumes))
            yield Stage(name, _account(parts, name), name, audit)
    finally:
        deadline = time.monotonic() + _GONE_WITHIN
        while parts.answers(f"/api/v1/namespaces/{name}") and time.monotonic() < deadline:
            time.sleep(0.2)
        for kind in ("clusterroles", "clusterrolebindings"):
            parts.ask("DELETE", f"/apis/rbac.authorization.k8s.io/v1/{kind}/{name}-nodes")
        parts.ask("DELETE", f"/apis/storage.k8s.io/v1/storageclasses/{name}")
        parts.ask("DELETE", f"/api/v1/persistentvolumes?labelSelector=bench%3D{name}")


async def _make_volumes(parts: Parts, name: str, count: int) -> None:
    """Volumes are there before: who provisions them is no part of the manager."""
    api, limit = Api(Access(str(parts.kubeconfig))), asyncio.Semaphore(_AT_ONCE)
    storage = {"provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}

    async def make(number: int) -> None:
        spec = {
            "accessModes": ["ReadWriteOncePod"],
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/nowhere"},
            "storageClassName": name,
        }
        volume = {"metadata": {"name": f"{name}-{number}", "labels": {"bench": name}}, "spec": spec}
        async with limit:
            await api.create("make a volume", "/api/v1/persistentvolumes", volume)

    await api.open()
    try:
        classes = "/apis/storage.k8s.io/v1/storageclasses"
        await api.create("make a storage class", classes, {"metadata": {"name": name}, **storage})
        await asyncio.gather(*map(make, range(count)))
    finally:
        await api.close()


def _account(parts: Parts, namespace: str) -> Path:
    """A service account that may do what a manager needs, and nothing else; its kubeconfig."""
    there, rbac = f"/api/v1/namespaces/{namespace}", "/apis/rbac.authorization.k8s.io/v1"
    parts.ask("POST", f"{there}/serviceaccounts", {"metadata": {"name": ACCOUNT}})
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
    rights = needed(is_inside=False, has_policy=True)
    for kind, where, name in (
        ("Role", f"{rbac}/namespaces/{namespace}/", ACCOUNT),
        ("ClusterRole", f"{rbac}/", f"{namespace}-nodes"),
    ):
        rules = [_rule(right) for right in rights if right.in_namespace == (kind == "Role")]
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        kinds = f"{kind.lower()}s"
        parts.ask("POST", f"{where}{kinds}", {"metadata": {"name": name}, "rules": rules})
        binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
        parts.ask("POST", f"{where}{kinds[:-1]}bindings", binding)
    asked = {"spec": {"expirationSeconds": 4 * 3600}}
    token = parts.ask("POST", f"{there}/serviceaccounts/{ACCOUNT}/token", asked)["status"]["token"]
    return _kubeconfig(parts, namespace, token)


def _rule(right: Right) -> dict[str, Any]:
    return {"apiGroups": [right.group.partition("/")[0]], "resources": [right.resource], "verbs": [right.verb]}


def _kubeconfig(parts: Parts, namespace: str, token: str) -> Path:
    cluster = {"server": _address(), "certificate-authority": str(parts.pki / "ca.crt")}
    context = {"cluster": "tests", "user": ACCOUNT, "namespace": namespace}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": ACCOUNT, "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": context}],
    }
    file = parts.directory / f"{namespace}.conf"
    file.write_text(json.dumps(config))
    file.chmod(0o600)
    return file


def _address() -> str:
    return f"https://{NODES[0].address}:{PORT}"
