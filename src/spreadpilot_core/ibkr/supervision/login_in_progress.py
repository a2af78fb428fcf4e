"""The one login of a follower that is written down and not settled, and the permit that goes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from spreadpilot_core.ibkr.deciding.decision import Decision, Settlement
from spreadpilot_core.ibkr.deciding.observation import PermitState, PermitView
from spreadpilot_core.ibkr.deciding.phones import asks_phone
from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.records import DAY, ContainerId, LoginAttempt, LoginOutcome, Record
from spreadpilot_core.ibkr.reporting.announcer import Announcer
from spreadpilot_core.ibkr.supervision.gateway_view import GatewayView
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.system.wording import counted


class LoginInProgress:
    """Permit and attempt of one follower."""

    def __init__(
        self, follower_id: FollowerId, services: Services, announcer: Announcer, wake: Callable[[], None]
    ) -> None:
        self._id = follower_id
        self._services = services
        self._announcer = announcer
        self._wake = wake
        self.permit: PermitView | None = None
        self.attempt: LoginAttempt | None = None
        self.is_being_written = False
        self.logins: Sequence[LoginAttempt] = ()
        """Logins of this follower's user in the last 24 h that ended, as far as is known here."""
        self._announced_half = False

    def ask(self, user: str | None, follower: Follower | None, record: Record) -> None:
        """Ask for a permit, again when one waits; the answer stands in `permit`."""
        before, phone = self.permit, phone_of(follower, user, record)
        self.permit = self._services.admission.ask(self._id, user=user, phone=phone, wake=self._wake)
        if self.permit != before:
            self._wake()

    def taken_by(self, user: str) -> FollowerId | None:
        """The other follower whose gateway is logged in as this user."""
        return self._services.admission.taken_by(self._id, user)

    async def recall(self, user: str) -> None:
        """Read the user's logins, for a gateway that was launched by a manager before this one."""
        with suppress(StoreUnavailableError):
            self.logins = await self._services.ledger.full_logins(user)
            self._wake()

    @property
    def notice(self) -> str | None:
        """A sentence once half of the full logins of a day were made."""
        limit, now = self._services.limits.full_login_limit, self._services.clock()
        known = (*self.logins, self.attempt) if self.attempt is not None else self.logins
        user = known[-1].user if known else ""  # the secret may have named another one before
        recent = {each.id for each in known if each.user == user and each.reserved_at > now - DAY}
        made = len(recent - {each.id for each in self.logins if not each.is_full})
        if limit is None or 2 * made < limit:
            return None
        return (
            f"{user} made {counted(made, 'full login')} within 24 h; at {limit} (full_login_limit) a human must look."
        )

    def ask_anew(self) -> None:
        """A refusal of before counts no more."""
        if self.permit is not None and self.permit.state is PermitState.TAKEN:
            self.permit = None

    def give_back(self) -> None:
        """Hold nothing any more: no gateway, no permit, no user name."""
        self.permit = None
        self._services.admission.gone(self._id)

    def adopt(self, attempt: LoginAttempt | None, record: Record, follower: Follower | None) -> None:
        """For a gateway that runs already: an open login, of a manager before us or our own, takes its permit first."""
        self.attempt = attempt or self.attempt
        if self.attempt is not None:
            self.permit = PermitView(PermitState.HELD, user=self.attempt.user)
            self.know(follower, record, starting=True)
        elif record.user is not None:
            self._services.admission.hold_user(self._id, record.user)

    def know(self, follower: Follower | None, record: Record, *, starting: bool = False) -> None:
        """An open login takes its permit; follower and record say whose phone it asks."""
        if self.attempt is not None:
            user = self.attempt.user
            phone = phone_of(follower, user, record)
            self._services.admission.adopt(self._id, user=user, phone=phone, starting=starting)

    def never_left_created(self) -> None:
        """The container was removed before it ever started: the login is void."""
        if self.attempt is not None:
            self.attempt = replace(self.attempt, started_at=None)

    async def write_down(
        self, decision: Decision, gateway_view: GatewayView, record: Record, follower: Follower | None
    ) -> None:
        """Settle the open login, then book the one that the controller typed by itself.

        The caller has set `is_being_written`, so that nothing begins this twice.
        """
        try:
            if decision.settle is not None:
                await self._settle(decision.settle, gateway_view, follower)
            if decision.book_login and (container_id := gateway_view.container_id) is not None:
                await self._book(record, container_id, follower, decision.reset_from)
        finally:
            self.is_being_written = False
            self._wake()

    async def _settle(self, settlement: Settlement, gateway_view: GatewayView, follower: Follower | None) -> None:
        """Write its end down; the permit is free once that is durable."""
        if self.attempt is None:
            return
        outcome = settlement.outcome if self.attempt.started_at is not None else LoginOutcome.VOID
        ended = replace(self.attempt, outcome=outcome, not_before=settlement.not_before)
        await self._services.ledger.settle(self.attempt, outcome, not_before=settlement.not_before)
        self.logins = (*self.logins, replace(ended, settled_at=self._services.clock()))
        self._warn_at_half()
        self._announcer.settled(outcome, settlement.reason)
        self._services.instrumentation.login_settled(self._id, outcome)
        if outcome is LoginOutcome.REJECTED:
            self._audit_rejection(self.attempt, settlement.reason.sentence, follower)
        self.attempt = None
        self.permit = None
        if gateway_view.gateway is None:
            self.give_back()
        else:
            self._services.admission.settled(self._id)

    def _warn_at_half(self) -> None:
        notice, announced = self.notice, self._announced_half
        self._announced_half = notice is not None
        if notice is not None and not announced:
            self._announcer.notice(notice)

    def _audit_rejection(self, attempt: LoginAttempt, sentence: str, follower: Follower | None) -> None:
        self._services.auditor.note(
            "reject",
            outcome=sentence,
            follower=self._id,
            ref=follower.vault_secret_ref if follower is not None else None,
            version=attempt.secret_version,
            source="ibkr",
            detail=f"in container {attempt.container_id}",
        )

    async def _book(
        self, record: Record, container_id: ContainerId, follower: Follower | None, reset_from: datetime | None
    ) -> None:
        """Write down a login that the controller typed by itself."""
        if record.user is None:
            return
        attempt = self._services.ledger.new_attempt(
            self._id,
            user=record.user,
            secret_version=record.secret_version or "",
            phone=phone_of(follower, record.user, record),
            reset_from=reset_from,
        )
        await self._services.ledger.book(attempt, container_id)
        self.attempt = replace(attempt, started_at=attempt.reserved_at, container_id=container_id)
        self._services.admission.adopt(self._id, user=attempt.user, phone=phone_of(follower, attempt.user, record))


def phone_of(follower: Follower | None, user: str | None, record: Record) -> str | None:
    """Whose phone a login asks: the follower's owner, else the user; paper logins ask nobody's, unless one once did."""
    if follower is None or not asks_phone(follower, record):
        return None
    return follower.phone_owner or user
