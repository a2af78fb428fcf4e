"""A namespace of the tests' cluster with what the chart gives a manager, and what runs there."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from real_parts.kubernetes.parts import API, NODES, Parts
from spreadpilot_core.ibkr.simulator.login_book import LOGINS
from support.helm import CHART, helm
from support.kubernetes_cluster import audited

RELEASE = "fleet"
LEASE = f"{RELEASE}-manager"
ROLE = "spreadpilot.gateway-manager/role=gateway"
FOLLOWER = "spreadpilot.gateway-manager/follower"
_FREE = '{"metadata":{"finalizers":null}}'


class ChartFleet:
    """The namespace, and its pods. From inside of the cluster's network alone."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.namespace = f"gm-chart-{secrets.token_hex(3)}"

    async def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """What kubectl prints, for our namespace."""
        said = ("--namespace", self.namespace, *arguments)
        return await asyncio.to_thread(self.parts.kubectl, *said, stdin=stdin, check=check)

    async def get(self, kind: str, *more: str) -> list[dict[str, Any]]:
        """All of a kind."""
        found: list[dict[str, Any]] = json.loads(await self.kubectl("get", kind, *more, "-o", "json"))["items"]
        return found

    async def gateways(self) -> dict[str, dict[str, Any]]:
        """The gateways' pods, by follower."""
        return {each["metadata"]["annotations"][FOLLOWER]: each for each in await self.get("pods", "-l", ROLE)}

    async def uids(self) -> dict[str, str]:
        """Of the gateways' pods that are not being ended, by follower."""
        found = await self.gateways()
        return {
            name: each["metadata"]["uid"]
            for name, each in found.items()
            if each["status"].get("phase") == "Running" and "deletionTimestamp" not in each["metadata"]
        }

    def logins(self) -> int:
        """How often a password was typed in gateways whose pods are still there, by their own books."""
        volumes = f"node-*/kubelet/pods/*/volumes/kubernetes.io~empty-dir/settings/{LOGINS}"
        return sum(len(book.read_text().splitlines()) for book in self.parts.directory.glob(volumes))

    async def kill(self, follower_id: str) -> None:
        """The gateway's first process, by its node."""
        uid = (await self.uids())[follower_id]
        await asyncio.to_thread(self._kill, uid)

    def _kill(self, uid: str) -> None:
        node = NODES[0]
        for container in (self.parts.ctr(node, "containers", "ls", "-q") or "").split():
            labels = json.loads(self.parts.ctr(node, "containers", "info", container, check=False) or "{}").get(
                "Labels"
            )
            labels = labels or {}  # another test's container may just have gone
            name = labels.get("io.kubernetes.container.name")
            if labels.get("io.kubernetes.pod.uid") == uid and name not in (None, "POD"):
                self.parts.ctr(node, "tasks", "kill", "--signal", "SIGKILL", container)

    async def account(self, name: str, directory: Path) -> Path:
        """A service account with the chart's own roles, and what a manager outside of the cluster needs more; its kubeconfig."""
        await self.kubectl("create", "serviceaccount", name)
        account = f"--serviceaccount={self.namespace}:{name}"
        for role in (RELEASE, "outside"):
            await self.kubectl("create", "rolebinding", f"{name}-{role}", f"--role={role}", account)
        token = (await self.kubectl("create", "token", name, "--duration=2h")).strip()
        cluster = {"server": API, "certificate-authority": str(self.parts.pki / "ca.crt")}
        context = {"cluster": "tests", "user": name, "namespace": self.namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": context}],
        }
        file = directory / f"{name}.conf"
        await asyncio.to_thread(file.write_text, json.dumps(config))
        return file

    async def make_roles(self, home: Path) -> None:
        """The roles of the chart, by helm."""
        shown = [f"--show-only=templates/{name}.yaml" for name in ("rbac", "serviceaccount")]
        chosen = ["--set=store.mongodb.uriSecret.name=none", "--set=rbac.readNodes=false"]
        said = ["template", RELEASE, str(CHART), "--namespace", self.namespace, *shown, *chosen]
        await self.kubectl("apply", "-f", "-", stdin=await asyncio.to_thread(lambda: helm(*said, home=home)))
        reach = ["--verb=get,create", "--resource=pods/portforward"]
        await self.kubectl("create", "role", "outside", *reach)

    def audited(self) -> Sequence[Mapping[str, Any]]:
        """What the API server did for anybody in our namespace that changed something, in order."""
        return audited(self.parts, self.namespace)


@asynccontextmanager
async def chart_fleet(parts: Parts) -> AsyncIterator[ChartFleet]:
    """A namespace, gone afterwards with everything in it."""
    fleet = ChartFleet(parts)
    await asyncio.to_thread(parts.kubectl, "create", "namespace", fleet.namespace)
    try:
        yield fleet
    finally:
        for kind in ("deployments", "statefulsets"):
            await fleet.kubectl("delete", kind, "--all", "--wait=false", check=False)
        await fleet.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false", check=False)
        for name in (await fleet.kubectl("get", "pods", "-o", "name", check=False)).split():
            await fleet.kubectl("patch", name, "--type=merge", "-p", _FREE, check=False)
        nodes = f"{fleet.namespace}-{RELEASE}-nodes"
        for kind in ("clusterrole", "clusterrolebinding"):
            await fleet.kubectl("delete", kind, nodes, "--ignore-not-found", check=False)
        await asyncio.to_thread(parts.kubectl, "delete", "namespace", fleet.namespace, "--wait=false")
