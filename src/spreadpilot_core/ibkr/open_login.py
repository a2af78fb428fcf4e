"""The one login of a follower that is written down and not settled, and the permit that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from spreadpilot_core.ibkr.deciding.decision import Decision, Settlement
from spreadpilot_core.ibkr.deciding.observation import PermitState, PermitView
from spreadpilot_core.ibkr.house import House
from spreadpilot_core.ibkr.protocols import (
    ContainerId,
    Follower,
    FollowerId,
    Gateway,
    LoginAttempt,
    LoginOutcome,
    Record,
    TradingMode,
)
from spreadpilot_core.ibkr.telling import Teller


class OpenLogin:
    """Permit and attempt of one follower."""

    def __init__(self, follower_id: FollowerId, house: House, teller: Teller, wake: Callable[[], None]) -> None:
        self._id = follower_id
        self._house = house
        self._teller = teller
        self._wake = wake
        self.permit: PermitView | None = None
        self.attempt: LoginAttempt | None = None
        self.is_being_written = False

    @property
    def waits_for(self) -> str | None:
        """Behind what it waits in a row for its permit, as a sentence; None when it does not."""
        waits = self.permit is not None and self.permit.state is PermitState.WAITING
        return self.permit.sentence if self.permit is not None and waits else None

    def ask(self, user: str, follower: Follower | None) -> None:
        """Ask for a permit, again when one waits; the answer stands in `permit`."""
        before, phone = self.permit, phone_of(follower, user)
        self.permit = self._house.admission.ask(self._id, user=user, phone=phone, wake=self._ask_again)
        if self.permit != before:
            self._wake()

    def _ask_again(self) -> None:
        self.permit = None
        self._wake()

    def give_back(self) -> None:
        """Hold nothing any more: no gateway, no permit, no user name."""
        self.permit = None
        self._house.admission.gone(self._id)

    def adopt(self, attempt: LoginAttempt | None, record: Record, follower: Follower | None) -> None:
        """For a gateway that runs already: an open login, of a manager before us or our own, takes its permit first."""
        self.attempt = attempt or self.attempt
        if self.attempt is not None:
            self.permit = PermitView(PermitState.HELD)
            self.know(follower)
        elif record.user is not None:
            self._house.admission.hold_user(self._id, record.user)

    def know(self, follower: Follower | None) -> None:
        """An open login takes its permit; the record says whose phone it asks."""
        if self.attempt is not None:
            user = self.attempt.user
            self._house.admission.adopt(self._id, user=user, phone=phone_of(follower, user))

    def never_left_created(self) -> None:
        """The container was removed before it ever started: the login is void."""
        if self.attempt is not None:
            self.attempt = replace(self.attempt, started_at=None)

    async def write_down(
        self, decision: Decision, there: Callable[[], Gateway | None], record: Record, follower: Follower | None
    ) -> None:
        """Settle the open login, then book the one that the controller typed by itself.

        The caller has set `is_being_written`, so that nothing begins this twice.
        """
        try:
            if decision.settle is not None:
                await self._settle(decision.settle, there, follower)
            if decision.book_login and (gateway := there()) is not None:
                await self._book(record, gateway.container_id, follower)
        finally:
            self.is_being_written = False
            self._wake()

    async def _settle(
        self, settlement: Settlement, there: Callable[[], Gateway | None], follower: Follower | None
    ) -> None:
        """Write its end down; the permit is free once that is durable."""
        if self.attempt is None:
            return
        outcome = settlement.outcome if self.attempt.started_at is not None else LoginOutcome.VOID
        await self._house.ledger.settle(self.attempt, outcome, not_before=settlement.not_before)
        self._teller.settled(outcome, settlement.sentence)
        if outcome is LoginOutcome.REJECTED:
            self._audit_rejection(self.attempt, settlement.sentence, follower)
        self.attempt = None
        self.permit = None
        if there() is None:
            self.give_back()
        else:
            self._house.admission.settled(self._id)

    def _audit_rejection(self, attempt: LoginAttempt, sentence: str, follower: Follower | None) -> None:
        self._house.auditor.note(
            "reject",
            outcome=sentence,
            follower=self._id,
            ref=follower.vault_secret_ref if follower is not None else None,
            version=attempt.secret_version,
            source="ibkr",
            detail=f"in container {attempt.container_id}",
        )

    async def _book(self, record: Record, container_id: ContainerId, follower: Follower | None) -> None:
        """Write down a login that the controller typed by itself."""
        if record.user is None:
            return
        attempt = self._house.ledger.new_attempt(
            self._id, user=record.user, secret_version=record.secret_version or "", by_operator=False
        )
        await self._house.ledger.book(attempt, container_id)
        self.attempt = replace(attempt, started_at=attempt.reserved_at, container_id=container_id)
        self._house.admission.adopt(self._id, user=attempt.user, phone=phone_of(follower, attempt.user))


def phone_of(follower: Follower | None, user: str) -> str | None:
    """Whose phone a login asks: the record's owner, else the user; paper logins ask nobody's."""
    if follower is None or follower.trading_mode is TradingMode.PAPER:
        return None
    return follower.phone_owner or user
