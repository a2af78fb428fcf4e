"""Give the turn to log in back, for whoever waits for one."""

from __future__ import annotations

from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, GatewayAction


def run(context: ActionContext) -> None:
    """Done at once."""
    context.facts.login.give_back()
    context.wake()


ACTION: GatewayAction[None] = GatewayAction(kind=ActionKind.RETURN_PERMIT, run=run)
