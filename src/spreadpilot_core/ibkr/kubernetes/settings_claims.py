"""The volume claims in which gateways' settings outlive their pods."""

from __future__ import annotations

from spreadpilot_core.ibkr.errors import LaunchError
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.manifests import PodChoices, settings_claim
from spreadpilot_core.ibkr.kubernetes.naming import Naming
from spreadpilot_core.ibkr.kubernetes.refusals import refusal_of
from spreadpilot_core.ibkr.model.gateways import GatewaySpec


async def ensure_claim(api: Api, spec: GatewaySpec, *, naming: Naming, choices: PodChoices) -> None:
    """Have it be there, where settings are kept. Raises `LaunchError`."""
    if not choices.keeps_settings:
        return
    claim = settings_claim(spec, naming=naming, choices=choices)
    name = str(claim["metadata"]["name"])
    found = await api.get(f"read the claim {name}", api.place("persistentvolumeclaims", name))
    if found is None:
        try:
            await api.create(f"create the claim {name}", api.place("persistentvolumeclaims"), claim)
        except RefusedError as refused:
            if not refused.is_conflict:
                raise refusal_of(refused, f"the claim {name}") from refused
    elif not naming.owns(found):
        raise LaunchError(
            f"A volume claim that is not this manager's bears the name {name}.",
            hint=f"Remove it (`kubectl delete pvc {name}`), choose another container_prefix, or, where the manager that made"
            " it has ended, take it over with `gateway-manager run --adopt-from IDENTITY`.",
        )
