"""What carries out an action that was decided on: the coroutine, with all that it needs from its supervisor."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spreadpilot_core.ibkr import actions
from spreadpilot_core.ibkr.deciding.decision import Action
from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.errors import ClientIdsExhaustedError
from spreadpilot_core.ibkr.house import House
from spreadpilot_core.ibkr.protocols import Gateway

if TYPE_CHECKING:
    from spreadpilot_core.ibkr.supervisor import GatewaySupervisor


def work_for(its: GatewaySupervisor, house: House, action: Action) -> Coroutine[Any, Any, actions.Ended] | None:
    """The work of this action; None when what it is for has gone, or its turn has not come (whatever changes that wakes)."""
    there, gateway = its.presence, its.presence.gateway
    match action.kind:
        case ActionKind.PREPARE if its.follower is not None and its.spec is not None:
            return actions.prepare(house, its.follower, its.spec)
        case ActionKind.LAUNCH if not its.login.is_being_written:
            return _launch(its, house)
        case ActionKind.INSPECT if gateway is not None:
            there.stale = False
            return actions.inspect(house, gateway)
        case ActionKind.CONNECT if gateway is not None:
            return _connect(its, house, gateway, new_client_id=action.new_client_id)
        case ActionKind.HEARTBEAT if there.connection is not None and gateway is not None:
            return actions.heartbeat(house, there.connection, gateway, probe_instead=action.probe_instead)
        case ActionKind.REMOVE if gateway is not None:
            there.drop_connection(action.why)
            return actions.remove(house, gateway, grace=action.grace)
        case ActionKind.FORGET_SECRET if gateway is not None:
            return actions.forget_secret(house, gateway)
        case _:
            return None


def _launch(its: GatewaySupervisor, house: House) -> Coroutine[Any, Any, actions.Ended] | None:
    if its.follower is None or its.spec is None or its.prepared is None:
        return None
    by_operator = its.requests.operator_login
    limit = None if by_operator else house.limits.login_budget
    deed = actions.Deed(its.follower, its.spec, its.prepared, its.record, by_operator, limit)
    its.slot.deed = deed
    return actions.launch(house, deed)


def _connect(
    its: GatewaySupervisor, house: House, gateway: Gateway, *, new_client_id: bool
) -> Coroutine[Any, Any, actions.Ended]:
    return actions.connect(
        house,
        gateway,
        _client_id(its, house, gateway, new=new_client_id),
        account=its.follower.account if its.follower else None,
        read_only=bool((its.spec.options if its.spec else house.options).read_only_api),
        on_change=its.wake,
    )


def _client_id(its: GatewaySupervisor, house: House, gateway: Gateway, *, new: bool) -> int:
    """The recorded id; another one, if there is any, when somebody else holds it at this gateway."""
    known = its.record.client_id if its.record.client_id is not None else gateway.leases.client_id
    if new:
        with contextlib.suppress(ClientIdsExhaustedError):
            known = house.client_ids.lease(its.follower_id, other_than=(known,))
            its.keep_record(replace(its.record, client_id=known))
    return known
