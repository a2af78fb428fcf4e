"""The volume claims in which gateways' settings outlive their pods."""

from __future__ import annotations

from spreadpilot_core.ibkr.kubernetes.api import RefusedError
from spreadpilot_core.ibkr.kubernetes.manifests import PodChoices, settings_claim
from spreadpilot_core.ibkr.kubernetes.naming import Naming
from spreadpilot_core.ibkr.kubernetes.refusals import refusal_of
from spreadpilot_core.ibkr.kubernetes.things_of_followers import ThingsOfFollowers
from spreadpilot_core.ibkr.model.gateways import GatewaySpec
from spreadpilot_core.ibkr.runtimes.held_names import held_name


async def ensure_claim(claims: ThingsOfFollowers, spec: GatewaySpec, *, naming: Naming, choices: PodChoices) -> None:
    """Have it be there, where settings are kept. Raises `LaunchError`."""
    if not choices.keeps_settings:
        return
    claim = settings_claim(spec, naming=naming, choices=choices)
    name = str(claim["metadata"]["name"])
    try:
        found = await claims.there(claim, spec.follower_id)
    except RefusedError as refused:
        raise refusal_of(refused, f"the claim {name}") from refused
    if found is not None and not naming.owns(found):
        identity = naming.others_identity(found)
        raise held_name("volume claim", name, identity, remove=f"`kubectl delete pvc {name}`")
