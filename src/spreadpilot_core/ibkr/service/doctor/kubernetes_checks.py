"""The cluster, what the manager's account may do there, and whether it lets a gateway's pod in.

Nothing is made, but for two pods that try whether a network policy is enforced, and are gone afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

from spreadpilot_core.ibkr.errors import GatewayManagerError, LaunchError
from spreadpilot_core.ibkr.kubernetes.access_rules import (
    DISRUPTIONS,
    NETWORKING,
    disruption_budget,
    network_policy,
    service,
)
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.follower_objects import PLURAL
from spreadpilot_core.ibkr.kubernetes.followers import api_of_followers
from spreadpilot_core.ibkr.kubernetes.leader_lease import lease_in_use
from spreadpilot_core.ibkr.kubernetes.manifests import gateway_pod, settings_claim
from spreadpilot_core.ibkr.kubernetes.naming import Naming
from spreadpilot_core.ibkr.kubernetes.policy_trial import Enforced, policies_enforced
from spreadpilot_core.ibkr.kubernetes.reader import kubernetes_reader
from spreadpilot_core.ibkr.kubernetes.refusals import refusal_of
from spreadpilot_core.ibkr.kubernetes.rights import FOLLOWERS, Right, needed
from spreadpilot_core.ibkr.kubernetes.settings import access_rules_from, choices_from
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import GatewaySpec
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.images import IBCONTROLLER, Image
from spreadpilot_core.ibkr.service.doctor.findings import Check, Finding, ok, problem, raised, warning
from spreadpilot_core.ibkr.settings import Settings

_DRY: Final = {"dryRun": "All"}
_STORAGE: Final = "storage.k8s.io/v1"
_DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"


@asynccontextmanager
async def _api(settings: Settings) -> AsyncIterator[Api]:
    async with kubernetes_reader(settings) as reached:
        yield reached.api


async def cluster(settings: Settings) -> Sequence[Finding]:
    """Reachable, and the credentials are taken."""
    async with _api(settings) as api:
        version = await api.ask("say its version", "/version")
        return [
            ok(f"Kubernetes {version.get('gitVersion')} at {api.server}, namespace {api.namespace}, as {api.access}.")
        ]


async def rights(settings: Settings) -> Sequence[Finding]:
    """Each right that the manager needs, asked of the cluster itself."""
    try:
        async with _api(settings) as api:
            asked = needed(
                is_inside=api.access.is_inside,
                lease=lease_in_use(settings),
                has_policy=settings.kubernetes_network_policy,
                refuses_eviction=settings.kubernetes_refuse_eviction,
            )
            return await _granted(api, asked, "The account may do all that the manager does.")
    except GatewayManagerError:  # the cluster's own line tells why
        return [warning("The account's rights are not known while the cluster can't be used.")]


async def follower_rights(settings: Settings) -> Sequence[Finding]:
    """The same of followers that are objects of a cluster."""
    api = api_of_followers(settings)
    try:
        await api.open()
        return await _granted(
            api,
            FOLLOWERS,
            f"The account may read the {PLURAL} of the namespace {api.namespace}, and write their status.",
        )
    finally:
        await api.close()


async def _granted(api: Api, asked: Sequence[Right], all_of_them: str) -> Sequence[Finding]:
    allowed = await asyncio.gather(*(_is_allowed(api, right) for right in asked))
    missing = [right for right, granted in zip(asked, allowed, strict=True) if not granted]
    if not missing:
        return [ok(all_of_them)]
    return [
        (warning if right.is_optional else problem)(
            f"The account may not {right}: {right.without}.", "docs/kubernetes.md has the role."
        )
        for right in missing
    ]


async def _is_allowed(api: Api, right: Right) -> bool:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": right.attributes(api.namespace)},
    }
    found = await api.create(
        "say what the account may do", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review
    )
    return bool((found.get("status") or {}).get("allowed"))


async def pod(settings: Settings) -> Sequence[Finding]:
    """A gateway's pod, tried and not made: admission, Pod Security and quota have their say."""
    try:
        async with _api(settings) as api:
            return await _tried(api, settings)
    except GatewayManagerError:  # the cluster's own line tells why
        return [warning("Whether the cluster lets a gateway in is not known while it can't be used.")]


async def _tried(api: Api, settings: Settings) -> Sequence[Finding]:
    choices, naming = choices_from(settings), Naming(settings.container_prefix, Identities("doctor"))
    spec = GatewaySpec(
        follower_id=FollowerId("doctor"),
        trading_mode=TradingMode.PAPER,
        options=settings.gateway_options,
        digest="doctor",
        user="doctor",
    )
    image = Image(
        reference=settings.gateway_image,
        id=settings.gateway_image,
        contract=IBCONTROLLER,
        command=IBCONTROLLER.command,
        uid=1000,
        gid=1000,
        settings_path="/home/ibgateway/tws_settings",
    )
    manifest = gateway_pod(image, spec, 1, naming=naming, choices=choices, version="0")
    findings = [await _dry(api, "pods", manifest, "a gateway's pod")]
    if choices.keeps_settings:
        findings.append(
            await _dry(api, "persistentvolumeclaims", settings_claim(spec, naming=naming, choices=choices), "its claim")
        )
    findings.append(await _dry(api, "services", service(spec.follower_id, naming=naming), "its service"))
    rules = access_rules_from(settings)
    if rules.has_policy:
        policy = network_policy(rules, naming=naming, namespace=api.namespace)
        findings.append(await _dry(api, "networkpolicies", _renamed(policy), "the network policy", NETWORKING))
    if rules.refuses_eviction:
        budget = _renamed(disruption_budget(naming=naming))
        findings.append(await _dry(api, "poddisruptionbudgets", budget, "the disruption budget", DISRUPTIONS))
    return findings


def _renamed(thing: dict[str, Any]) -> dict[str, Any]:
    """The manager's own may be there."""
    return {**thing, "metadata": {**thing["metadata"], "name": f"{thing['metadata']['name']}-doctor"}}


async def _dry(api: Api, kind: str, manifest: Mapping[str, Any], what: str, group: str = "") -> Finding:
    try:
        await api.create(f"try {what}", api.place(kind, group=group), manifest, query=_DRY)
    except RefusedError as refused:
        return raised(refusal_of(refused, what))
    return ok(f"The cluster lets {what} in (tried, not made).")


async def storage(settings: Settings) -> Sequence[Finding]:
    """Where the gateways' settings are kept."""
    wanted = settings.kubernetes_storage_class
    if not choices_from(settings).keeps_settings:
        return [
            warning(
                "kubernetes_storage_class is none: a gateway's settings are lost with its pod, its window layout with them."
            )
        ]
    try:
        async with _api(settings) as api:
            found = await api.ask("list storage classes", f"/apis/{_STORAGE}/storageclasses")
    except LaunchError:  # it need not be allowed to read them
        return [ok("The storage classes are not for this account to read; the first claim tells.")]
    except GatewayManagerError:  # the cluster's own line tells why
        return [warning("The storage classes are not known while the cluster can't be used.")]
    classes = {each["metadata"]["name"]: each["metadata"].get("annotations") or {} for each in found.get("items") or ()}
    defaults = [name for name, said in classes.items() if said.get(_DEFAULT_CLASS) == "true"]
    if wanted is not None and wanted not in classes:
        known = ", ".join(sorted(classes)) or "none"
        return [
            problem(f"There is no storage class {wanted}; there are: {known}.", "Name one in kubernetes_storage_class.")
        ]
    if wanted is None and not defaults:
        return [problem("The cluster has no default storage class, so that no gateway gets its volume.", _NAME_ONE)]
    return [ok(f"Settings are kept in volumes of the storage class {wanted or defaults[0]}.")]


_NAME_ONE: Final = "Name one in kubernetes_storage_class, or `none` to keep no settings."


async def policies(settings: Settings) -> Sequence[Finding]:
    """Whether anything keeps pods out that no network policy lets in: two pods try."""
    choices, naming = choices_from(settings), Naming(settings.container_prefix, Identities("doctor"))
    try:
        async with _api(settings) as api:
            seen = await policies_enforced(
                api, settings.gateway_image, naming=naming, choices=choices, start_within=_TRIAL_STARTS_WITHIN
            )
    except GatewayManagerError as error:
        return [warning(f"Whether the cluster enforces network policies could not be tried: {error.what}", error.hint)]
    match seen:
        case Enforced.YES:
            return [ok("The cluster enforces network policies (tried with two pods).")]
        case Enforced.NO:
            return [
                warning("Nothing in this cluster enforces network policies: any pod reaches every gateway.", _PLUGIN)
            ]
        case Enforced.UNKNOWN:
            return [
                warning("Whether the cluster enforces network policies is not known: its pods don't reach each other.")
            ]


_TRIAL_STARTS_WITHIN: Final = 60.0
_PLUGIN: Final = (
    "A gateway's API asks for no password. Use a network plugin that enforces them, or let nobody else run pods."
)


async def other_clock(settings: Settings) -> tuple[str, datetime] | None:
    """Nodes have clocks of their own, and tell them nobody."""
    del settings
    return None


CHECKS = (
    Check("cluster", cluster),
    Check("rights", rights),
    Check("pod", pod),
    Check("storage", storage),
    Check("policies", policies, within=_TRIAL_STARTS_WITHIN + 30),
)
