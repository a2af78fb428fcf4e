"""Get the image, which needs no turn and may take minutes."""

from __future__ import annotations

from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.gateways import GatewaySpec
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction, Work, failed
from spreadpilot_core.ibkr.supervision.services import Services


def run(context: ActionContext) -> Work[GatewaySpec] | None:
    """Of the spec that is wanted now."""
    spec = context.facts.spec
    return get_image(context.services, spec) if spec is not None else None


async def get_image(services: Services, spec: GatewaySpec) -> ActionResult[GatewaySpec]:
    """Brings the spec whose image is at hand."""
    try:
        await services.runtime.prepare(spec)
    except GatewayManagerError as error:
        return failed(error)
    return ActionResult(found=spec)


def apply(result: ActionResult[GatewaySpec], context: ActionContext) -> None:
    """From now on a turn to log in is worth asking for."""
    facts = context.facts
    if result.found is not None:
        facts.image_for = result.found
        facts.stated_reset_hours = context.services.runtime.reset_hours(facts.follower_id)


ACTION = GatewayAction(kind=ActionKind.CHECK_IMAGE, run=run, apply=apply, cancellable=True)
