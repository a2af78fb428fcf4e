"""Connect a client: one try, the raw probe first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from spreadpilot_core.ibkr.api_client.connection import Connection
from spreadpilot_core.ibkr.api_client.connector import ConnectError
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure
from spreadpilot_core.ibkr.errors import ClientIdsExhaustedError, GatewayManagerError
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction, Work, failed
from spreadpilot_core.ibkr.supervision.services import Services

CONNECT_TRY = 6.0
"""Seconds for one try to connect: the library's own default is 4 for each of its stages."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A client, and the gateway that it was connected to."""

    connection: Connection
    gateway: Gateway


def run(context: ActionContext) -> Work[Connected] | None:
    """To the gateway that is there."""
    facts, services, gateway = context.facts, context.services, context.facts.gateway_view.gateway
    if gateway is None:
        return None
    return connect(
        services,
        gateway,
        _client_id(context, gateway),
        account=facts.follower.account if facts.follower else None,
        read_only=bool((facts.spec.options if facts.spec else services.options).read_only_api),
        on_change=context.wake,
    )


def _client_id(context: ActionContext, gateway: Gateway) -> int:
    """The recorded id; another one, if there is any, when somebody else holds it at this gateway."""
    facts = context.facts
    known = facts.record.client_id if facts.record.client_id is not None else gateway.client_id
    if context.asked.new_client_id:
        with contextlib.suppress(ClientIdsExhaustedError):
            known = context.services.client_ids.lease(facts.follower_id, other_than=(known,))
            facts.keep_record(replace(facts.record, client_id=known))
    return known


async def connect(
    services: Services,
    gateway: Gateway,
    client_id: int,
    *,
    account: str | None,
    read_only: bool,
    on_change: Callable[[], None],
) -> ActionResult[Connected]:
    """Brings the client."""
    try:
        at = await services.runtime.reach(gateway)
        connection = await services.connector.connect(
            at.host,
            at.port,
            client_id,
            account=account,
            read_only=read_only,
            timeout=CONNECT_TRY,
            on_change=on_change,
        )
    except ConnectError as error:
        return ActionResult(failure=_failure(error), sentence=str(error))
    except GatewayManagerError as error:
        return failed(error, Failure.FAILED)
    if services.instrumentation.is_on:
        connection.measure(gateway.follower_id, services.instrumentation)
    return ActionResult(found=Connected(connection, gateway))


def _failure(error: ConnectError) -> Failure:
    if error.kind == "wrong_account":
        return Failure.WRONG_ACCOUNT
    if 326 in error.codes:  # noqa: PLR2004  # IBKR's code: client id already in use
        return Failure.ID_IN_USE
    return Failure.DISCLAIMER if 10141 in error.codes else Failure.FAILED  # noqa: PLR2004  # paper disclaimer pending


def apply(result: ActionResult[Connected], context: ActionContext) -> None:
    """Keep it, where its gateway is still the one that is there."""
    if result.found is not None:
        context.facts.requests.reconnect_asked = False
        context.facts.gateway_view.connected(result.found.connection, result.found.gateway)


ACTION = GatewayAction(kind=ActionKind.CONNECT, run=run, apply=apply, cancellable=True)
