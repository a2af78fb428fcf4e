"""What the state of a pod means: phases, ends, confirmations and names, as the API server tells them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.kubernetes.manifests import PodChoices, as_meant, gateway_pod, literal
from spreadpilot_core.ibkr.kubernetes.naming import COMMITTED, Naming
from spreadpilot_core.ibkr.kubernetes.phases import (
    Wait,
    end_of,
    is_collected,
    is_confirmed_ended,
    is_out_of_service,
    node_trouble,
    waiting_for,
)
from spreadpilot_core.ibkr.kubernetes.pods import gateway_from
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.images import IBCONTROLLER, Image
from support.runtimes import make_spec

NAMING = Naming("ibgateway-follower", Identities("1d3nt1ty"))
IMAGE = Image(
    reference="example.org/gateway:1",
    id="1",
    contract=IBCONTROLLER,
    command=IBCONTROLLER.command,
    uid=1000,
    gid=1000,
    settings_path="/home/ibgateway/tws_settings",
)
RUNNING = {"running": {"startedAt": "2026-11-30T16:00:00Z"}}
KILLED = {"terminated": {"exitCode": 137, "reason": "Error", "startedAt": "2026-11-30T16:00:00Z"}}


def pod(
    phase: str = "Running",
    state: dict[str, Any] | None = None,
    *,
    committed: bool = True,
    node: str = "node-a",
    deleted: bool = False,
    **status: Any,
) -> dict[str, Any]:
    """A gateway's pod as the API server would have it."""
    made = gateway_pod(IMAGE, make_spec(user="us$er$$1"), 7, naming=NAMING, choices=PodChoices(), version="1")
    made["metadata"] |= {"uid": "u-1", **({"deletionTimestamp": "2026-11-30T16:00:00Z"} if deleted else {})}
    if committed:
        made["metadata"]["annotations"][COMMITTED] = "2026-11-30T16:00:00Z"
    if node:
        made["spec"]["nodeName"] = node
    statuses = [{"name": "gateway", "state": state}] if state else []
    made["status"] = {"phase": phase, "containerStatuses": statuses, **status}
    return made


@pytest.mark.parametrize(
    ("seen", "phase"),
    [
        (pod("Pending", committed=False, node=""), GatewayPhase.PENDING),
        (pod("Pending", {"waiting": {"reason": "ContainerCreating"}}, committed=False), GatewayPhase.PENDING),
        (pod("Running", RUNNING, committed=False), GatewayPhase.AWAITING_SECRET),
        (pod("Failed", KILLED, committed=False), GatewayPhase.AWAITING_SECRET),
        (pod("Running", RUNNING), GatewayPhase.RUNNING),
        (pod("Running", RUNNING, deleted=True), GatewayPhase.RUNNING),
        (pod("Running", KILLED), GatewayPhase.EXITED),
        (pod("Failed", KILLED), GatewayPhase.EXITED),
        (pod("Failed", RUNNING), GatewayPhase.RUNNING),
    ],
)
def test_a_pods_phase_is_what_may_be_typed_in_it(seen: dict[str, Any], phase: GatewayPhase) -> None:
    """Without its password nothing, whatever else; with it a login may be typed until its node says that it has ended."""
    gateway = gateway_from(seen, naming=NAMING)
    assert gateway is not None
    assert gateway.phase is phase
    assert gateway.user == "us$er$$1"
    assert (gateway.faults, gateway.is_renamed) == ((), False)


@pytest.mark.parametrize(
    ("seen", "confirmed"),
    [
        (pod("Pending", node="", deleted=True), True),
        (pod("Pending", node=""), False),
        (pod("Running", RUNNING, deleted=True), False),
        (pod("Running", KILLED, deleted=True), False),
        (pod("Failed", KILLED, deleted=True), True),
        (pod("Succeeded", {"terminated": {"exitCode": 0}}), True),
        (pod("Failed", RUNNING, deleted=True), False),
        (
            pod(
                "Failed",
                KILLED,
                conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}],
            ),
            False,
        ),
    ],
)
def test_only_its_node_confirms_an_end(seen: dict[str, Any], *, confirmed: bool) -> None:
    """A deletion, by force or not, is none; nor is what a controller writes for a node that is away."""
    assert is_confirmed_ended(seen) is confirmed


def test_a_machine_is_off_when_somebody_who_may_say_so_has_said_it() -> None:
    """Silence alone is no word."""
    silent = {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "message": "stopped posting"}]}}
    assert not is_out_of_service(silent)
    assert "stopped posting" in str(node_trouble(silent))
    assert node_trouble({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}) is None
    assert is_out_of_service({"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service"}]}})
    assert is_out_of_service(None)
    assert is_collected(pod("Failed", RUNNING))


def test_why_a_pod_ended_is_told_in_the_words_of_who_ended_it() -> None:
    """Each has its code; an end of its own has none."""
    assert end_of(pod("Failed", KILLED)) == (None, None)
    starved = pod("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    assert end_of(starved) == (
        ReasonCode.OUT_OF_MEMORY,
        "It was OOM-killed at 1024Mi; java_heap_mib raises both heap and limit.",
    )
    evicted = pod("Failed", KILLED, reason="Evicted", message="The node was low on resource: memory.")
    assert end_of(evicted) == (
        ReasonCode.POD_EVICTED,
        "Its node node-a evicted it: The node was low on resource: memory.",
    )
    drained = pod("Failed", KILLED, conditions=[{"type": "DisruptionTarget", "status": "True", "message": "preempted"}])
    assert end_of(drained) == (ReasonCode.POD_EVICTED, "The cluster ended it: preempted.")


@pytest.mark.parametrize(
    ("seen", "kind", "hopeless"),
    [
        (
            pod("Pending", node="", conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]),
            Wait.NODE,
            False,
        ),
        (pod("Pending", {"waiting": {"reason": "ErrImagePull", "message": "not found"}}), Wait.IMAGE, False),
        (pod("Pending", {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}), Wait.IMAGE, True),
        (pod("Pending", {"waiting": {"reason": "CreateContainerConfigError"}}), Wait.CONTAINER, True),
        (pod("Pending", {"waiting": {"reason": "ContainerCreating"}}), Wait.START, False),
    ],
)
def test_what_a_pod_waits_for_is_known(seen: dict[str, Any], kind: Wait, *, hopeless: bool) -> None:
    """And whether waiting mends it."""
    waits = waiting_for(seen)
    assert waits is not None
    assert (waits.kind, waits.is_hopeless) == (kind, hopeless)
    assert waits.said


@given(st.text(min_size=1, max_size=128))
def test_every_follower_has_a_name_that_a_pod_may_have(follower_id: str) -> None:
    """Also its host's name, with the longest prefix."""
    for prefix in ("ibgateway-follower", "X" * 63):
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", Naming(prefix).pod(FollowerId(follower_id)))


@given(st.text(alphabet="$()Aa1", max_size=20))
def test_a_kubelet_puts_nothing_in_place_of_a_literal_text(text: str) -> None:
    """It takes two `$` for one, and `$(NAME)` for a variable."""
    assert as_meant(literal(text)) == text
    assert not re.search(r"(?<!\$)(?:\$\$)*\$\(", literal(text))


def test_a_pod_is_locked_down_and_has_no_secret() -> None:
    """Restricted, bounded, alone, and started once."""
    spec = pod()["spec"]
    (container,) = spec["containers"]
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["resources"]["limits"] == {"memory": "1024Mi"}
    assert (container["stdin"], container["stdinOnce"]) == (True, True)
    assert {"name": "secret", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}} in spec["volumes"]
