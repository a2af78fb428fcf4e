"""A release of the chart in the tests' cluster: managers from their own image, with records and logins on real servers.

Fixtures (a test module imports them as `fleet_fixture`, `release_fixture`):

    fleet      a namespace of its own
    release    the chart's values there, beside a MongoDB-protocol server and a Vault-compatible one; nothing is installed yet
"""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import pytest

from real_parts.kubernetes.parts import API, NODES
from support.certificates import make_certificates
from support.chart_fleet import LEASE, RELEASE, ChartFleet, chart_fleet
from support.helm import CHART, HelmError, helm, values_file
from support.kubernetes_cluster import Cluster
from support.kubernetes_images import simulator_image
from support.manager_image import manager_image
from support.mongo import MongoServer
from support.tcp_proxy import TcpProxy
from support.vault import BaoServer

FOLLOWERS = ("anna", "ben")
"""Those that the records know."""
WITH_LOGIN = (*FOLLOWERS, "cleo")
WITHIN = 240.0
LEADER = f"spreadpilot.gateway-manager/leader={LEASE}"
MANAGERS = "app.kubernetes.io/name=gateway-manager"


@dataclass(frozen=True)
class Release:
    """The chart's release, and the values that it is installed with."""

    fleet: ChartFleet
    home: Path
    values: dict[str, Any]

    async def helm(self, *arguments: str) -> str:
        """In our namespace of our cluster."""
        where = {"home": self.home, "kubeconfig": self.fleet.parts.kubeconfig}
        try:
            return await asyncio.to_thread(lambda: helm(*arguments, "--namespace", self.fleet.namespace, **where))
        except HelmError as error:
            raise AssertionError(f"{error}: {await self._said()}") from None

    async def put(self, verb: str, *more: str, **changes: Any) -> None:
        """Install or upgrade, and wait until every manager is ready."""
        file = await asyncio.to_thread(values_file, self.home, self.values | changes)
        await self.helm(verb, RELEASE, str(CHART), "--values", str(file), "--wait", "--timeout", "4m", *more)

    async def leader(self) -> dict[str, Any]:
        """The one pod with the label, which the lease names too."""
        return await self.until(self._leader, "one leader")

    async def _leader(self) -> dict[str, Any] | None:
        bearers = await self.fleet.get("pods", "-l", LEADER)
        lease = json.loads(await self.fleet.kubectl("get", "lease", LEASE, "-o", "json"))
        holder = lease["spec"]["holderIdentity"].partition(":")[0]
        return bearers[0] if [each["metadata"]["name"] for each in bearers] == [holder] else None

    async def manager(self, *command: str, check: bool = True) -> str:
        """What a command beside the manager that acts prints."""
        leader = (await self.leader())["metadata"]["name"]
        return await self.fleet.kubectl("exec", leader, "--", "gateway-manager", *command, check=check)

    async def managers(self) -> dict[str, dict[str, Any]]:
        """The pods of managers that are not being ended."""
        found = await self.fleet.get("pods", "-l", MANAGERS)
        return {each["metadata"]["name"]: each for each in found if "deletionTimestamp" not in each["metadata"]}

    async def states(self) -> dict[str, str]:
        """What the manager that acts says of its gateways."""
        said = await self.manager("status", "--json", check=False)
        return {each["follower_id"]: each["state"] for each in json.loads(said or "[]")}

    async def all_ready(self, *names: str) -> dict[str, str]:
        """Wait until every follower's gateway is ready; the pods' ids."""

        async def ready() -> bool:
            return await self.states() == dict.fromkeys(names or FOLLOWERS, "ready")

        await self.until(ready, "ready gateways")
        return await self.fleet.uids()

    async def token(self) -> str:
        """A new one that may read, made beside the manager that acts."""
        return (await self.manager("tokens", "add", "t", "--role=viewer")).split()[-1]

    async def asked(self, token: str) -> dict[str, str]:
        """The same as `states`, over the Service of the API."""
        services = {each["metadata"]["name"]: each for each in await self.fleet.get("services")}
        address = f"https://{services[RELEASE]['spec']['clusterIP']}:8443/v1/gateways"

        async def answer() -> list[dict[str, Any]] | None:
            try:
                return await asyncio.to_thread(_gateways_at, address, token)
            except OSError:  # the proxy of the node follows the label in its own time
                return None

        return {each["follower_id"]: each["state"] for each in await self.until(answer, "answer of the API")}

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """What it answers, once that is something."""
        found: Any = None
        try:
            async with asyncio.timeout(WITHIN):
                while not (found := await condition()):
                    await asyncio.sleep(0.5)
        except TimeoutError:
            raise AssertionError(f"no {what}: {await self._said()}") from None
        return found

    async def _said(self) -> str:
        pods = await self.fleet.kubectl("get", "pods,leases,pvc", "-o", "wide", check=False)
        logs = await self.fleet.kubectl("logs", "-l", MANAGERS, "--tail=15", "--prefix", check=False)
        return f"\n{pods}\n{logs[-6000:]}"


@pytest.fixture(name="fleet")
async def fleet_fixture(own_cluster: Cluster) -> AsyncIterator[ChartFleet]:
    """In the cluster's network."""
    assert own_cluster.parts is not None
    with own_cluster.inside():
        async with chart_fleet(own_cluster.parts) as made:
            yield made


def values_of(fleet: ChartFleet) -> dict[str, Any]:
    """The images, and what makes a test short."""
    repository, tag = manager_image(fleet.parts, endings=("next",))
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "settings": {
            "gateway_image": simulator_image(fleet.parts, "ibcontroller"),
            "kubernetes_storage_class": "none",
            "poll_interval": 0.5,
        },
        "resources": {},
    }


@pytest.fixture(name="release")
async def release_fixture(fleet: ChartFleet, tmp_path: Path) -> AsyncIterator[Release]:
    """Beside a MongoDB-protocol server and a Vault-compatible one, at the address of the cluster's node."""
    node = NODES[0].address
    mongo, bao = MongoServer(tmp_path / "mongo"), BaoServer(tmp_path / "bao")
    await asyncio.to_thread(mongo.__enter__)
    await asyncio.to_thread(bao.__enter__)
    with TcpProxy(mongo.port, host=node) as to_mongo, TcpProxy(bao.port, host=node) as to_bao:
        await asyncio.to_thread(_fill, mongo, bao)
        await _trust(fleet, bao)
        certificates = await asyncio.to_thread(make_certificates, tmp_path)
        pair = [f"--cert={certificates.server}", f"--key={certificates.server_key}"]
        await fleet.kubectl("create", "secret", "tls", "api", *pair)
        uri = f"--from-literal=uri=mongodb://{node}:{to_mongo.port}/"
        await fleet.kubectl("create", "secret", "generic", "mongodb", uri)
        values = await asyncio.to_thread(values_of, fleet)
        stores = {"store": {"kind": "mongodb", "mongodb": {"uriSecret": {"name": "mongodb", "key": "uri"}}}}
        more = {"vault": {"address": to_bao.address}, "api": {"enabled": True, "tlsSecret": "api"}}
        yield Release(fleet, tmp_path, {**values, **stores, **more})
    await asyncio.to_thread(bao.__exit__)
    await asyncio.to_thread(mongo.__exit__)


def _fill(mongo: MongoServer, bao: BaoServer) -> None:
    with pymongo.MongoClient(mongo.uri) as client:
        client["spreadpilot"]["followers"].insert_many(
            [{"_id": each, "vault_secret_ref": f"ibkr/{each}", "enabled": True} for each in FOLLOWERS]
        )
    for each in WITH_LOGIN:
        bao.put(f"ibkr/{each}", IB_USER=f"user-{each}", IB_PASS="pass-word-of-the-test")
    bao.allow("reader", "secret/data/ibkr/*", "secret/metadata/ibkr/*")


async def _trust(fleet: ChartFleet, bao: BaoServer) -> None:
    """Vault's side: it asks the API server about tokens, and lets the manager's account in."""
    await fleet.kubectl("create", "serviceaccount", "vault")
    binding = [f"{fleet.namespace}-vault", "--clusterrole=system:auth-delegator"]
    account = f"--serviceaccount={fleet.namespace}:vault"
    await fleet.kubectl("create", "clusterrolebinding", *binding, account)
    token = (await fleet.kubectl("create", "token", "vault")).strip()
    authority = await asyncio.to_thread((fleet.parts.pki / "ca.crt").read_text)
    config = {"kubernetes_host": API, "kubernetes_ca_cert": authority, "token_reviewer_jwt": token}
    bound = {"bound_service_account_names": [RELEASE], "bound_service_account_namespaces": [fleet.namespace]}

    def write() -> None:
        bao.root.sys.enable_auth_method("kubernetes")
        bao.root.write_data("auth/kubernetes/config", data={**config, "disable_local_ca_jwt": True})
        role = {**bound, "audience": "vault", "token_policies": ["reader"]}
        bao.root.write_data("auth/kubernetes/role/gateway-manager", data=role)

    await asyncio.to_thread(write)


def _gateways_at(address: str, token: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})  # noqa: S310  # https
    trusting = ssl._create_unverified_context()  # noqa: S323  # the certificate is another address's
    with urllib.request.urlopen(request, timeout=10, context=trusting) as answer:  # noqa: S310
        found: list[dict[str, Any]] = json.loads(answer.read())
    return found
