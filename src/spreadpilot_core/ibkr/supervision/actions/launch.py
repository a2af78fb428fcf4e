"""Log in: reserve the login, and have the runtime launch the gateway: it asks for the password and for the word to log in.

What touches a container is never cancelled half-way: `LaunchRequest.abort` asks it to give up at the next safe point instead.
Whatever goes wrong, nothing is left but what is known to run, and the login is settled or stays open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure, Preflight
from spreadpilot_core.ibkr.errors import (
    DeliveryExpiredError,
    DeliveryUnsureError,
    GatewayManagerError,
    LaunchError,
    LoginRefusedError,
    PortTakenError,
    UnavailableError,
)
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, Gateway, GatewaySpec, Login
from spreadpilot_core.ibkr.model.records import (
    AttemptId,
    ContainerId,
    LoginAttempt,
    LoginLimits,
    LoginOutcome,
    Record,
    launched_with_words,
    seen_to,
)
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction, Work, failed
from spreadpilot_core.ibkr.supervision.facts import with_endpoint
from spreadpilot_core.ibkr.supervision.ledger import refusal_sentence
from spreadpilot_core.ibkr.supervision.login_in_progress import phone_of
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

GIVEN_UP = "The launch was given up before its start, since something else is wanted now."
MOST_EARLIER = 8
"""Earlier launches that are remembered; what an engine makes late it makes within a few tries."""
SAFE_POINT_WITHIN = 2.0
"""Seconds that a runtime gets to reach its next safe point, before a launch that is wanted no more is cut off."""
SETTLED_WITHIN = 2.0
"""Seconds that a launch that failed waits until its login is given back durably."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """What a launch leaves, also one that failed."""

    record: Record
    gateway: Gateway | None = None
    attempt: LoginAttempt | None = None
    """The login that stays open: its container runs, or nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What a launch is given."""

    follower: Follower
    spec: GatewaySpec
    preflight: Preflight
    record: Record
    by_operator: bool
    limits: LoginLimits
    phone: str | None
    """Whose phone the login asks."""
    before: datetime | None
    """Not from this moment on: IBKR's reset hours begin."""
    reset_from: datetime | None
    """From this moment on IBKR's reset explains an end without an answer."""
    abort: asyncio.Event
    """Set when something else is wanted now."""
    starts: Callable[[ContainerId], None]
    """Told of the container that is about to log in."""


def run(context: ActionContext) -> Work[Launched] | None:
    """With the secret that was read; not while the end of a login before it is being written down, which wakes when it is."""
    facts, services = context.facts, context.services
    follower, spec, preflight = facts.follower, facts.spec, facts.preflight
    if facts.login.is_being_written or follower is None or spec is None or preflight is None:
        return None
    by_operator, overridden = facts.requests.operator_login, facts.requests.overridden_user is not None
    request = LaunchRequest(
        follower=follower,
        spec=spec,
        preflight=preflight,
        record=facts.record,
        by_operator=by_operator,
        limits=services.limits.of_login(by_operator=by_operator, overridden=overridden),
        phone=phone_of(follower, preflight.login.user, facts.record),
        before=context.asked.before,
        reset_from=context.reset_from,
        abort=context.abort,
        starts=facts.note_start,
    )
    return launch(services, request)


def _must_be_wanted(request: LaunchRequest, now: datetime) -> None:
    if request.before is not None and now >= request.before:
        request.abort.set()
    if request.abort.is_set():
        raise LaunchError(GIVEN_UP)


async def launch(services: Services, request: LaunchRequest) -> ActionResult[Launched]:
    """Reserve the login, and have the runtime launch the gateway. The permit is held already."""
    login = request.preflight.login
    attempt = services.ledger.new_attempt(
        request.follower.id,
        user=login.user,
        secret_version=login.version,
        by_operator=request.by_operator,
        phone=request.phone,
        reset_from=request.reset_from,
    )
    try:
        refusal = await services.ledger.reserve(attempt, request.limits)
    except UnavailableError as error:
        return failed(error)
    if refusal is not None:
        error_ = LoginRefusedError(refusal_sentence(refusal, login.user))
        return failed(error_, Failure.LOGIN_REFUSED, until=refusal.until)
    return await _ReservedLaunch(services, request, attempt).run()


class _ReservedLaunch:
    """One launch whose login is reserved, with what it has come to."""

    def __init__(self, services: Services, request: LaunchRequest, attempt: LoginAttempt) -> None:
        self._services = services
        self._request = request
        self._attempt = attempt
        self._record = request.record
        self._container_id: ContainerId | None = None
        self._is_committing = False
        self._started: LoginAttempt | None = None
        """The login once it is written down as started: its container may type it from then on."""

    async def run(self) -> ActionResult[Launched]:
        """Brings the gateway, or what is left of it."""
        request, services, user = self._request, self._services, self._request.preflight.login.user
        try:
            client_id = services.client_ids.lease(request.follower.id)
            self._record = _record_of(request, client_id, self._attempt.id, services.engine.id)
            await services.ledger.save(self._record)
            left = services.limits.logins_left(request.preflight.logins)
            spec = replace(request.spec, user=user, launch_id=self._attempt.id, logins_left=left)
            gateway = await self._unless_given_up(
                services.runtime.launch(spec, client_id, secret=self._deliver, commit=self._commit)
            )
        except Exception as error:  # noqa: BLE001  # told as an error there; a reserved login is left open by none
            ended = await self._clean_up(_as_manager_error(error, request.follower.id))
            aborted = request.abort.is_set() and (ended.found is None or ended.found.gateway is None)
            return replace(ended, failure=Failure.ABORTED) if aborted and ended.failure is not None else ended
        return self._launched(gateway)

    async def _unless_given_up(self, launching: Coroutine[Any, Any, Gateway]) -> Gateway:
        """An engine may take long until a gateway can log in: when something else is wanted meanwhile, that is not waited for.

        Once its login is about to be committed, the launch goes to its end.
        """
        tasks = Tasks(f"launch {self._request.follower.id}")
        task = tasks.begin("by the runtime", launching, then=_inspect_launched)
        given_up = tasks.begin("until it is given up", self._request.abort.wait())
        try:
            await asyncio.wait({task, given_up}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({task}, timeout=SAFE_POINT_WITHIN)
            if not task.done() and not self._is_committing:
                task.cancel()
            await asyncio.wait({task})
            if task.cancelled():
                raise LaunchError(GIVEN_UP)
            return task.result()
        finally:
            await tasks.cancel()

    def _launched(self, gateway: Gateway) -> ActionResult[Launched]:
        record = with_endpoint(self._record, gateway)
        return ActionResult(found=Launched(gateway=gateway, record=record, attempt=self._started))

    async def _deliver(self, target: DeliveryTarget) -> None:
        """Have the password delivered; what no courier could write down is written down here."""
        login, follower = self._request.preflight.login, self._request.follower
        self._container_id = target.container_id
        try:
            try:
                await self._services.broker.deliver(login.ticket, target)
            except DeliveryExpiredError as expired:
                await self._services.broker.deliver((await self._read_again(expired)).ticket, target)
        except (DeliveryExpiredError, DeliveryUnsureError) as error:
            self._services.auditor.note(
                "deliver",
                outcome=error.what,
                follower=follower.id,
                ref=follower.vault_secret_ref,
                version=login.version,
                source=login.source,
                detail=f"to container {target.container_id}",
            )
            raise

    async def _read_again(self, expired: DeliveryExpiredError) -> Login:
        """The same secret, for a container that took longer to run than a courier holds a password.

        Raises `DeliveryExpiredError`, after which a runtime knows that nothing was sent: it can't be read, or it is no longer what
        this login was written down for.
        """
        request, before = self._request, self._request.preflight.login
        follower = request.follower
        try:
            login = await self._services.broker.read(
                follower.vault_secret_ref, request.preflight.controller, follower_id=follower.id
            )
            _must_be_wanted(request, self._services.clock())
        except GatewayManagerError as error:
            raise DeliveryExpiredError(f"{expired.what} {error.what}", hint=error.hint) from error
        if (login.user, login.version) != (before.user, before.version):
            raise DeliveryExpiredError(f"{expired.what} The secret {follower.vault_secret_ref} has changed since.")
        log.info("secret read again", follower=follower.id, why=expired.what)
        return login

    async def _commit(self, container_id: ContainerId) -> None:
        """Write down that its container is about to log in, while the login is still wanted and this manager's to spend."""
        services, ledger = self._services, self._services.ledger
        self._container_id, self._is_committing = container_id, True
        self._record = replace(self._record, container_id=container_id)
        await ledger.save(self._record)
        _must_be_wanted(self._request, services.clock())
        if not await ledger.mark_started(self._attempt, container_id):
            raise LaunchError("Its login was settled meanwhile by another manager, so its container is not started.")
        _must_be_wanted(self._request, services.clock())
        self._request.starts(container_id)
        self._started = replace(self._attempt, started_at=services.clock(), container_id=container_id)

    async def _clean_up(self, error: GatewayManagerError) -> ActionResult[Launched]:
        """After a launch that failed: nothing is left but what is known to run, and the login is settled or stays open."""
        failure = Failure.PORT_TAKEN if isinstance(error, PortTakenError) else None
        failure = Failure.EXPIRED if isinstance(error, DeliveryExpiredError) else failure
        if self._container_id is not None:
            try:
                there = await self._services.runtime.inspect(self._container_id)
                if there is not None and not there.phase.precedes_login and self._started is not None:
                    return self._launched(there)  # the launch had worked all the same
                if there is None and self._started is not None:
                    return failed(error, failure, found=Launched(record=self._record, attempt=self._started))
                if there is not None:
                    await self._services.runtime.remove(there.container_id, grace=0)
            except Exception as trouble:  # noqa: BLE001  # as above
                _as_manager_error(trouble, self._attempt.follower_id)
                if isinstance(trouble, UnavailableError):  # which is then why the launch had failed
                    failure = failure or Failure.UNAVAILABLE
                left = Launched(record=self._record, attempt=self._started or self._attempt)
                return failed(error, failure, found=left, runtime_unsure=True)
        with contextlib.suppress(
            TimeoutError
        ):  # with the store away the ledger keeps it, and reserves nothing before it
            async with asyncio.timeout(SETTLED_WITHIN):
                await self._services.ledger.settle(self._attempt, LoginOutcome.VOID)
        # One that failed on its way may have made a container all the same: list again.
        unsure = self._container_id is None
        return failed(error, failure, found=Launched(record=self._record), runtime_unsure=unsure)


def _inspect_launched(task: asyncio.Task[Gateway]) -> None:
    """Whoever began it looks at its outcome."""
    if not task.cancelled():
        task.exception()


def _record_of(request: LaunchRequest, client_id: int, launch_id: AttemptId, engine_id: str | None) -> Record:
    """The follower's record from this launch on."""
    before = request.record
    earlier = (*before.earlier_launches, *([before.launch_id] if before.launch_id is not None else []))
    return replace(
        seen_to(before),
        earlier_launches=earlier[-MOST_EARLIER:],
        client_id=client_id,
        trading_mode=request.spec.trading_mode,
        last_good=request.follower,
        user=request.preflight.login.user,
        user_unproven=False,
        secret_version=request.preflight.login.version,
        launch_id=launch_id,
        container_id=None,
        engine_id=engine_id,
        logins_booked=1,
        logged_in_before=None,
        losses=0 if request.by_operator else before.losses,
    )


def _as_manager_error(error: Exception, follower_id: FollowerId) -> GatewayManagerError:
    """The error as one of ours; one that nobody foresaw must not leave a reserved login open either."""
    if isinstance(error, GatewayManagerError):
        log.info("launch failed", follower=follower_id, error=str(error))  # the state that follows says it at its level
        return error
    log.error("launch failed", follower=follower_id, exc_info=error)
    return LaunchError(f"The launch failed in a way nobody foresaw: {error!r}.")


def apply(result: ActionResult[Launched], context: ActionContext) -> None:
    """What was looked at before a login is spent with it; an operator's word too, once the container may have started."""
    facts = context.facts
    record, gateway, attempt = _left_by(result)
    facts.preflight = facts.image_for = None
    facts.gateway_view.forget_last()
    facts.login.attempt = attempt
    if gateway is None:  # else its place is kept until its login window shows
        context.services.admission.started(facts.follower_id)
    if record is not None:
        facts.keep_record(launched_with_words(record, facts.record, facts.follower))
    if gateway is not None or (attempt is not None and attempt.started_at is not None):
        facts.requests.end_login()
    if gateway is not None:
        facts.gateway_view.secret_forgotten = False
        facts.see(gateway)
        facts.announcer.launched(gateway, context.cause)
    elif attempt is None:
        facts.login.give_back()


def _left_by(result: ActionResult[Launched]) -> tuple[Record | None, Gateway | None, LoginAttempt | None]:
    left = result.found
    return (left.record, left.gateway, left.attempt) if left is not None else (None, None, None)


ACTION = GatewayAction(kind=ActionKind.LAUNCH, run=run, apply=apply, touches_container=True)
