"""The chart on a real cluster: managers from their own image, logins from a real Vault-compatible server by their service account."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
import pytest
import yaml

from real_parts.kubernetes.parts import API, NODES, PartError
from support.certificates import make_certificates
from support.chart_fleet import LEASE, RELEASE, ChartFleet, chart_fleet
from support.helm import CHART, HelmError, helm, may_build_helm, rendered, values_file
from support.kubernetes_cluster import Cluster, may_build, own_cluster_fixture  # noqa: F401  # a fixture
from support.kubernetes_images import simulator_image
from support.manager_image import manager_image
from support.mongo import MongoServer
from support.tcp_proxy import TcpProxy
from support.vault import BaoServer

pytestmark = [pytest.mark.real_part("kubernetes"), may_build, may_build_helm, pytest.mark.timeout(1200)]

FOLLOWERS = ("anna", "ben")
WITHIN = 240.0
LEADER = f"spreadpilot.gateway-manager/leader={LEASE}"
MANAGERS = "app.kubernetes.io/name=gateway-manager"


@dataclass(frozen=True)
class Release:
    """The chart's release, and the values that it was installed with."""

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

    async def managers(self) -> dict[str, dict[str, Any]]:
        """The pods of managers that are not being ended."""
        found = await self.fleet.get("pods", "-l", MANAGERS)
        return {each["metadata"]["name"]: each for each in found if "deletionTimestamp" not in each["metadata"]}

    async def states(self) -> dict[str, str]:
        """What the manager that acts says of its gateways."""
        leader = (await self.leader())["metadata"]["name"]
        said = await self.fleet.kubectl("exec", leader, "--", "gateway-manager", "status", "--json", check=False)
        return {each["follower_id"]: each["state"] for each in json.loads(said or "[]")}

    async def all_ready(self) -> dict[str, str]:
        """Wait until every follower's gateway is ready; the pods' ids."""

        async def ready() -> bool:
            return await self.states() == dict.fromkeys(FOLLOWERS, "ready")

        await self.until(ready, "ready gateways")
        return await self.fleet.uids()

    async def token(self) -> str:
        """A new one that may read, made beside the manager that acts."""
        leader = (await self.leader())["metadata"]["name"]
        made = await self.fleet.kubectl("exec", leader, "--", "gateway-manager", "tokens", "add", "t", "--role=viewer")
        return made.split()[-1]

    async def asked(self, token: str) -> dict[str, str]:
        """The same as `states`, over the Service of the API."""
        services = {each["metadata"]["name"]: each for each in await self.fleet.get("services")}
        address = f"https://{services[RELEASE]['spec']['clusterIP']}:8443/v1/gateways"

        async def answer() -> list[dict[str, Any]] | None:
            try:
                return await asyncio.to_thread(gateways_at, address, token)
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


@pytest.fixture
async def fleet(own_cluster: Cluster) -> AsyncIterator[ChartFleet]:
    assert own_cluster.parts is not None
    with own_cluster.inside():
        async with chart_fleet(own_cluster.parts) as made:
            yield made


def values_of(fleet: ChartFleet) -> dict[str, Any]:
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


@pytest.fixture
async def release(fleet: ChartFleet, tmp_path: Path) -> AsyncIterator[Release]:
    """Beside a MongoDB-protocol server and a Vault-compatible one, at the address of the cluster's node."""
    node = NODES[0].address
    mongo, bao = MongoServer(tmp_path / "mongo"), BaoServer(tmp_path / "bao")
    await asyncio.to_thread(mongo.__enter__)
    await asyncio.to_thread(bao.__enter__)
    with TcpProxy(mongo.port, host=node) as to_mongo, TcpProxy(bao.port, host=node) as to_bao:
        await asyncio.to_thread(fill, mongo, bao)
        await trust(fleet, bao)
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


def fill(mongo: MongoServer, bao: BaoServer) -> None:
    with pymongo.MongoClient(mongo.uri) as client:
        client["spreadpilot"]["followers"].insert_many(
            [{"_id": each, "vault_secret_ref": f"ibkr/{each}", "enabled": True} for each in FOLLOWERS]
        )
    for each in FOLLOWERS:
        bao.put(f"ibkr/{each}", IB_USER=f"user-{each}", IB_PASS="pass-word-of-the-test")
    bao.allow("reader", "secret/data/ibkr/*", "secret/metadata/ibkr/*")


async def trust(fleet: ChartFleet, bao: BaoServer) -> None:
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


def gateways_at(address: str, token: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})  # noqa: S310  # https
    trusting = ssl._create_unverified_context()  # noqa: S323  # the certificate is another address's
    with urllib.request.urlopen(request, timeout=10, context=trusting) as answer:  # noqa: S310
        found: list[dict[str, Any]] = json.loads(answer.read())
    return found


def readiness(pod: dict[str, Any]) -> tuple[int, str]:
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9464/readyz", timeout=30) as answer:
        return answer.status, json.loads(answer.read())["status"]


@pytest.mark.real_part("vault")
async def test_install_upgrade_and_rollback_restart_no_gateway(release: Release) -> None:
    """Two managers log in with what Vault gives to their account; each change of their image hands over, and no gateway ends.

    The API's Service finds the one that acts, and a token outlives the manager that made it.
    """
    fleet = release.fleet
    await release.put("install")
    before = await release.all_ready()
    first = await release.managers()
    leader = (await release.leader())["metadata"]["name"]
    said = {name: await asyncio.to_thread(readiness, pod) for name, pod in first.items()}
    assert said == {name: (200, "ready" if name == leader else "standby") for name in first}
    assert len(first) == 2
    told = await fleet.kubectl("exec", leader, "--", "gateway-manager", "doctor", check=False)
    rights = [line for line in told.splitlines() if " rights " in line]
    assert len(rights) == 1, rights
    assert "The account may do all that the manager does." in rights[0]
    token = await release.token()
    assert await release.asked(token) == dict.fromkeys(FOLLOWERS, "ready")

    await release.put("upgrade", image={**release.values["image"], "tag": f"{release.values['image']['tag']}-next"})
    assert await release.all_ready() == before
    assert await release.asked(token) == dict.fromkeys(FOLLOWERS, "ready")
    second = await release.managers()
    assert not first.keys() & second.keys()
    await release.helm("rollback", RELEASE, "1", "--wait", "--timeout", "4m")
    assert await release.all_ready() == before
    assert not second.keys() & (await release.managers()).keys()

    for verb, what in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "roles"),
        ("delete", "leases"),
        ("update", "pods"),
    ):
        account = f"--as=system:serviceaccount:{fleet.namespace}:{RELEASE}"
        assert (await fleet.kubectl("auth", "can-i", verb, what, account, check=False)).strip() == "no"
    await release.helm("uninstall", RELEASE, "--wait", "--timeout", "4m")
    assert await fleet.uids() == before
    with pytest.raises(PartError, match="NotFound"):
        await fleet.kubectl("get", "deployment", RELEASE)


@pytest.fixture
async def volume(fleet: ChartFleet, tmp_path: Path) -> AsyncIterator[None]:
    """What a storage driver would make: a directory of the node, for the one claim."""
    place = tmp_path / "volume"
    place.mkdir()
    place.chmod(0o777)
    name = f"{fleet.namespace}-state"
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(place)},
        "claimRef": {"namespace": fleet.namespace, "name": f"state-{RELEASE}-0"},
    }
    thing = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
    await fleet.kubectl("create", "-f", "-", stdin=json.dumps(thing))
    yield
    await fleet.kubectl("delete", "persistentvolume", name, "--wait=false")


@pytest.mark.usefixtures("volume")
async def test_a_manager_with_its_records_on_a_volume_is_replaced_without_a_restart(
    fleet: ChartFleet, tmp_path: Path
) -> None:
    """Followers and logins are put in by commands beside it; what the next pod finds on the volume is all that it needs."""
    values = await asyncio.to_thread(values_of, fleet)
    release = Release(fleet, tmp_path, {**values, "store": {"kind": "local"}, "replicas": 1})
    await release.put("install")
    run = ("exec", "-i", f"{RELEASE}-0", "--", "gateway-manager")
    for name in FOLLOWERS:
        login = ("credentials", "set", f"ibkr/{name}", "--username", f"user-{name}", "--password-stdin")
        await fleet.kubectl(*run, *login, stdin="pass-word-of-the-test")
        await fleet.kubectl(*run, "followers", "add", name, "--vault-secret-ref", f"ibkr/{name}")
    before = await release.all_ready()
    first = (await release.leader())["metadata"]["uid"]
    await fleet.kubectl("delete", "pod", f"{RELEASE}-0")
    assert await release.all_ready() == before
    assert (await release.leader())["metadata"]["uid"] != first
    choices = {**values["settings"], "parallel_starts": 2}
    await release.put("upgrade", settings=choices, gateways={"refuseEviction": True})
    assert await release.all_ready() == before
    shown = json.loads(await fleet.kubectl(*run, "settings", "show", "--json"))
    assert [str(each["value"]) for each in shown if each["setting"] == "parallel_starts"] == ["2"]
    await release.until(partial(is_refused, fleet), "refusal of an eviction")
    assert await fleet.uids() == before


async def is_refused(fleet: ChartFleet) -> bool:
    """Whether a gateway can't be evicted, once the cluster's controller has counted; tried without doing it."""
    name = (await fleet.gateways())[FOLLOWERS[0]]["metadata"]["name"]
    place = f"/api/v1/namespaces/{fleet.namespace}/pods/{name}/eviction"
    about = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": fleet.namespace}}
    try:
        asked = json.dumps({**about, "deleteOptions": {"dryRun": ["All"]}})
        await fleet.kubectl("create", "--raw", f"{place}?dryRun=All", "-f", "-", stdin=asked)
    except PartError as refused:
        return "disruption budget" in str(refused)
    return False


async def test_everything_that_the_chart_can_make_is_taken_by_the_api_server(fleet: ChartFleet, tmp_path: Path) -> None:
    """Every value set, by a dry run of the server; what belongs to the Prometheus Operator is not there."""
    text = await asyncio.to_thread(
        rendered, "everything", tmp_path, namespace=fleet.namespace, gateways=fleet.namespace
    )
    made = [each for each in yaml.safe_load_all(text) if each and not each["apiVersion"].startswith("monitoring.")]
    assert len(made) > 10
    for each in made:
        await fleet.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(each))
