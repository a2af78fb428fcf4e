"""Stop the gateway and remove its container."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from spreadpilot_core.ibkr.deciding.decision import Action
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Wanted
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase, LastWords
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction, Work, failed
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.tasks import Tasks

LONGEST_LINE = 1000
"""Characters that are kept of each of a container's last lines."""


def run(context: ActionContext) -> Work[LastWords] | None:
    """Let the client go first, so that nobody trades through a gateway that ends."""
    gateway = context.facts.gateway_view.gateway
    if gateway is None:
        return None
    context.facts.gateway_view.drop_connection(context.asked.why, context.cause)
    return remove(context.services, gateway, context.asked, context.abort)


async def remove(services: Services, gateway: Gateway, asked: Action, abort: asyncio.Event) -> ActionResult[LastWords]:
    """Brings what it said last; returns when it is gone."""
    tasks = Tasks(f"picture of {gateway.follower_id}")
    try:
        if asked.picture_within is not None and gateway.vnc is not None and gateway.phase is GatewayPhase.RUNNING:
            taken = tasks.begin("take", services.pictures.take(gateway))
            in_a_hurry = tasks.begin("until something else is wanted", abort.wait())
            await asyncio.wait({taken, in_a_hurry}, timeout=asked.picture_within, return_when=asyncio.FIRST_COMPLETED)
        words = await services.runtime.remove(gateway.container_id, grace=asked.grace)
    except GatewayManagerError as error:
        return failed(error)
    finally:
        await tasks.cancel()
    return ActionResult(found=words)


def apply(result: ActionResult[LastWords], context: ActionContext) -> None:
    """It is gone: keep its last words, and end what was asked of it."""
    if result.failure is not None:
        return
    facts, words = context.facts, result.found
    gateway = facts.gateway_view.gateway
    if gateway is not None and gateway.phase.precedes_login:
        facts.login.never_left_created()
    if words is not None and words.lines:
        trouble = facts.memory.trouble.sentence if facts.memory.trouble is not None else None
        last = "\n".join([*(line[:LONGEST_LINE] for line in words.lines[-5:]), f"exit code {words.exit_code}"])
        facts.keep_record(replace(facts.record, last_words=last, last_reason=trouble))
    if words is not None:
        facts.gateway_view.hear_last_words(words)
    facts.requests.restart_asked = None
    facts.keep_record(replace(facts.record, ended_with_manager=facts.wanted is Wanted.SHUTDOWN))
    facts.announcer.removed(gateway, facts.wanted, context.cause)
    facts.see(None)


ACTION = GatewayAction(kind=ActionKind.REMOVE, run=run, apply=apply, touches_container=True)
