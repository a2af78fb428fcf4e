"""Ask the gateway for the time: any message afterwards is the answer."""

from __future__ import annotations

from spreadpilot_core.ibkr.api_client.connection import Connection, HeartbeatError
from spreadpilot_core.ibkr.api_client.handshake import ProbeError
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction, Work
from spreadpilot_core.ibkr.supervision.services import Services


def run(context: ActionContext) -> Work[None] | None:
    """On the connection that is there."""
    connection, gateway = context.facts.gateway_view.connection, context.facts.gateway_view.gateway
    if connection is None or gateway is None:
        return None
    return beat(context.services, connection, gateway, probe_instead=context.asked.probe_instead)


async def beat(
    services: Services, connection: Connection, gateway: Gateway, *, probe_instead: bool
) -> ActionResult[None]:
    """Brings nothing: the connection itself knows when it was answered. With IBKR away a handshake proves as much."""
    within = services.limits.heartbeat_timeout
    try:
        trip = await connection.heartbeat(timeout=within)
    except HeartbeatError as error:
        services.instrumentation.heartbeat(gateway.follower_id, None)
        if not probe_instead or not connection.is_open:
            return ActionResult(failure=Failure.FAILED, sentence=str(error))
        try:
            at = await services.runtime.reach(gateway)
            await services.connector.probe(at.host, at.port, timeout=within)
        except (ProbeError, GatewayManagerError) as silent:
            return ActionResult(failure=Failure.FAILED, sentence=str(silent))
    else:
        services.instrumentation.heartbeat(gateway.follower_id, trip)
    return ActionResult()


ACTION = GatewayAction(kind=ActionKind.HEARTBEAT, run=run, cancellable=True)
