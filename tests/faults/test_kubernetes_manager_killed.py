"""The manager is killed at each step of launching gateways on a cluster; the next one mends all of it, and no follower has two pods."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from real_parts.kubernetes.parts import NODES
from spreadpilot_core.ibkr.kubernetes.naming import FOLLOWER, annotations_of
from spreadpilot_core.ibkr.kubernetes.phases import container_state, is_committed, is_running
from spreadpilot_core.ibkr.simulator.login_book import LOGINS
from support.cluster_place import DEADLINE, ClusterHome, ClusterPlace, cluster_place_fixture  # noqa: F401  # a fixture
from support.killed_manager import (
    BROKER,
    CONNECT,
    FOLLOW_LOG,
    IBKR,
    LEDGER,
    OTHER,
    VICTIM,
    Lives,
    Moment,
    live_through,
    until_settled,
)
from support.kubernetes_cluster import cluster_fixture, may_build, own_cluster_fixture  # noqa: F401  # fixtures

pytestmark = [pytest.mark.real_part("kubernetes"), may_build]

API = f"{IBKR}.kubernetes.api:Api"
RUNTIME = f"{IBKR}.kubernetes.runtime:KubernetesRuntime"
BUDGET = 8
GATEWAY_USER = 1000
MARKING = "mark the pod"


def on_its_way(doing: str, call: str, when: str, seconds: float = 0, about: str = "") -> Moment:
    """It has no gateway that is ready yet."""
    return Moment(doing, call, when, seconds, about, command=None)


RESERVING = [
    on_its_way("the cluster is reached, nothing is listed", f"{RUNTIME}.open", "after"),
    on_its_way("an image is being looked at", f"{API}.create", "after", about="an image probe"),
    on_its_way("the secret is read", f"{BROKER}.read", "after"),
    on_its_way("the login is reserved, nothing is created", f"{LEDGER}.reserve", "after"),
]
AROUND = [
    on_its_way("there is no policy yet", f"{API}.create", "before", about="the network policy"),
    on_its_way("there is a policy, and no service", f"{API}.create", "after", about="the network policy"),
    on_its_way("there is no claim yet", f"{API}.create", "before", about="the claim"),
    on_its_way("the claim is being made", f"{API}.create", "into", 0.003, about="the claim"),
    on_its_way("there is a claim", f"{API}.create", "after", about="the claim"),
]
CREATING = [
    on_its_way("there is no pod yet", f"{API}.create", "before", about="create the pod"),
    on_its_way("the pod is being made", f"{API}.create", "into", 0.003, about="create the pod"),
    on_its_way("there is a pod, and it has no place", f"{API}.create", "after", about="create the pod"),
    on_its_way("the pod runs, and waits for its password", f"{RUNTIME}._target", "after"),
    on_its_way("the login is marked as started, the pod is not", f"{LEDGER}.mark_started", "after"),
]
LOGGING_IN = [
    Moment("the password is inside", f"{BROKER}.deliver", "after"),
    Moment("the login is under way", FOLLOW_LOG, "into", 0.3),
    Moment("logged in, and not connected", CONNECT, "before"),
    Moment("logged in, its password still inside", f"{RUNTIME}.forget_secret", "before"),
]
DELIVERING = [
    Moment("the pod is marked, no password is on its way", f"{API}.patch", "after", about=MARKING, hits_running=True),
    Moment("the password is on its way", f"{BROKER}.deliver", "into", 0.02, hits_running=True),
]
"""Nobody can tell that no login was typed: what the next manager finds has until `max_startup_time`, and the pause of a failed one follows."""
STAGES = {
    "reserving": RESERVING + AROUND,
    "creating": CREATING,
    "logging in": LOGGING_IN,
}
FEW = [AROUND[-1], CREATING[1], CREATING[3], CREATING[4], LOGGING_IN[0], LOGGING_IN[1]]


class OnCluster:
    """What is looked at between two lives."""

    def __init__(self, home: ClusterHome, volumes: Path) -> None:
        self.home = home
        self._volumes = volumes

    async def running(self) -> Lives:
        """What its node says runs, and is marked: a password may be in it."""
        return {
            annotations_of(pod)[FOLLOWER]: (pod["metadata"]["uid"], container_state(pod)["running"]["startedAt"])
            for pod in await self.home.pods()
            if is_running(pod) and is_committed(pod)
        }

    async def expect_mended(self, must_run: Lives, doing: str) -> None:
        """One running pod for each follower, none started again that ran, nothing left over, and every login typed is written down."""
        home, now = self.home, await self.running()
        assert must_run.items() <= now.items(), f"restarted after: {doing}"
        assert sorted(now) == [VICTIM, OTHER], doing
        pods = (await home.place.ask("GET", home.place.pods()))["items"]
        assert len(pods) == 2, (doing, [pod["metadata"]["name"] for pod in pods])
        for pod in pods:
            await self._until_empty(pod["metadata"]["name"], doing)
        full = await until_settled(home, doing, within=DEADLINE)
        typed = self.typed()
        for follower, logins in full.items():
            assert typed[follower] <= len(logins), (doing, follower, logins)
            assert sum(each.counts for each in logins) <= BUDGET, doing

    def typed(self) -> dict[str, int]:
        """How many logins were typed for each follower, by the books in their settings, which outlive pods."""
        lines = [line for book in self._volumes.glob(f"*/{LOGINS}") for line in book.read_text().splitlines()]
        users = [json.loads(line)["user"] for line in lines]
        return {each: users.count(f"{self.home.users}{each}") for each in (VICTIM, OTHER)}

    async def _until_empty(self, pod: str, doing: str) -> None:
        """Wait until its password is removed."""
        command = ("exec", "-n", self.home.place.namespace, pod, "--", "ls", "/run/gateway-manager")
        async with asyncio.timeout(DEADLINE):
            while "password" in (said := await self.home.place.kubectl(*command)):
                assert doing, said
                await asyncio.sleep(0.2)


@pytest.fixture(name="there")
async def there_fixture(cluster_place: ClusterPlace) -> AsyncIterator[OnCluster]:
    """Two followers of both image generations, whose settings outlive their pods."""
    volumes = cluster_place.parts.directory / f"volumes-{cluster_place.namespace}"
    for number in range(2):
        await make_volume(cluster_place, volumes / str(number))
    home = ClusterHome(
        cluster_place,
        kubernetes_storage_class=cluster_place.namespace,
        kubernetes_access_mode="ReadWriteOnce",
        login_budget=BUDGET,
    )
    await home.add_on("ibc", VICTIM)
    await home.add_on("ibcontroller", OTHER)
    yield OnCluster(home, volumes)
    await home.end()
    for number in range(2):
        await cluster_place.ask("DELETE", f"/api/v1/persistentvolumes/{cluster_place.namespace}-{number}")
    await asyncio.to_thread(shutil.rmtree, volumes)


async def make_volume(place: ClusterPlace, directory: Path) -> None:
    """A directory of the node that a claim may have."""
    directory.mkdir(parents=True)
    os.chown(directory, GATEWAY_USER, GATEWAY_USER)
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODES[0].name]}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": place.namespace,
        "local": {"path": str(directory)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }
    volume = {"metadata": {"name": f"{place.namespace}-{directory.name}"}, "spec": spec}
    assert await place.ask("POST", "/api/v1/persistentvolumes", volume) is not None


def test_each_moment_is_another_one() -> None:
    """At every step of a launch."""
    moments = [*DELIVERING, *(moment for stage in STAGES.values() for moment in stage)]
    assert len({moment.doing for moment in moments}) == len(moments) >= 20


async def survives(there: OnCluster, moments: list[Moment], *, patience: float = 2 * DEADLINE) -> None:
    """Lives that end at these moments, and a last one."""
    await live_through(there.home, there, moments, patience=patience, from_nothing=moments[0].command is None)
    assert await there.home.pods() == []
    assert there.home.place.had_two() == []


async def test_killed_at_a_few_moments_of_a_launch(there: OnCluster) -> None:
    """The next start ends with one running pod for each follower, restarts no healthy one, and leaves nothing over."""
    await survives(there, FEW)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", STAGES)
async def test_killed_at_any_moment_of_a_launch(there: OnCluster, stage: str) -> None:
    """The same, at each of them; no login counts as failed."""
    await survives(there, STAGES[stage])
    assert not [
        each
        for logins in (await until_settled(there.home, stage, within=DEADLINE)).values()
        for each in logins
        if each.counts
    ]


@pytest.mark.soak
@pytest.mark.timeout(2400)
async def test_killed_while_a_password_is_on_its_way(there: OnCluster) -> None:
    """The same, and each costs one failed login at most: what may have been typed counts."""
    there.home.settings["max_startup_time"] = 60.0
    await survives(there, DELIVERING, patience=900)
    full = await until_settled(there.home, "all", within=DEADLINE)
    assert sum(each.counts for each in full[VICTIM]) <= len(DELIVERING)
    assert not [each for each in full[OTHER] if each.counts]
