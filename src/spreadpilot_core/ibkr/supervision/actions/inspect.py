"""Ask the runtime what the container is now."""

from __future__ import annotations

from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction, Work, failed
from spreadpilot_core.ibkr.supervision.services import Services


def run(context: ActionContext) -> Work[Gateway] | None:
    """Of the container that is there; what changes from now on is another change."""
    gateway = context.facts.gateway_view.gateway
    if gateway is None:
        return None
    context.facts.gateway_view.stale = False
    return inspect_gateway(context.services, gateway)


async def inspect_gateway(services: Services, gateway: Gateway) -> ActionResult[Gateway]:
    """Brings the container; None without a failure: it is gone."""
    try:
        return ActionResult(found=await services.runtime.inspect(gateway.container_id))
    except GatewayManagerError as error:
        return failed(error)


def apply(result: ActionResult[Gateway], context: ActionContext) -> None:
    """See it; what could not be learned of one container is asked of all."""
    if result.failure is not None:
        context.relist()
    else:
        context.facts.see(result.found)


ACTION = GatewayAction(kind=ActionKind.INSPECT, run=run, apply=apply, cancellable=True, touches_container=True)
