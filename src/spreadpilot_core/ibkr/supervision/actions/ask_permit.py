"""Ask admission for a turn to log in; the answer stands in the facts."""

from __future__ import annotations

from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, GatewayAction


def run(context: ActionContext) -> None:
    """Done at once."""
    facts = context.facts
    facts.login.ask(facts.secret.expected_user(facts.record), facts.follower, facts.record)


ACTION: GatewayAction[None] = GatewayAction(kind=ActionKind.ASK_PERMIT, run=run)
