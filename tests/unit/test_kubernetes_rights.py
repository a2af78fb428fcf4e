"""What the manager's account must be allowed to do, as the cluster is asked about it."""

from __future__ import annotations

from spreadpilot_core.ibkr.kubernetes.followers import api_of_followers
from spreadpilot_core.ibkr.kubernetes.leader_lease import lease_in_use
from spreadpilot_core.ibkr.kubernetes.rights import FOLLOWERS, needed
from spreadpilot_core.ibkr.service.doctor.command import checks_for
from spreadpilot_core.ibkr.settings import Settings


def test_a_pod_needs_no_way_from_outside_and_a_manager_with_others_needs_the_lease() -> None:
    """Each is asked for exactly where it is used; a right on one lease is asked about by its name."""
    alone, beside = needed(is_inside=False), needed(is_inside=True, lease="fleet-manager")
    assert "create pods/portforward" in map(str, alone)
    assert not any("portforward" in str(right) or right.only_outside for right in beside)
    assert not any("leases" in str(right) for right in alone)
    asked = [right.attributes("trading") for right in beside if right.resource == "leases"]
    group = {"group": "coordination.k8s.io", "resource": "leases", "namespace": "trading"}
    assert asked == [
        {"verb": "create", **group},
        {"verb": "get", **group, "name": "fleet-manager"},
        {"verb": "patch", **group, "name": "fleet-manager"},
    ]


def test_managers_agree_by_a_lease_where_there_may_be_others() -> None:
    """Shared records, or a pod that may have been deleted by force; an embedded store elsewhere has one manager."""
    assert lease_in_use(Settings.read(runtime_url="kubernetes:")) is None
    assert lease_in_use(Settings.read(runtime_url="kubernetes:", pod_name="fleet-0", container_prefix="fleet")) == (
        "fleet-manager"
    )
    shared = Settings.read(runtime_url="kubernetes:", mongo_uri="mongodb://db/", container_prefix="My_Fleet")
    assert (lease_in_use(shared) or "").endswith("-manager")


def test_who_makes_its_policy_and_budget_itself_needs_more() -> None:
    """Each right stands there once; the chart makes both, and its manager does without."""
    more = [str(right) for right in needed(is_inside=False, has_policy=True, refuses_eviction=True)]
    plain = [str(right) for right in needed(is_inside=False)]
    assert len(set(more)) == len(more)
    assert {*more} - {*plain} == {
        *(f"{verb} networkpolicies" for verb in ("get", "update")),
        *(f"{verb} poddisruptionbudgets" for verb in ("get", "create", "update")),
    }


def test_rights_on_followers_are_asked_for_where_they_are_objects_alone() -> None:
    """By a line of the doctor's own, whatever gateways run on; each is asked about with its group."""
    stored, objects = (Settings.read(runtime_url="docker:", followers_url=url) for url in (None, "kubernetes:trading"))
    assert "ibgateways" not in [check.name for check in checks_for(stored)]
    assert "ibgateways" in [check.name for check in checks_for(objects)]
    group = {"group": "spreadpilot.gateway-manager", "resource": "ibgateways", "namespace": "trading"}
    assert [right.attributes("trading") for right in FOLLOWERS] == [
        {"verb": "list", **group},
        {"verb": "watch", **group},
        {"verb": "patch", **group, "subresource": "status"},
    ]


def test_followers_without_a_namespace_are_where_the_gateways_are() -> None:
    """In the same cluster; gateways elsewhere have no namespace to share."""
    for runtime, followers, namespace in (
        ("kubernetes:gateways", "kubernetes:", "gateways"),
        ("kubernetes:gateways", "kubernetes:followers", "followers"),
        ("simulated:/somewhere", "kubernetes:", ""),
    ):
        settings = Settings.read(runtime_url=runtime, followers_url=followers)
        assert api_of_followers(settings).namespace == namespace
