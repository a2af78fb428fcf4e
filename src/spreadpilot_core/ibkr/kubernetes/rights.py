"""What the manager's account must be allowed to do, as few rules as they can be; `docs/kubernetes.md` has them as a role. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from spreadpilot_core.ibkr.kubernetes.follower_objects import GROUP, PLURAL


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one kind of thing."""

    verb: str
    resource: str
    without: str
    """What does not work without it, as a clause."""
    group: str = ""
    in_namespace: bool = True
    is_optional: bool = False
    only_outside: bool = False
    """Whether a manager that is a pod of the cluster does without it."""
    name: str = ""
    """Of the one thing that it is about; empty: of any."""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"

    def attributes(self, namespace: str) -> dict[str, str]:
        """As the API server is asked about it."""
        resource, _, part = self.resource.partition("/")
        said = {"verb": self.verb, "resource": resource, "group": self.group}
        if part:
            said["subresource"] = part
        if self.in_namespace:
            said["namespace"] = namespace
        name = namespace if self.resource == "namespaces" else self.name  # of no other one is anything asked
        if name:
            said["name"] = name
        return said


_FOLLOWERS: Final = "no follower is known"
FOLLOWERS: Final = (
    *(Right(verb, PLURAL, _FOLLOWERS, GROUP) for verb in ("list", "watch")),
    Right("patch", f"{PLURAL}/status", "`kubectl get ibg` does not tell how gateways stand", GROUP, is_optional=True),
)
"""In the followers' namespace, where they are objects of the cluster."""
_LEASES: Final = "coordination.k8s.io"
_NETWORKING: Final = "networking.k8s.io"
_DISRUPTIONS: Final = "policy"
_VERBS: Final = ("get", "create", "update")
_PODS: Final = "no gateway can be found, made or ended"
NEEDED: Final = (
    *(Right(verb, "pods", _PODS) for verb in ("get", "list", "watch", "create", "patch", "delete")),
    Right("get", "pods/log", "no login can be followed"),
    *(Right(verb, "pods/attach", "no gateway gets its password") for verb in ("get", "create")),
    *(Right(verb, "pods/exec", "passwords stay in memory inside their pods") for verb in ("get", "create")),
    *(
        Right(
            verb,
            "pods/portforward",
            "a manager outside of the cluster reaches no gateway",
            is_optional=True,
            only_outside=True,
        )
        for verb in ("get", "create")
    ),
    *(Right(verb, "persistentvolumeclaims", "no gateway's settings are kept") for verb in ("get", "create")),
    *(
        Right(verb, "services", "bots find no gateway by a name in the cluster's DNS", is_optional=True)
        for verb in _VERBS
    ),
    *(
        Right("list", kind, "launches that begin at once ask for each gateway's one by one", is_optional=True)
        for kind in ("persistentvolumeclaims", "services")
    ),
    *(
        Right(
            verb,
            "networkpolicies",
            "the doctor can't try whether the cluster enforces policies",
            _NETWORKING,
            is_optional=True,
        )
        for verb in ("create", "delete")
    ),
    Right("get", "namespaces", "two managers can't tell whether they see the same gateways"),
    Right("list", "events", "what keeps a volume from being mounted is not told", is_optional=True),
    Right(
        "get",
        "nodes",
        "a lost node is not told from a slow one, nor a machine that is off",
        in_namespace=False,
        is_optional=True,
    ),
)


def needed(
    *, is_inside: bool, lease: str | None = None, has_policy: bool = False, refuses_eviction: bool = False
) -> Sequence[Right]:
    """What this manager needs.

    Args:
        is_inside: whether it is a pod of the cluster.
        lease: by which it agrees with others; None: by none.
        has_policy: whether it makes the network policy of its gateways.
        refuses_eviction: whether it makes their disruption budget.

    """
    own = [right for right in NEEDED if not (is_inside and right.only_outside)]
    if has_policy:
        without = "no gateway is started, since any pod could reach it"
        own = [right for right in own if str(right) != "create networkpolicies"]
        own += [Right(verb, "networkpolicies", without, group=_NETWORKING) for verb in _VERBS]
    if refuses_eviction:
        without = "no gateway is started, since its eviction could not be refused"
        own += [Right(verb, "poddisruptionbudgets", without, group=_DISRUPTIONS) for verb in _VERBS]
    if lease is None:
        return own
    without = "managers can't agree which of them acts, so that none does"
    more = [Right(verb, "leases", without, group=_LEASES, name=lease) for verb in ("get", "patch")]
    return [*own, Right("create", "leases", without, group=_LEASES), *more]
