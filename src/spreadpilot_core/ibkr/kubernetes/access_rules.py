"""Who reaches gateways and who may end them: a Service by each one's name, one NetworkPolicy and one PodDisruptionBudget for all. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from spreadpilot_core.ibkr.kubernetes.leader_label import LEADER
from spreadpilot_core.ibkr.kubernetes.naming import (
    FOLLOWER_DIGEST,
    GATEWAY,
    IDENTITY,
    IDENTITY_DIGEST,
    OWNER,
    ROLE,
    Naming,
    digest,
)
from spreadpilot_core.ibkr.model.followers import FollowerId

NETWORKING: Final = "networking.k8s.io/v1"
DISRUPTIONS: Final = "policy/v1"
SERVICE: Final = "service"
"""The role of gateways' Services."""
_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
"""The label that every namespace has from the cluster itself."""
_ANY_PORT: Final = 4002
"""A headless Service leads to the pod's own port, whatever number stands here."""
_MORE_THAN_ALL: Final = 1_000_000
"""Bare pods have no controller whose number a share could be of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """Pods by their labels, in one namespace (None: where the gateways are)."""

    labels: Mapping[str, str]
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """What the settings say of it."""

    has_policy: bool = False
    manager: Pods | None = None
    """The pod of the manager that acts; None where it is outside of the cluster, and comes through the API server."""
    bots: Pods | None = None
    refuses_eviction: bool = False


def service(follower_id: FollowerId, *, naming: Naming) -> dict[str, Any]:
    """A name in the cluster's DNS that leads to whichever pod the follower has at the moment."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": naming.service(follower_id),
            "labels": {**naming.labels(follower_id), ROLE: SERVICE},
            "annotations": naming.marks(follower_id),
        },
        "spec": {
            "clusterIP": "None",
            "selector": {
                ROLE: GATEWAY,
                FOLLOWER_DIGEST: digest(follower_id),
                IDENTITY_DIGEST: digest(naming.identities.own),
            },
            "ports": [{"name": "api", "port": _ANY_PORT, "targetPort": "api"}],
        },
    }


def network_policy(rules: AccessRules, *, naming: Naming, namespace: str) -> dict[str, Any]:
    """Lets the manager reach every port of its gateways, and bots the API; nobody else, in so far as something enforces it."""
    ingress = []
    if rules.manager is not None:
        ingress.append({"from": [_peer(rules.manager, namespace)]})
    if rules.bots is not None:
        ingress.append({"from": [_peer(rules.bots, namespace)], "ports": [{"protocol": "TCP", "port": "api"}]})
    return {
        "apiVersion": NETWORKING,
        "kind": "NetworkPolicy",
        "metadata": _metadata(naming),
        "spec": {"podSelector": _gateways(naming), "policyTypes": ["Ingress"], "ingress": ingress},
    }


def disruption_budget(*, naming: Naming) -> dict[str, Any]:
    """Refuses every eviction of a gateway, so that a drain waits until the manager was told to stop it."""
    return {
        "apiVersion": DISRUPTIONS,
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(naming),
        "spec": {"minAvailable": _MORE_THAN_ALL, "selector": _gateways(naming)},
    }


def _peer(pods: Pods, namespace: str) -> dict[str, Any]:
    where = {_NAMESPACE_NAME: pods.namespace or namespace}
    return {"namespaceSelector": {"matchLabels": where}, "podSelector": {"matchLabels": dict(pods.labels)}}


def _gateways(naming: Naming) -> dict[str, Any]:
    """Of this manager, also those that it has adopted."""
    whose = {
        "key": IDENTITY_DIGEST,
        "operator": "In",
        "values": sorted(digest(each) for each in naming.identities.all),
    }
    return {"matchLabels": {ROLE: GATEWAY}, "matchExpressions": [whose]}


def _metadata(naming: Naming) -> dict[str, Any]:
    return {
        "name": naming.gateways,
        "labels": {"app.kubernetes.io/managed-by": "gateway-manager", IDENTITY_DIGEST: digest(naming.identities.own)},
        "annotations": {OWNER: naming.prefix, IDENTITY: naming.identities.own},
    }


def manager_pods(lease: str, namespace: str | None) -> Pods:
    """The manager that acts: its pod alone bears this label."""
    return Pods(labels={LEADER: lease}, namespace=namespace)
