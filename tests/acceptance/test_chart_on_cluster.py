"""The chart on a real cluster: managers from their own image, logins from a real Vault-compatible server by their service account."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_parts.kubernetes.parts import PartError
from support.chart_fleet import RELEASE, ChartFleet
from support.chart_release import (  # noqa: F401  # fixtures
    FOLLOWERS,
    Release,
    fleet_fixture,
    release_fixture,
    values_of,
)
from support.helm import may_build_helm, rendered
from support.kubernetes_cluster import may_build, own_cluster_fixture  # noqa: F401  # a fixture

pytestmark = [pytest.mark.real_part("kubernetes"), may_build, may_build_helm, pytest.mark.timeout(1200)]


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
    told = await release.manager("doctor", check=False)
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
