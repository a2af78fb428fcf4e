"""The whole chart with followers as objects, on a real cluster: two managers, gateways as pods, and kubectl, which alone says who has one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from real_parts.kubernetes.parts import PartError
from support.chart_fleet import RELEASE
from support.chart_release import FOLLOWERS, Release, fleet_fixture, release_fixture  # noqa: F401  # fixtures
from support.helm import CHART, may_build_helm
from support.kubernetes_cluster import may_build, own_cluster_fixture  # noqa: F401  # a fixture

pytestmark = [
    pytest.mark.real_part("kubernetes"),
    pytest.mark.real_part("vault"),
    may_build,
    may_build_helm,
    pytest.mark.timeout(1200),
]

REMOVAL_DELAY = 2.0


class Objects:
    """Those of one release, as their owner keeps them."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.kubectl = release.fleet.kubectl

    async def apply(self, *names: str, **spec: Any) -> None:
        """Enabled followers, in the words of their records."""
        for name in names:
            said = {"vault_secret_ref": f"ibkr/{name}", "enabled": True} | spec
            made = {"apiVersion": "spreadpilot.gateway-manager/v1", "kind": "IBGateway", "metadata": {"name": name}}
            await self.kubectl("apply", "-f", "-", stdin=json.dumps({**made, "spec": said}))

    async def status(self, name: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What stands below `status`, once it is so."""

        async def found() -> dict[str, Any] | None:
            said: dict[str, Any] = json.loads(await self.kubectl("get", "ibg", name, "-o", "json")).get("status", {})
            return said if is_so(said) else None

        so: dict[str, Any] = await self.release.until(found, f"such status of {name}")
        return so

    async def pods(self, names: set[str]) -> dict[str, str]:
        """The ids of gateways' pods, once these followers have one and nobody else has."""

        async def found() -> list[dict[str, str]]:
            there = await self.release.fleet.gateways()
            return [dict(await self.release.fleet.uids())] if there.keys() == names else []

        [uids] = await self.release.until(found, f"pods of {sorted(names)} alone")
        return dict(uids)


async def test_followers_move_into_objects_and_kubectl_says_who_has_a_gateway(release: Release) -> None:
    """The upgrade restarts none; each status tells how a gateway stands; an edit acts, and so does a deletion, by the rules for records.

    Of all objects that are gone none counts before an operator says so.
    """
    settings = {**release.values["settings"], "removal_delay": REMOVAL_DELAY}
    release = replace(release, values={**release.values, "settings": settings})
    objects, fleet = Objects(release), release.fleet
    await release.put("install")
    before = await release.all_ready()

    await objects.apply(*FOLLOWERS)
    said = ("--reuse-values", "--wait", "--timeout", "4m", "--set", "ibgateways.enabled=true")
    await release.helm("upgrade", RELEASE, str(CHART), *said)
    await objects.kubectl("wait", "--for=condition=Ready", *(f"ibg/{name}" for name in FOLLOWERS), "--timeout=4m")
    assert await release.all_ready() == before
    assert await fleet.uids() == before
    await must_tell_where_they_are(objects)
    await must_have_the_rights(release)

    await objects.apply("cleo")
    cleo = await objects.status("cleo", lambda said: said.get("state") == "ready")
    assert (cleo["observedGeneration"], cleo["mode"]) == (1, "paper")
    await objects.apply("ben", enabled=False)
    ben = await objects.status("ben", lambda said: said.get("state") == "disabled" and "endpoint" not in said)
    assert (ben["reasonCode"], ben["observedGeneration"]) == ("NOT_ENABLED", 2)
    there = await objects.pods({"anna", "cleo"})
    assert there["anna"] == before["anna"]
    await objects.apply("ben")
    await objects.status("ben", lambda said: said.get("state") == "ready")
    there = await objects.pods({"anna", "ben", "cleo"})
    assert (there["anna"], there["ben"] != before["ben"]) == (before["anna"], True)

    await objects.kubectl("delete", "ibg", "cleo")
    left = await objects.pods({"anna", "ben"})
    assert left == {name: there[name] for name in left}
    await objects.kubectl("delete", "ibg", "--all")
    await release.until(lambda: told_of_removals(release), "question about removals")
    assert await objects.pods({"anna", "ben"}) == left
    await release.manager("followers", "confirm-removals", "--yes")
    await objects.pods(set())


async def must_tell_where_they_are(objects: Objects) -> None:
    """Of both: ready, the endpoint at which bots reach the pod, and nothing to complain of."""
    pods = await objects.release.fleet.gateways()
    for name in FOLLOWERS:
        status = await objects.status(name, lambda said: said.get("state") == "ready")
        ports = {port["name"]: port["containerPort"] for port in pods[name]["spec"]["containers"][0]["ports"]}
        assert status["endpoint"] == f"{pods[name]['status']['podIP']}:{ports['api']}"
        assert [(each["type"], each["status"]) for each in status["conditions"]] == [("Ready", "True")]
        assert "reasonCode" not in status
    shown = await objects.kubectl("get", "ibg", "--no-headers")
    assert [line.split()[:3] for line in shown.splitlines()] == [[name, "ready", "paper"] for name in FOLLOWERS]


async def must_have_the_rights(release: Release) -> None:
    """The managers' account reads objects and writes their status, and no more; by the doctor's word that is enough."""
    told = await release.manager("doctor", check=False)
    assert "The account may read the ibgateways of the namespace" in told
    account = f"--as=system:serviceaccount:{release.fleet.namespace}:{RELEASE}"
    for verb, what in (("patch", "ibgateways"), ("delete", "ibgateways"), ("create", "ibgateways")):
        asked = ("auth", "can-i", verb, f"{what}.spreadpilot.gateway-manager", account)
        assert (await release.fleet.kubectl(*asked, check=False)).strip() == "no"
    with pytest.raises(PartError, match="forbidden"):
        await release.fleet.kubectl(
            "patch", "ibg", "anna", "--type=merge", "-p", '{"spec": {"enabled": false}}', account
        )


async def told_of_removals(release: Release) -> bool:
    """Whether the manager asks an operator to confirm that all are gone."""
    said = json.loads(await release.manager("status", "--json", check=False) or "[]")
    return bool(said) and all("confirm-removals" in json.dumps(each) for each in said)
