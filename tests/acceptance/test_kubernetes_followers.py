"""Followers as objects of a real cluster, applied with kubectl; their gateways are simulated on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_parts.kubernetes.parts import API_PORT, NODES, PartError, Parts
from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from spreadpilot_core.ibkr.kubernetes.follower_objects import PLURAL, name_of
from spreadpilot_core.ibkr.kubernetes.followers import KubernetesFollowers, make
from spreadpilot_core.ibkr.kubernetes.rights import FOLLOWERS
from spreadpilot_core.ibkr.kubernetes.watching import Watch
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.service.doctor.command import checks_for
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.tasks import untold
from support.cluster_place import DEADLINE, ClusterHome, ClusterPlace, cluster_place_fixture  # noqa: F401  # a fixture
from support.command import Command
from support.documents import ROOT, fits
from support.fake_manager import a_snapshot
from support.follower_objects import ClusterFollowersUnderTest, Definition, group_of_objects_fixture  # noqa: F401  # a fixture
from support.home import Home, eventually, seen
from support.kubernetes_cluster import Cluster, may_build, own_cluster_fixture  # noqa: F401  # a fixture
from support.kubernetes_images import simulator_image
from support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.real_part("kubernetes"), may_build]

WITHIN = 60.0
PAGE = ROOT / "docs/kubernetes-in-cluster.md"


def an_object(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """As its owner has it in Git."""
    made = {"apiVersion": "spreadpilot.gateway-manager/v1", "kind": "IBGateway", "metadata": {"name": name}}
    return made | {"spec": spec}


class ObjectsHome(Home):
    """Its followers are objects of a namespace of its own."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        assert cluster.parts is not None
        self.parts: Parts = cluster.parts
        self.namespace = f"gm-ibg-{secrets.token_hex(3)}"
        self._with_login: set[str] = set()
        self.settings |= {
            "followers_url": f"kubernetes:{self.namespace}",
            "kubeconfig": str(cluster.kubeconfig),
            "removal_delay": 0.5,
        }

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What kubectl prints, for our namespace."""
        return await asyncio.to_thread(self.parts.kubectl, "--namespace", self.namespace, *arguments, stdin=stdin)

    async def apply(self, name: str, **spec: Any) -> None:
        """An enabled follower with a login."""
        if name not in self._with_login:
            await self.set_password(name)
            self._with_login.add(name)
        spec = {"vault_secret_ref": f"ibkr/{name}", "enabled": True} | spec
        await self.kubectl("apply", "-f", "-", stdin=json.dumps(an_object(name, spec)))

    async def status(self, name: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What stands below the object's `status`, once it is so."""
        said: dict[str, Any] = {}
        try:
            async with asyncio.timeout(WITHIN):
                while not is_so(said):
                    await asyncio.sleep(0.1)
                    found = json.loads(await self.kubectl("get", "ibg", name, "-o", "json"))
                    said = found.get("status", {}) | {"generation": found["metadata"]["generation"]}
        except TimeoutError:
            raise AssertionError(said) from None
        return said


@pytest.fixture(name="home")
async def home_fixture(own_cluster: Cluster) -> AsyncIterator[ObjectsHome]:
    """In the cluster's network; the chart's definition is there, and stays for whoever else uses the cluster."""
    with own_cluster.inside():
        home = ObjectsHome(own_cluster)
        await asyncio.to_thread(Definition(home.parts).make)
        await home.kubectl("create", "namespace", home.namespace)
        yield home
        await home.end()
        await home.kubectl("delete", "namespace", home.namespace, "--wait=false")


@contextlib.asynccontextmanager
async def running(home: ObjectsHome, *ready: str, **settings: object) -> AsyncIterator[GatewayManager]:
    """A manager whose gateways are ready."""
    manager = home.manager(**settings)
    await manager.start()
    try:
        await healthy(manager, *ready)
        yield manager
    finally:
        await manager.stop()


async def healthy(manager: GatewayManager, *names: str) -> None:
    def are() -> bool:
        return {*names} <= {each.follower_id for each in manager.list_gateways() if each.state is State.READY}

    await eventually(are, manager.list_gateways)


async def test_the_documented_object_becomes_a_gateway(home: ObjectsHome) -> None:
    """The page's object, and what it shows of kubectl, word for word but for the namespace."""
    page = PAGE.read_text()
    found = re.search(r'```yaml title="anna\.yaml"\n(.*?)```.*?```console\n(.*?)```', page, re.DOTALL)
    assert found is not None
    (home.directory / "anna.yaml").write_text(found[1])
    await home.set_password("anna")
    steps = re.findall(r"^\$ kubectl -n trading (.*)\n((?:(?!\$ ).*\n)*)", found[2], re.MULTILINE)
    assert len(steps) == 3
    async with running(home):
        for command, wanted in steps:
            arguments = command.replace("anna.yaml", str(home.directory / "anna.yaml")).split()
            assert fits(wanted, printed := await home.kubectl(*arguments)), printed


async def test_an_object_that_changes_is_followed_and_its_status_with_it(home: ObjectsHome) -> None:
    """Ready with an endpoint, disabled, ready again: what `status` says is of the spec whose generation it names."""
    await home.apply("anna")
    async with running(home, "anna") as manager:
        ready = await home.status("anna", lambda said: said.get("state") == "ready")
        assert ready["endpoint"] == seen(manager, "anna").endpoint
        assert (ready["mode"], ready["observedGeneration"]) == ("paper", 1)
        await home.kubectl("patch", "ibg", "anna", "--type=merge", "-p", '{"spec": {"enabled": false}}')
        disabled = await home.status("anna", lambda said: said.get("state") == "disabled")
        assert (disabled["generation"], disabled["observedGeneration"], disabled["reasonCode"]) == (2, 2, "NOT_ENABLED")
        assert "endpoint" not in disabled
        (condition,) = disabled["conditions"]
        assert (condition["status"], condition["reason"]) == ("False", "NotEnabled")
        await home.kubectl("patch", "ibg", "anna", "--type=merge", "-p", '{"spec": {"enabled": true}}')
        await home.status("anna", lambda said: said.get("state") == "ready")
        assert "anna   ready" in await home.kubectl("get", "ibg")


async def test_the_status_tells_of_the_end_too(home: ObjectsHome) -> None:
    """A manager that stops its gateways leaves none that is said to be ready, and the next one goes on from there."""
    await home.apply("anna")
    for _ in range(2):
        async with running(home, "anna"):
            await home.status("anna", lambda said: said.get("state") == "ready")
        said = await home.status("anna", bool)
        assert (said["state"], said["conditions"][0]["status"]) != ("ready", "True")
        assert "endpoint" not in said


async def test_gateways_as_pods_in_the_same_namespace(cluster_place: ClusterPlace) -> None:
    """Followers without a namespace of their own are where the gateways are; the endpoint is where bots connect."""
    place, home = cluster_place, ClusterHome(cluster_place, followers_url="kubernetes:")
    await asyncio.to_thread(Definition(place.parts).make)
    await home.set_password("anna")
    image = await asyncio.to_thread(simulator_image, place.parts, "ibcontroller")
    spec = {"vault_secret_ref": "ibkr/anna", "enabled": True, "gateway": {"image": image}}
    await place.kubectl("-n", place.namespace, "apply", "-f", "-", stdin=json.dumps(an_object("anna", spec)))
    manager = home.manager()
    await manager.start()
    try:
        ready = ("wait", "--for=condition=Ready", "ibg/anna", f"--timeout={DEADLINE:g}s")
        await place.kubectl("-n", place.namespace, *ready)
        shown = await place.kubectl("-n", place.namespace, "get", "ibg", "--no-headers")
        assert shown.split()[:4] == ["anna", "ready", "paper", seen(manager, "anna").endpoint]
    finally:
        await manager.stop()
        await home.end()
    assert await home.pods() == []


async def test_a_slip_fails_its_own_follower_and_is_named(home: ObjectsHome) -> None:
    """What the schema can know is refused when it is applied; the rest is named in the status, and the reading before it stays in force."""
    await home.apply("anna")
    await home.apply("ben")
    with pytest.raises(PartError, match=r"spec\.enabled"):
        await home.apply("cleo", enabled="yes")
    with pytest.raises(PartError, match="trading_mode"):
        await home.apply("cleo", trading_mode="real")
    with pytest.raises(PartError, match="vault_secret_ref is missing"):
        await home.apply("cleo", vault_secret_ref=None)
    with pytest.raises(PartError, match="a lowercase RFC 1123 subdomain"):
        await home.apply("follower_123")
    await home.apply("cleo", enbled=True)
    async with running(home, "anna", "ben") as manager:
        said = await home.status("cleo", lambda said: said.get("state") == "invalid")
        assert said["reason"].startswith("enbled is unknown (enabled was meant?)")
        await home.apply("ben", gateway={"time_zone": "Mars/Olympus"})
        said = await home.status("ben", lambda said: "notices" in said)
        assert "gateway.time_zone is 'Mars/Olympus'" in said["notices"][0]
        assert "What was last read of it stays in force." in said["notices"][0]
        assert manager.is_healthy("anna")
        assert manager.is_healthy("ben")
        done = await asyncio.to_thread(Command(home), "followers", "check")
        assert "cleo: enbled is unknown" in done.stdout
        assert done.returncode == 1


async def test_objects_that_are_all_gone_stop_nobody_before_an_operator_says_so(home: ObjectsHome) -> None:
    """Deleted one after the other; the one that comes back is as it was."""
    await home.apply("anna")
    await home.apply("ben")
    async with running(home, "anna", "ben") as manager:
        await home.kubectl("delete", "ibg", "--all")
        await eventually(lambda: manager.missing_followers() == ("anna", "ben"), manager.list_gateways)
        await eventually(lambda: "confirm-removals" in " ".join(seen(manager, "anna").notices), manager.list_gateways)
        assert manager.is_healthy("anna")
        await home.apply("anna")
        await home.status("anna", lambda said: said.get("state") == "ready")
        assert await manager.confirm_removals() == ("ben",)
        await eventually(lambda: all(each.follower_id != "ben" for each in manager.list_gateways()))
        assert manager.is_healthy("anna")


async def test_an_api_server_that_is_away_costs_nobody(home: ObjectsHome, tmp_path: Path) -> None:
    """It is told, everybody stays as last read, and what was changed meanwhile is found at once when it is back."""
    with TcpProxy(API_PORT, to=NODES[0].address) as way:
        kubeconfig = tmp_path / "proxied.conf"
        text = Path(home.settings["kubeconfig"]).read_text()
        kubeconfig.write_text(text.replace(f"{NODES[0].address}:{API_PORT}", f"127.0.0.1:{way.port}"))
        await home.apply("anna")
        never = {"full_comparison_interval": 3600.0}
        async with running(home, "anna", kubeconfig=str(kubeconfig), **never) as manager:
            await home.status("anna", lambda said: said.get("state") == "ready")
            way.mode = "reset"
            way.cut()
            await eventually(lambda: "can't be reached" in " ".join(manager.list_notices()), manager.list_notices)
            await home.apply("ben")
            assert manager.missing_followers() == ()
            assert manager.is_healthy("anna")
            way.mode = "pass"
            await healthy(manager, "anna", "ben")
            await home.status("ben", lambda said: said.get("state") == "ready")
            await eventually(lambda: "can't be reached" not in " ".join(manager.list_notices()), manager.list_notices)


async def test_a_definition_that_was_deleted_is_no_empty_store(own_cluster: Cluster) -> None:
    """Nor one that was never there; when it is back its objects are read again."""
    assert own_cluster.parts is not None
    with own_cluster.inside():
        definition = Definition(own_cluster.parts, f"t{secrets.token_hex(4)}.gateway-manager")
        objects = ClusterFollowersUnderTest(own_cluster, definition.group)
        store = objects.store()
        await store.open()
        try:
            with pytest.raises(StoreUnavailableError, match=r"their definition \(CRD\) is not there"):
                await store.load()
            await asyncio.to_thread(definition.make)
            await objects.put([{"id": "anna", "vault_secret_ref": "ibkr/anna"}])
            assert list((await store.load()).usable) == ["anna"]
            await asyncio.to_thread(definition.delete)
            async with asyncio.timeout(WITHIN):
                assert "their definition (CRD) is not there" in str(await away(store))
            await asyncio.to_thread(definition.make)
            await objects.put([{"id": "ben", "vault_secret_ref": "ibkr/ben"}])
            async with asyncio.timeout(WITHIN), contextlib.aclosing(store.hints()) as hints:
                async for _ in hints:
                    if list((await store.load()).usable) == ["ben"]:
                        break
        finally:
            await store.close()
            objects.close()
            await asyncio.to_thread(definition.delete)


async def test_a_watch_bears_an_object_as_big_as_they_come(own_cluster: Cluster, group_of_objects: str) -> None:
    """It tells of it and goes on, instead of breaking again and again for one follower's sake."""
    with own_cluster.inside():
        objects = ClusterFollowersUnderTest(own_cluster, group_of_objects)
        api = Api(Access(str(own_cluster.kubeconfig), namespace=objects.namespace))
        await api.open()
        try:
            watch = Watch(api, PLURAL, group=f"{group_of_objects}/v1")
            async with asyncio.timeout(WITHIN), contextlib.aclosing(watch.follow()) as changes:
                assert await anext(changes) is None
                await objects.put([{"id": "anna", "state": "x" * 1_000_000}])
                change = await anext(changes)
                assert change is not None
                assert name_of(change.thing) == "anna"
        finally:
            await api.close()
            objects.close()


async def away(store: KubernetesFollowers) -> StoreUnavailableError:
    """The API server goes on for a moment as if it were there, without an object: that is an emptied store, which stops nobody."""
    while True:
        try:
            assert not (await store.load()).usable
        except StoreUnavailableError as error:
            return error
        await asyncio.sleep(0.05)


async def test_the_least_rights_suffice_and_without_them_it_is_away(home: ObjectsHome, tmp_path: Path) -> None:
    """Listing and watching the objects, patching their status, and nothing else; each that is missing is told by the doctor."""
    await home.apply("anna")
    kubeconfig = tmp_path / "account.conf"
    config = yaml.safe_load(Path(home.settings["kubeconfig"]).read_text())
    await home.kubectl("create", "serviceaccount", "manager")
    token = (await home.kubectl("create", "token", "manager")).strip()
    config["users"][0]["user"] = {"token": token}
    kubeconfig.write_text(yaml.safe_dump(config))
    store = KubernetesFollowers(Api(Access(str(kubeconfig), namespace=home.namespace)))
    settings = Settings.read(**home.settings | {"kubeconfig": str(kubeconfig)})
    await store.open()
    try:
        with pytest.raises(StoreUnavailableError, match="The followers can't be listed in the namespace gm-ibg-"):
            await store.load()
        assert "The account may not watch ibgateways" in await doctor(settings)
        await grant(home, *(right for right in FOLLOWERS if not right.is_optional))
        async with asyncio.timeout(WITHIN), contextlib.aclosing(store.hints()) as hints:
            async for _ in hints:
                with contextlib.suppress(StoreUnavailableError):  # RBAC takes a moment to be in force
                    if list((await store.load()).usable) == ["anna"]:
                        break
        with pytest.raises(StoreUnavailableError, match="needs patch on ibgateways/status"):
            await store.write_status(a_snapshot("anna"))
        assert "The account may not patch ibgateways/status: `kubectl get ibg` does not tell" in await doctor(settings)
        await grant(home, *FOLLOWERS)
        await written(store)
        assert "The account may read the ibgateways of the namespace" in await doctor(settings)
        with pytest.raises(PartError, match="forbidden"):
            await home.kubectl("get", "ibg", "anna", f"--kubeconfig={kubeconfig}")
    finally:
        await store.close()


async def written(store: KubernetesFollowers) -> None:
    async with asyncio.timeout(WITHIN):
        while True:
            with contextlib.suppress(StoreUnavailableError):
                return await store.write_status(a_snapshot("anna"))
            await asyncio.sleep(0.1)


async def doctor(settings: Settings) -> str:
    """What the line about these rights says."""
    (check,) = (each for each in checks_for(settings) if each.name == "ibgateways")
    return " ".join(each.what for each in await check.observe(settings))


async def grant(home: ObjectsHome, *rights: Any) -> None:
    """Exactly these."""
    rules = [{"apiGroups": [each.group], "resources": [each.resource], "verbs": [each.verb]} for each in rights]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "m"}, "rules": rules}
    await home.kubectl("apply", "-f", "-", stdin=json.dumps(role))
    account = f"--serviceaccount={home.namespace}:manager"
    with contextlib.suppress(PartError):  # it is there
        await home.kubectl("create", "rolebinding", "m", "--role=m", account)


async def test_a_status_is_written_once_by_who_acts(home: ObjectsHome) -> None:
    """Not by a manager that stands by; an object that is gone is no error, and one that bears its name anew is told all."""
    acts = False
    await home.apply("anna")
    store = make(Settings.read(**home.settings), tell=untold, may_act=lambda: acts)
    await store.open()
    try:
        await store.load()
        await store.write_status(a_snapshot("anna"))
        assert await version(home) == (None, first := (await version(home))[1])
        acts = True
        await store.write_status(a_snapshot("anna"))
        state, second = await version(home)
        assert (state, second != first) == ("ready", True)
        await store.write_status(a_snapshot("anna"))
        assert await version(home) == ("ready", second)
        await home.kubectl("delete", "ibg", "anna")
        await store.write_status(a_snapshot("anna", State.QUEUED))
        await home.apply("anna")
        await store.load()
        await store.write_status(a_snapshot("anna", State.QUEUED))
        assert (await version(home))[0] == "queued"
    finally:
        await store.close()


async def version(home: ObjectsHome) -> tuple[str | None, str]:
    """What the object's status says, and which version of the object that is."""
    found = json.loads(await home.kubectl("get", "ibg", "anna", "-o", "json"))
    return found.get("status", {}).get("state"), found["metadata"]["resourceVersion"]


async def test_what_changes_followers_files_says_where_they_are(home: ObjectsHome) -> None:
    """As for every store that is not edited from here."""
    command = Command(home)
    for words in (("add", "x", "--vault-secret-ref", "ibkr/x"), ("disable", "x"), ("remove", "x", "--yes")):
        done = await asyncio.to_thread(command, "followers", *words)
        assert f"The followers are in kubernetes:{home.namespace}, which is not edited from here." in done.stderr
        assert "kubectl edit ibg" in done.stderr
        assert done.returncode != 0
    assert (await asyncio.to_thread(command, "followers", "list")).returncode == 0
