"""What the API server is asked to make: a gateway's pod, the claim of its settings, the probe of an image. Pure.

A gateway is a bare pod that nothing starts again: whatever restarts a container logs in again, and only the manager may. It
has no privileges, no token of a service account, bounded memory, and a place in memory for its password, which comes by standard input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from spreadpilot_core.ibkr.kubernetes import naming as marks
from spreadpilot_core.ibkr.kubernetes.naming import Naming, digest
from spreadpilot_core.ibkr.model.gateways import GatewaySpec
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.runtimes.images import SECRET_DIRECTORY, Image, memory_limit_mib
from spreadpilot_core.ibkr.runtimes.wrapper import LOGINS_LEFT_VARIABLE, WRAPPER

CONTAINER: Final = "gateway"
NO_VOLUME: Final = "none"
SETTINGS: Final = "settings"
"""The role of the claims of gateways' settings."""
STOP_SECONDS: Final = 90
"""How long whoever deletes a pod gives it; a tidy close takes ibcontroller up to 25 s."""
_PROBE_SECONDS: Final = 600
_WAITS_FOR_ITS_NODE: Final = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
    for key in ("unreachable", "not-ready")
]
"""A node that is cut off for minutes need not cost a login: the manager alone ends gateways."""
_SELF_REPORT: Final = 'id -u; id -g; printf "%s\\n" "${HOME:-}"; env'


@dataclass(frozen=True, slots=True, kw_only=True)
class PodChoices:
    """What the settings say of every pod."""

    storage_class: str | None = None
    """Of the settings' claims; None is the cluster's own choice, `none` keeps no settings."""
    storage_mib: int = 512
    access_mode: str = "ReadWriteOncePod"
    priority_class: str | None = None
    image_pull_secrets: Sequence[str] = ()
    pull_policy: str = "IfNotPresent"
    cpu: str = "250m"
    """What the scheduler keeps free for each gateway."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def keeps_settings(self) -> bool:
        """Whether a gateway's settings outlive its pod."""
        return self.storage_class != NO_VOLUME


def gateway_pod(
    image: Image, spec: GatewaySpec, client_id: int, *, naming: Naming, choices: PodChoices, version: str
) -> dict[str, Any]:
    """A gateway; no secret is in it."""
    annotations = {
        **naming.marks(spec.follower_id),
        marks.CLIENT_ID: str(client_id),
        marks.TRADING_MODE: spec.trading_mode.value,
        marks.SPEC: spec.digest,
        marks.VERSION: version,
        marks.CONTROLLER: image.contract.controller,
        marks.LAUNCH: spec.launch_id,
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }
    if image.reset_hours is not None:
        annotations[marks.RESET_HOURS] = image.reset_hours
    metadata = {
        "name": naming.pod(spec.follower_id),
        "labels": {**choices.labels, **naming.labels(spec.follower_id), **_searched_by(spec)},
        "annotations": annotations,
        "finalizers": [marks.FINALIZER],
    }
    settings: dict[str, Any] = {"emptyDir": {}}
    if choices.keeps_settings:
        claim = naming.claim(spec.follower_id, spec.trading_mode, spec.user)
        settings = {"persistentVolumeClaim": {"claimName": claim}}
    pod = {
        **_pod_spec(choices, image.uid, image.gid),
        "hostname": naming.pod(spec.follower_id),
        "terminationGracePeriodSeconds": STOP_SECONDS,
        "shareProcessNamespace": True,  # then signals reach the shell as they would any process, and orphans are buried
        "tolerations": _WAITS_FOR_ITS_NODE,
        "topologySpreadConstraints": [_SPREAD],
        "containers": [_container(image, spec, choices)],
        "volumes": [
            {"name": "secret", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "settings", **settings},
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}


def _container(image: Image, spec: GatewaySpec, choices: PodChoices) -> dict[str, Any]:
    variables = {**image.variables(spec), LOGINS_LEFT_VARIABLE: str(spec.logins_left)}
    memory = f"{memory_limit_mib(spec.options)}Mi"
    ports = [{"name": "api", "containerPort": image.contract.published_ports[spec.trading_mode]}]
    if spec.options.vnc:
        ports.append({"name": "screen", "containerPort": image.contract.screen_port})
    return {
        "name": CONTAINER,
        "image": image.reference,
        "imagePullPolicy": choices.pull_policy,
        "command": ["/bin/sh", "-c", literal(WRAPPER), "gateway-manager", literal(image.settings_path)],
        "args": [literal(word) for word in image.command],
        "env": [{"name": name, "value": literal(value)} for name, value in sorted(variables.items())],
        "stdin": True,
        "stdinOnce": True,
        "ports": ports,
        "resources": {"requests": {"memory": memory, "cpu": choices.cpu}, "limits": {"memory": memory}},
        "volumeMounts": [
            {"name": "secret", "mountPath": SECRET_DIRECTORY},
            {"name": "settings", "mountPath": image.settings_path},
        ],
        "securityContext": _LOCKED_DOWN,
    }


def _searched_by(spec: GatewaySpec) -> Mapping[str, str]:
    return {marks.ROLE: marks.GATEWAY, marks.USER: user_digest(spec.user)}


_SPREAD: Mapping[str, Any] = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "ScheduleAnyway",
    "labelSelector": {"matchLabels": {marks.ROLE: marks.GATEWAY}},
}


def literal(text: str) -> str:
    """As a pod must have it: a kubelet puts variables in place of `$(NAME)`, and one `$` in place of two."""
    return text.replace("$", "$$")


def as_meant(text: str) -> str:
    """What a literal text stands for."""
    return text.replace("$$", "$")


def settings_claim(spec: GatewaySpec, *, naming: Naming, choices: PodChoices) -> dict[str, Any]:
    """Where a gateway keeps its settings for the follower's next one."""
    said: dict[str, Any] = {
        "accessModes": [choices.access_mode],
        "resources": {"requests": {"storage": f"{choices.storage_mib}Mi"}},
    }
    if choices.storage_class is not None:
        said["storageClassName"] = choices.storage_class
    metadata = {
        "name": naming.claim(spec.follower_id, spec.trading_mode, spec.user),
        "labels": {**choices.labels, **naming.labels(spec.follower_id), marks.ROLE: SETTINGS},
        "annotations": naming.marks(spec.follower_id),
    }
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": said}


def image_probe(reference: str, token: str, *, naming: Naming, choices: PodChoices) -> dict[str, Any]:
    """A pod that prints who its image runs as and with which variables, and ends: the API tells nothing of images."""
    name, labels = f"{naming.image_probe(reference)}-{token}", {marks.ROLE: marks.PROBE}
    command = ["/bin/sh", "-c", literal(_SELF_REPORT)]
    return short_pod(name, reference, command, labels=labels, naming=naming, choices=choices)


def short_pod(
    name: str,
    reference: str,
    command: Sequence[str],
    *,
    labels: Mapping[str, str],
    naming: Naming,
    choices: PodChoices,
) -> dict[str, Any]:
    """A pod that finds something out, and ends by itself where nobody ends it."""
    container = {
        "name": CONTAINER,
        "image": reference,
        "imagePullPolicy": choices.pull_policy,
        "command": command,
        "resources": {"requests": {"memory": "16Mi", "cpu": "10m"}, "limits": {"memory": "64Mi"}},
        "securityContext": _LOCKED_DOWN,
    }
    spec = {
        **_pod_spec(choices, None, None),
        "activeDeadlineSeconds": _PROBE_SECONDS,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    metadata = {
        "name": name,
        "labels": {**choices.labels, **labels, marks.IDENTITY_DIGEST: digest(naming.identities.own)},
        "annotations": {marks.OWNER: naming.prefix, marks.IDENTITY: naming.identities.own},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


_LOCKED_DOWN: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
    "runAsNonRoot": True,
}
"""What Pod Security calls restricted; the root is written to by the images themselves."""


def _pod_spec(choices: PodChoices, uid: int | None, gid: int | None) -> dict[str, Any]:
    ours: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if uid is not None:  # the user of an image may be a name, which the kubelet can't check
        ours |= {"runAsUser": uid, "runAsGroup": gid, "fsGroup": gid, "fsGroupChangePolicy": "OnRootMismatch"}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": ours,
    }
    if choices.priority_class is not None:
        spec["priorityClassName"] = choices.priority_class
    if choices.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in choices.image_pull_secrets]
    return spec
