"""What the settings say of pods. Pure."""

from __future__ import annotations

from typing import Final

from spreadpilot_core.ibkr.kubernetes.access_rules import AccessRules, Pods, manager_pods
from spreadpilot_core.ibkr.kubernetes.leader_lease import lease_in_use
from spreadpilot_core.ibkr.kubernetes.manifests import PodChoices
from spreadpilot_core.ibkr.settings import Settings

_PULL_POLICIES: Final = {"missing": "IfNotPresent", "always": "Always", "never": "Never"}


def choices_from(settings: Settings) -> PodChoices:
    """For every pod alike."""
    return PodChoices(
        storage_class=settings.kubernetes_storage_class,
        access_mode=settings.kubernetes_access_mode,
        priority_class=settings.kubernetes_priority_class,
        image_pull_secrets=tuple(settings.kubernetes_pull_secrets),
        cpu=settings.kubernetes_cpu_request,
        pull_policy=_PULL_POLICIES[settings.image_pull_policy],
    )


def access_rules_from(settings: Settings) -> AccessRules:
    """Who reaches gateways, and whether they may be evicted."""
    lease = lease_in_use(settings) if settings.pod_name is not None else None
    bots = None
    if settings.kubernetes_bots:
        labels = dict(each.split("=", 1) for each in settings.kubernetes_bots.split(","))
        bots = Pods(labels=labels, namespace=settings.kubernetes_bots_namespace)
    return AccessRules(
        has_policy=settings.kubernetes_network_policy,
        manager=manager_pods(lease, settings.pod_namespace) if lease is not None else None,
        bots=bots,
        refuses_eviction=settings.kubernetes_refuse_eviction,
    )
