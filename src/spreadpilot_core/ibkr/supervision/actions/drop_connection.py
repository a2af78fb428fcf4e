"""Disconnect the client, so that a new one is connected."""

from __future__ import annotations

from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, GatewayAction


def run(context: ActionContext) -> None:
    """Done at once."""
    context.facts.requests.reconnect_asked = False
    context.facts.gateway_view.drop_connection(context.asked.why, context.cause)
    context.wake()


ACTION: GatewayAction[None] = GatewayAction(kind=ActionKind.DROP_CONNECTION, run=run)
