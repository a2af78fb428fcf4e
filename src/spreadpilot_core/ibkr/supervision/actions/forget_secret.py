"""Remove the password file inside the container."""

from __future__ import annotations

from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction, Work, failed
from spreadpilot_core.ibkr.supervision.services import Services


def run(context: ActionContext) -> Work[None] | None:
    """Of the container that is there."""
    gateway = context.facts.gateway_view.gateway
    return remove_file(context.services, gateway) if gateway is not None else None


async def remove_file(services: Services, gateway: Gateway) -> ActionResult[None]:
    """Brings nothing."""
    try:
        await services.runtime.forget_secret(gateway.container_id)
    except GatewayManagerError as error:
        return failed(error)
    return ActionResult()


def apply(result: ActionResult[None], context: ActionContext) -> None:
    """It is gone."""
    if result.failure is None:
        context.facts.gateway_view.secret_forgotten = True


ACTION = GatewayAction(kind=ActionKind.FORGET_SECRET, run=run, apply=apply)
