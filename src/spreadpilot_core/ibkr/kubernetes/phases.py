"""What a pod waits for, how it ended, and whether its node has confirmed that: in the scheduler's and the kubelet's own words. Pure.

A pod's end counts once its node has said it: the kubelet writes a final phase only when every container has stopped. What others
write into a pod, or that its object was deleted, by force or not, proves nothing; its finalizer keeps the object until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER
from spreadpilot_core.ibkr.kubernetes.naming import COMMITTED, annotations_of
from spreadpilot_core.ibkr.model.reasons import ReasonCode

Pod = Mapping[str, Any]
OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
_FINAL: Final = ("Succeeded", "Failed")
_BY_COLLECTOR: Final = "DeletionByPodGC"
"""Why a pod is called failed by a controller that deletes what its node will never speak of again."""
_IMAGE_WAITS: Final = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_HOPELESS: Final = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_KILLED: Final = 137
_LONGEST: Final = 600


class Wait(Enum):
    """What keeps a pod from running."""

    NODE = "node"
    IMAGE = "image"
    CONTAINER = "container"
    START = "start"


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a pod waits for, in the words of whoever keeps it waiting."""

    kind: Wait
    said: str
    is_hopeless: bool = False
    """Waiting alone mends nothing."""


def container_state(pod: Pod) -> Mapping[str, Any]:
    """The state of the gateway's container: one of `waiting`, `running` and `terminated`, or nothing yet."""
    for status in _mappings(_status(pod).get("containerStatuses")):
        if status.get("name") == CONTAINER:
            return _mapping(status.get("state"))
    return {}


def is_committed(pod: Pod) -> bool:
    """Whether its password is in it, or on its way: a login may be typed at any time."""
    return COMMITTED in annotations_of(pod)


def is_running(pod: Pod) -> bool:
    """Whether its container runs, as far as its node has said."""
    return "running" in container_state(pod) and not is_final(pod)


def is_final(pod: Pod) -> bool:
    """Whether somebody has written that nothing of it runs any more; who, `is_collected` tells."""
    return _status(pod).get("phase") in _FINAL


def is_collected(pod: Pod) -> bool:
    """Whether it is called ended for its node's sake, and not by its node: a kubelet says of each container how it ended."""
    by_collector = any(each.get("reason") == _BY_COLLECTOR for each in _conditions(pod, "DisruptionTarget"))
    return is_final(pod) and (by_collector or "running" in container_state(pod))


def is_deleted(pod: Pod) -> bool:
    """Whether its end was asked for."""
    return bool(_mapping(pod.get("metadata")).get("deletionTimestamp"))


def node_of(pod: Pod) -> str:
    """Where it runs; empty while it has no place."""
    return str(_mapping(pod.get("spec")).get("nodeName") or "")


def is_confirmed_ended(pod: Pod) -> bool:
    """Whether its node has said that it ended; a pod that has no node and will get none never began."""
    if not node_of(pod):
        return is_deleted(pod)
    return is_final(pod) and not is_collected(pod)


def is_out_of_service(node: Mapping[str, Any] | None) -> bool:
    """Whether an administrator, or the cluster's provider, has said that this node's machine is off: it is gone, or tainted so."""
    if node is None:
        return True
    return any(taint.get("key") == OUT_OF_SERVICE for taint in _mappings(_mapping(node.get("spec")).get("taints")))


def node_trouble(node: Mapping[str, Any]) -> str | None:
    """Why a node can't be believed to be there, in the cluster's words; None where it can."""
    for condition in _conditions(node, "Ready"):
        if condition.get("status") == "True":
            return None
        since = str(condition.get("lastTransitionTime") or "some time")
        return f"{_cut(condition.get('message') or condition.get('reason') or 'it is not ready')} (since {since})"
    return "it has not said yet whether it is ready"


def waiting_for(pod: Pod) -> Waiting | None:
    """What keeps a pod from running; None for one that runs or has ended."""
    if is_final(pod) or "running" in container_state(pod):
        return None
    for condition in _conditions(pod, "PodScheduled"):
        if condition.get("status") != "True":
            return Waiting(
                Wait.NODE, _cut(condition.get("message") or condition.get("reason") or "no node was chosen yet")
            )
    waits = _mapping(container_state(pod).get("waiting"))
    reason, said = str(waits.get("reason") or ""), _cut(waits.get("message") or waits.get("reason") or "")
    if reason in _IMAGE_WAITS:
        return Waiting(Wait.IMAGE, said, is_hopeless=True)
    if reason == "ErrImagePull":
        return Waiting(Wait.IMAGE, said)
    if reason in _HOPELESS:
        return Waiting(Wait.CONTAINER, said, is_hopeless=True)
    return Waiting(Wait.START, said or ("its node prepares it" if node_of(pod) else "no node was chosen yet"))


def end_of(pod: Pod) -> tuple[ReasonCode | None, str | None]:
    """Why a pod ended that did not end by itself, with the sentence; nothing where its own program ended it."""
    status, terminated = _status(pod), _mapping(container_state(pod).get("terminated"))
    if terminated.get("reason") == "OOMKilled" and terminated.get("exitCode") == _KILLED:
        return ReasonCode.OUT_OF_MEMORY, (
            f"It was OOM-killed at {_memory(pod)}; java_heap_mib raises both heap and limit."
        )
    said = _cut(status.get("message") or "").rstrip(".")
    if status.get("reason") == "Evicted":
        return ReasonCode.POD_EVICTED, f"Its node {node_of(pod)} evicted it: {said}."
    for condition in _conditions(pod, "DisruptionTarget"):
        why = _cut(condition.get("message") or condition.get("reason") or "").rstrip(".")
        return ReasonCode.POD_EVICTED, f"The cluster ended it: {why}."
    if is_final(pod) and status.get("reason"):
        return ReasonCode.CONTAINER_ENDED, f"Its node {node_of(pod)} ended it ({status['reason']}): {said}."
    return None, None


def _memory(pod: Pod) -> str:
    for container in _mappings(_mapping(pod.get("spec")).get("containers")):
        return str(_mapping(_mapping(container.get("resources")).get("limits")).get("memory", "its limit"))
    return "its limit"


def _conditions(thing: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    for each in _mappings(_status(thing).get("conditions")):
        if each.get("type") == kind and (kind != "DisruptionTarget" or each.get("status") == "True"):
            yield each


def _status(thing: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(thing.get("status"))


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}


def _mappings(found: object) -> Iterator[Mapping[str, Any]]:
    for each in found if isinstance(found, list) else ():
        if isinstance(each, dict):
            yield each


def _cut(text: object) -> str:
    return " ".join(str(text).split())[:_LONGEST]
