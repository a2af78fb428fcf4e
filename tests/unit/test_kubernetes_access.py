"""Who reaches gateways: the policy, the names, and the trial that tells whether anything enforces policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from spreadpilot_core.ibkr.errors import LaunchError, SettingsError
from spreadpilot_core.ibkr.kubernetes import policy_trial
from spreadpilot_core.ibkr.kubernetes.access_keeping import AccessKeeper
from spreadpilot_core.ibkr.kubernetes.access_rules import AccessRules, Pods, network_policy, service
from spreadpilot_core.ibkr.kubernetes.api import RefusedError
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from spreadpilot_core.ibkr.kubernetes.manifests import PodChoices
from spreadpilot_core.ibkr.kubernetes.naming import FOLLOWER_DIGEST, ROLE, Naming, labels_of
from spreadpilot_core.ibkr.kubernetes.policy_trial import Enforced, policies_enforced
from spreadpilot_core.ibkr.kubernetes.settings import access_rules_from
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.settings import Settings

ALICE = FollowerId("alice")
NAMING = Naming("fleet", Identities("own", ("adopted",)))


class MadeUpCluster:
    """What is asked of the API server here. Pods run at once; who knocks gets in unless a policy is there and enforced."""

    def __init__(self, *, enforces: bool = False, connects: bool = True, is_inside: bool = False) -> None:
        self.access = Access(None if is_inside else "config")
        self.namespace = "trading"
        self.is_open = True
        self.things: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, RefusedError] = {}
        """By what is to be made, or done."""
        self.asked: list[str] = []
        self._enforces, self._connects = enforces, connects
        self._versions = iter(range(1, 1000))

    def place(self, kind: str, name: str = "", *, group: str = "") -> str:
        """Its path, without the namespace."""
        del group
        return f"{kind}/{name}" if name else kind

    async def get(self, doing: str, path: str) -> dict[str, Any] | None:
        """What is there."""
        self.asked.append(doing)
        return self.things.get(path)

    async def ask(self, doing: str, path: str, *, query: Mapping[str, str]) -> dict[str, Any]:
        """What is there of a kind, with all of the labels that are asked for by a value."""
        self.asked.append(doing)
        if doing in self.refused:
            raise self.refused[doing]
        role, _, followers = query["labelSelector"].partition(",")
        digests = followers.partition(" in (")[2].rstrip(")").split(",")
        there = [thing for name, thing in self.things.items() if name.startswith(f"{path}/")]
        ours = [each for each in there if labels_of(each).get(ROLE) == role.partition("=")[2]]
        return {"items": [each for each in ours if labels_of(each).get(FOLLOWER_DIGEST) in digests]}

    async def create(self, doing: str, path: str, thing: Mapping[str, Any]) -> dict[str, Any]:
        """Make it, unless its kind is refused."""
        if path in self.refused:
            raise self.refused[path]
        if f"{path}/{thing['metadata']['name']}" in self.things:
            raise RefusedError(doing, 409, "AlreadyExists", "there is one")
        return await self.replace(doing, f"{path}/{thing['metadata']['name']}", thing)

    async def replace(self, doing: str, path: str, thing: Mapping[str, Any]) -> dict[str, Any]:
        """Have it there, in a new version."""
        del doing
        version = str(next(self._versions))
        made = {**thing, "metadata": {**thing["metadata"], "uid": version, "resourceVersion": version}}
        if thing["kind"] == "Pod":
            running = {"name": "gateway", "state": {"running": {}}}
            made["status"] = {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [running]}
        self.things[path] = made
        return made

    async def delete(self, doing: str, path: str, *, uid: str, grace: int | None = None) -> None:
        """Remove it."""
        del doing, grace
        assert self.things.pop(path)["metadata"]["uid"] == uid

    @asynccontextmanager
    async def stream(self, doing: str, path: str, query: Mapping[str, Any]) -> AsyncIterator[MadeUpCluster]:
        """The log of who knocks."""
        del doing, path, query
        yield self

    async def readline(self) -> bytes:
        """One more knock."""
        await asyncio.sleep(0)
        is_kept_out = self._enforces and any(path.startswith("networkpolicies/") for path in self.things)
        return b"in\n" if self._connects and not is_kept_out else b"out\n"


@pytest.mark.parametrize(
    ("cluster", "seen"),
    [
        (MadeUpCluster(enforces=True), Enforced.YES),
        (MadeUpCluster(enforces=False), Enforced.NO),
        (MadeUpCluster(connects=False), Enforced.UNKNOWN),
    ],
)
async def test_a_policy_is_enforced_where_nobody_gets_in_before_it_is_gone(
    cluster: MadeUpCluster, seen: Enforced
) -> None:
    """Who never gets in proves nothing; nothing is left of it."""
    api: Any = cluster
    found = await policies_enforced(api, "image", naming=NAMING, choices=PodChoices(), start_within=5, within=0.2)
    assert found is seen
    assert cluster.things == {}


async def test_a_trial_that_may_not_be_made_leaves_nothing() -> None:
    """The account may make policies but no pods."""
    cluster = MadeUpCluster()
    cluster.refused["pods"] = RefusedError("create", 403, "Forbidden", 'User "x" cannot create resource "pods"')
    api: Any = cluster
    with pytest.raises(LaunchError, match="may not make"):
        await policies_enforced(api, "image", naming=NAMING, choices=PodChoices(), start_within=5)
    assert cluster.things == {}
    assert policy_trial.TRIAL == "policy-trial"


def test_the_policy_lets_in_the_manager_that_acts_and_the_bots_that_are_named() -> None:
    """The manager everywhere, a bot at the API alone, each in its namespace; without either nobody."""
    settings = Settings.read(
        runtime_url="kubernetes:trading",
        container_prefix="fleet",
        pod_name="fleet-0",
        pod_namespace="managers",
        kubernetes_bots="example.com/app=bot,tier=",
        kubernetes_bots_namespace="bots",
    )
    made = network_policy(access_rules_from(settings), naming=NAMING, namespace="trading")["spec"]
    manager, bots = made["ingress"]
    (from_manager,), (from_bots,) = manager["from"], bots["from"]
    assert from_manager["podSelector"] == {"matchLabels": {"spreadpilot.gateway-manager/leader": "fleet-manager"}}
    assert from_manager["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "managers"}}
    assert from_bots["podSelector"] == {"matchLabels": {"example.com/app": "bot", "tier": ""}}
    assert "ports" not in manager
    assert bots["ports"] == [{"protocol": "TCP", "port": "api"}]
    assert len(made["podSelector"]["matchExpressions"][0]["values"]) == 2
    alone = network_policy(AccessRules(has_policy=True), naming=NAMING, namespace="trading")["spec"]
    assert (alone["policyTypes"], alone["ingress"]) == (["Ingress"], [])


@pytest.mark.parametrize("labels", ["app", "app=bot,", "app =bot", "=bot", "app=bot x"])
def test_labels_that_are_none_are_refused(labels: str) -> None:
    """Before a policy lets in nobody, or others."""
    with pytest.raises(SettingsError, match="kubernetes_bots"):
        Settings.read(kubernetes_bots=labels)


async def test_nothing_is_started_without_the_policy_that_was_asked_for() -> None:
    """Refused by the cluster, by its name's other owner, or for want of a label that names the manager."""
    denied = RefusedError("create", 403, "Forbidden", 'User "x" cannot create resource "networkpolicies"')
    cluster = MadeUpCluster()
    cluster.refused["networkpolicies"] = denied
    other = MadeUpCluster()
    other.things["networkpolicies/fleet-gateways"] = {"metadata": {"name": "fleet-gateways"}, "spec": {}}
    cases = [
        (cluster, "may not make the network policy fleet-gateways"),
        (other, "not this manager's bears the name fleet-gateways"),
        (MadeUpCluster(is_inside=True), "keep the manager from its own gateways"),
    ]
    for made_up, told in cases:
        api: Any = made_up
        with pytest.raises(LaunchError, match=told):
            await AccessKeeper(api, AccessRules(has_policy=True)).ensure(NAMING)


async def test_what_somebody_changed_is_put_right_and_what_is_right_is_left() -> None:
    """A policy about fewer pods or with more peers is no longer ours; a version that stands tells that nothing was written."""
    cluster = MadeUpCluster()
    api: Any = cluster
    keeper = AccessKeeper(api, AccessRules(has_policy=True, bots=Pods(labels={"app": "bot"}), refuses_eviction=True))
    await keeper.ensure(NAMING)
    await keeper.ensure_name(ALICE, NAMING)
    before = dict(cluster.things)
    assert sorted(before) == [
        "networkpolicies/fleet-gateways",
        "poddisruptionbudgets/fleet-gateways",
        "services/fleet-alice",
    ]
    await keeper.ensure(NAMING)
    await keeper.ensure_name(ALICE, NAMING)
    assert cluster.things == before
    policy = cluster.things["networkpolicies/fleet-gateways"]
    narrowed = {**policy["spec"]["podSelector"]["matchLabels"], "app": "nothing"}
    policy["spec"] = {**policy["spec"], "podSelector": {**policy["spec"]["podSelector"], "matchLabels": narrowed}}
    await keeper.ensure(NAMING)
    await keeper.ensure_name(ALICE, NAMING)
    assert (
        cluster.things["networkpolicies/fleet-gateways"]["spec"]
        == network_policy(AccessRules(bots=Pods(labels={"app": "bot"})), naming=NAMING, namespace="trading")["spec"]
    )


async def test_a_service_that_can_not_be_made_keeps_no_gateway_from_starting() -> None:
    """Bots that go by its name miss it; the account's rights, which the doctor asks for, tell why."""
    cluster = MadeUpCluster()
    cluster.refused["services"] = RefusedError("create", 403, "Forbidden", 'User "x" cannot create resource "services"')
    api: Any = cluster
    await AccessKeeper(api, AccessRules()).ensure_name(ALICE, NAMING)
    assert cluster.things == {}
    assert service(ALICE, naming=Naming("1st"))["metadata"]["name"] == "gw-1st-alice"


async def ensure_names(cluster: MadeUpCluster, *followers: str) -> None:
    """Of gateways that start at once."""
    api: Any = cluster
    keeper = AccessKeeper(api, AccessRules())
    await asyncio.gather(*(keeper.ensure_name(FollowerId(each), NAMING) for each in followers))


async def test_names_of_gateways_that_start_at_once_are_looked_at_together() -> None:
    """One that somebody has changed is put right, and one that is gone is made."""
    cluster = MadeUpCluster()
    await ensure_names(cluster, "alice", "ben", "carol")
    made = dict(cluster.things)
    assert len(made) == 3
    cluster.things["services/fleet-alice"] = {**made["services/fleet-alice"], "spec": {"selector": {"other": "pods"}}}
    del cluster.things["services/fleet-ben"]
    cluster.asked.clear()
    await ensure_names(cluster, "alice", "ben", "carol")
    assert {name: thing["spec"] for name, thing in cluster.things.items()} == {
        name: thing["spec"] for name, thing in made.items()
    }
    assert set(cluster.asked) == {"list services"}
    assert len(cluster.asked) <= 2


async def test_an_account_that_may_not_list_asks_for_each_by_its_name() -> None:
    """A role of before knows no better."""
    cluster = MadeUpCluster()
    cluster.refused["list services"] = RefusedError(
        "list", 403, "Forbidden", 'User "x" cannot list resource "services"'
    )
    await ensure_names(cluster, "alice", "ben")
    assert sorted(cluster.things) == ["services/fleet-alice", "services/fleet-ben"]
    assert "read the service fleet-alice" in cluster.asked


async def test_a_name_that_somebody_else_has_is_left_to_them(caplog: pytest.LogCaptureFixture) -> None:
    """It bears none of our labels, so that it is in no list."""
    cluster = MadeUpCluster()
    theirs = {"metadata": {"name": "fleet-alice", "resourceVersion": "1"}, "spec": {"selector": {"their": "pods"}}}
    cluster.things["services/fleet-alice"] = theirs
    await ensure_names(cluster, "alice")
    assert cluster.things == {"services/fleet-alice": theirs}
    assert "not this manager's bears the name fleet-alice" in caplog.text
