"""Have the secret read for the controller of the image: user, version, and the logins that count."""

from __future__ import annotations

from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure, Preflight
from spreadpilot_core.ibkr.errors import CourierFailedError, CredentialsRefusedError, GatewayManagerError
from spreadpilot_core.ibkr.model.followers import Follower
from spreadpilot_core.ibkr.model.gateways import GatewaySpec
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction, Work, failed
from spreadpilot_core.ibkr.supervision.services import Services


def run(context: ActionContext) -> Work[Preflight] | None:
    """For the follower and the spec that are wanted now."""
    follower, spec = context.facts.follower, context.facts.spec
    return read_secret(context.services, follower, spec) if follower is not None and spec is not None else None


async def read_secret(services: Services, follower: Follower, spec: GatewaySpec) -> ActionResult[Preflight]:
    """Brings who would log in; an image that is not at hand is got before."""
    try:
        controller = await services.runtime.prepare(spec)
        login = await services.broker.read(follower.vault_secret_ref, controller, follower_id=follower.id)
        at = services.clock()
        logins = await services.ledger.full_logins(login.user)
    except CredentialsRefusedError as error:
        return failed(error, Failure.REFUSED)
    except CourierFailedError as error:
        services.auditor.note("read", outcome=error.what, follower=follower.id, ref=follower.vault_secret_ref)
        return failed(error)
    except GatewayManagerError as error:
        return failed(error)
    hours = services.runtime.reset_hours(follower.id)
    ref = follower.vault_secret_ref
    found = Preflight(login=login, secret_ref=ref, controller=controller, logins=logins, at=at, reset_hours=hours)
    return ActionResult(found=found)


def apply(result: ActionResult[Preflight], context: ActionContext) -> None:
    """Know the user, its logins, and the version that was read."""
    facts, preflight = context.facts, result.found
    if preflight is None:
        return
    facts.preflight, facts.stated_reset_hours = preflight, preflight.reset_hours
    if facts.gateway_view.gateway is None:
        facts.login.logins = preflight.logins
    facts.secret.read(preflight.login, follower=facts.follower, record=facts.record)


ACTION = GatewayAction(kind=ActionKind.PREPARE, run=run, apply=apply, cancellable=True)
