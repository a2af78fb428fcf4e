"""What a supervisor can begin: each function carries one action out and says how it ended.

They know the protocols and no policy: nothing here decides whether, when or how often. Each returns an `Ended` and
raises only when it was cancelled. What touches a container is never cancelled half-way by us: `Deed.abort` asks it to
give up at the next safe point instead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from spreadpilot_core.ibkr.connections import ConnectError, Connection, HeartbeatError, ProbeError
from spreadpilot_core.ibkr.deciding.observation import Failure, Prepared
from spreadpilot_core.ibkr.errors import (
    CourierFailedError,
    CredentialsRefusedError,
    DeliveryExpiredError,
    DeliveryUnsureError,
    GatewayManagerError,
    LaunchError,
    LoginRefusedError,
    PortTakenError,
    UnavailableError,
)
from spreadpilot_core.ibkr.house import House
from spreadpilot_core.ibkr.ledger import refusal_sentence
from spreadpilot_core.ibkr.protocols import (
    ContainerId,
    Created,
    Follower,
    FollowerId,
    Gateway,
    GatewaySpec,
    LastWords,
    Leases,
    Login,
    LoginAttempt,
    LoginOutcome,
    Record,
    RuntimeState,
)

log = structlog.get_logger(__name__)

TICKET_AGE = timedelta(seconds=20)
"""Older than this a ticket may expire (30 s) before it is delivered: the secret is read again."""
SETTLED_WITHIN = 2.0
"""Seconds that a launch that failed waits until its login is given back durably."""
CONNECT_TRY = 6.0
"""Seconds for one try to connect: the library's own default is 4 for each of its stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an action ended, and what it brought."""

    failure: Failure | None = None
    sentence: str = ""
    until: datetime | None = None
    error: GatewayManagerError | None = None
    prepared: Prepared | None = None
    gateway: Gateway | None = None
    record: Record | None = None
    attempt: LoginAttempt | None = None
    """The login that stays open: its container runs, or nobody knows."""
    connection: Connection | None = None
    last_words: LastWords | None = None
    runtime_unsure: bool = False
    """The runtime could not say what is there now: it must be listed again."""


@dataclass(slots=True)
class Deed:
    """What a launch is given; `abort` is set when something else is wanted now."""

    follower: Follower
    spec: GatewaySpec
    prepared: Prepared
    record: Record
    by_operator: bool
    limit: int | None
    abort: asyncio.Event = field(default_factory=asyncio.Event)


def failed(error: GatewayManagerError, failure: Failure | None = None, **more: Any) -> Ended:
    """An action that ended with this error."""
    if failure is None:
        failure = Failure.UNAVAILABLE if isinstance(error, UnavailableError) else Failure.FAILED
    return Ended(failure=failure, sentence=str(error), error=error, **more)


def _must_be_wanted(deed: Deed) -> None:
    if deed.abort.is_set():
        raise LaunchError("The launch was given up before its start, since something else is wanted now.")


async def _must_be_open(house: House, attempt: LoginAttempt, container_id: ContainerId) -> None:
    """Write down that its container is about to start, while the login is still this manager's to spend."""
    if not await house.ledger.mark_started(attempt, container_id):
        raise LaunchError("Its login was settled meanwhile by another manager, so its container is not started.")


async def prepare(house: House, follower: Follower, spec: GatewaySpec) -> Ended:
    """Get the image and have the secret read."""
    try:
        dialect = await house.runtime.prepare(spec)
        login = await house.desk.read(follower.vault_secret_ref, dialect, follower_id=follower.id)
        at = house.clock()
        counted = await house.ledger.counted(login.user)
    except CredentialsRefusedError as error:
        return failed(error, Failure.REFUSED)
    except CourierFailedError as error:
        house.auditor.note("read", outcome=error.what, follower=follower.id, ref=follower.vault_secret_ref)
        return failed(error)
    except GatewayManagerError as error:
        return failed(error)
    return Ended(prepared=Prepared(login=login, dialect=dialect, counted=counted, at=at))


async def launch(house: House, deed: Deed) -> Ended:
    """Reserve the login, create the container, have the password delivered, start. The permit is held already."""
    prepared = deed.prepared
    if house.clock() - prepared.at > TICKET_AGE:
        renewed = await prepare(house, deed.follower, deed.spec)
        if renewed.prepared is None:
            return renewed
        if (renewed.prepared.login.user, renewed.prepared.login.version) != (
            prepared.login.user,
            prepared.login.version,
        ):
            return Ended(failure=Failure.EXPIRED, sentence="The secret changed while it waited for its turn.")
        prepared = renewed.prepared
    login = prepared.login
    attempt = house.ledger.new_attempt(
        deed.follower.id, user=login.user, secret_version=login.version, by_operator=deed.by_operator
    )
    try:
        refusal = await house.ledger.reserve(attempt, deed.limit)
    except UnavailableError as error:
        return failed(error)
    if refusal is not None:
        error_ = LoginRefusedError(refusal_sentence(refusal, login.user))
        return failed(error_, Failure.LOGIN_REFUSED, until=refusal.until)
    return await _launch_reserved(house, deed, prepared, attempt)


async def _launch_reserved(house: House, deed: Deed, prepared: Prepared, attempt: LoginAttempt) -> Ended:
    follower_id = deed.follower.id
    started: LoginAttempt | None = None
    container_id: ContainerId | None = None
    record = deed.record
    try:
        leases = Leases(house.ports.lease(follower_id), house.client_ids.lease(follower_id))
        record = replace(
            record,
            client_id=leases.client_id,
            user=prepared.login.user,
            secret_version=prepared.login.version,
            logins_booked=1,
            logged_in_before=None,
            needs_human=None,
        )
        await house.ledger.save(record)
        created = await house.runtime.create(replace(deed.spec, user=prepared.login.user), leases)
        container_id = created.container_id
        await _deliver(house, deed.follower, prepared.login, created)
        _must_be_wanted(deed)
        await _must_be_open(house, attempt, container_id)
        started = replace(attempt, started_at=house.clock(), container_id=container_id)
        _must_be_wanted(deed)
        gateway = await house.runtime.start(container_id)
    except Exception as error:  # noqa: BLE001  # told as an error there; a reserved login is left open by none
        failed_by = _told(error, follower_id)
        ended = await _clean_up(
            house, failed_by, attempt=attempt, started=started, container_id=container_id, record=record
        )
        aborted = deed.abort.is_set() and ended.gateway is None
        return replace(ended, failure=Failure.ABORTED) if aborted and ended.failure is not None else ended
    return Ended(gateway=gateway, record=record, attempt=started)


async def _deliver(house: House, follower: Follower, login: Login, created: Created) -> None:
    """Have it delivered; what no courier could write down is written down here."""
    try:
        await house.desk.deliver(login.ticket, created.door)
    except (DeliveryExpiredError, DeliveryUnsureError) as error:
        house.auditor.note(
            "deliver",
            outcome=error.what,
            follower=follower.id,
            ref=follower.vault_secret_ref,
            version=login.version,
            source=login.source,
            detail=f"to container {created.container_id}",
        )
        raise


def _told(error: Exception, follower_id: FollowerId) -> GatewayManagerError:
    """The error as one of ours; one that nobody foresaw must not leave a reserved login open either."""
    if isinstance(error, GatewayManagerError):
        log.warning("launch failed", follower=follower_id, error=str(error))
        return error
    log.error("launch failed", follower=follower_id, exc_info=error)
    return LaunchError(f"The launch failed in a way nobody foresaw: {error!r}.")


async def _clean_up(
    house: House,
    error: GatewayManagerError,
    *,
    attempt: LoginAttempt,
    started: LoginAttempt | None,
    container_id: ContainerId | None,
    record: Record,
) -> Ended:
    """After a launch that failed: nothing is left but what is known to run, and the login is settled or stays open."""
    failure = Failure.PORT_TAKEN if isinstance(error, PortTakenError) else None
    failure = Failure.EXPIRED if isinstance(error, DeliveryExpiredError) else failure
    if container_id is not None:
        try:
            there = await house.runtime.inspect(container_id) if started is not None else None
            if there is not None and there.state is not RuntimeState.CREATED:
                return Ended(gateway=there, record=record, attempt=started)  # the start had worked all the same
            if started is not None and there is None:
                house.ports.release(attempt.follower_id)
                return failed(error, failure, record=record, attempt=started)
            await house.runtime.remove(container_id, grace=0)
        except Exception as trouble:  # noqa: BLE001  # as above
            _told(trouble, attempt.follower_id)
            if isinstance(trouble, UnavailableError):  # which is then why the launch had failed
                failure = failure or Failure.UNAVAILABLE
            return failed(error, failure, record=record, attempt=started or attempt, runtime_unsure=True)
    house.ports.release(attempt.follower_id, refused=failure is Failure.PORT_TAKEN)
    with contextlib.suppress(TimeoutError):  # with the store away the ledger keeps it, and reserves nothing before it
        async with asyncio.timeout(SETTLED_WITHIN):
            await house.ledger.settle(attempt, LoginOutcome.VOID)
    # A create that failed on its way may have been carried out all the same: list again.
    return failed(error, failure, record=record, runtime_unsure=container_id is None)


async def connect(
    house: House,
    gateway: Gateway,
    client_id: int,
    *,
    account: str | None,
    read_only: bool,
    on_change: Callable[[], None],
) -> Ended:
    """One try: the raw probe, then a client."""
    try:
        connection = await house.connector.connect(
            gateway.host,
            gateway.leases.host_port,
            client_id,
            account=account,
            read_only=read_only,
            timeout=CONNECT_TRY,
            on_change=on_change,
        )
    except ConnectError as error:
        return Ended(failure=_connect_failure(error), sentence=str(error))
    return Ended(connection=connection, gateway=gateway)


def _connect_failure(error: ConnectError) -> Failure:
    if error.kind == "wrong_account":
        return Failure.WRONG_ACCOUNT
    if 326 in error.codes:  # noqa: PLR2004  # IBKR's code: client id already in use
        return Failure.ID_IN_USE
    return Failure.DISCLAIMER if 10141 in error.codes else Failure.FAILED  # noqa: PLR2004  # paper disclaimer pending


async def heartbeat(house: House, connection: Connection, gateway: Gateway, *, probe_instead: bool) -> Ended:
    """Ask for the time; any message afterwards is the answer. With IBKR away a handshake proves as much."""
    try:
        await connection.heartbeat(timeout=house.limits.heartbeat_timeout)
    except HeartbeatError as error:
        if not probe_instead or not connection.is_open:
            return Ended(failure=Failure.FAILED, sentence=str(error))
        try:
            await house.connector.probe(gateway.host, gateway.leases.host_port, timeout=house.limits.heartbeat_timeout)
        except ProbeError as silent:
            return Ended(failure=Failure.FAILED, sentence=str(silent))
    return Ended()


async def remove(house: House, gateway: Gateway, *, grace: float) -> Ended:
    """Stop and remove; returns when it is gone."""
    try:
        words = await house.runtime.remove(gateway.container_id, grace=grace)
    except GatewayManagerError as error:
        return failed(error)
    return Ended(last_words=words)


async def inspect(house: House, gateway: Gateway) -> Ended:
    """Ask the runtime what the container is now; `gateway` None in the answer means gone."""
    try:
        return Ended(gateway=await house.runtime.inspect(gateway.container_id))
    except GatewayManagerError as error:
        return failed(error)


async def forget_secret(house: House, gateway: Gateway) -> Ended:
    """Remove the password file inside the container."""
    try:
        await house.runtime.forget_secret(gateway.container_id)
    except GatewayManagerError as error:
        return failed(error)
    return Ended()
