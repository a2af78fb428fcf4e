"""Permits: leave to spend one login. The one place where gateways exclude each other, and it never awaits.

A permit takes three things at once: the IBKR user (one login at a time), the phone that will be asked (one prompt at a
time per owner; paper logins need none), and one of the places for parallel starts. The place is given back when the
start call has returned; user and phone when the login is settled in the record store. Apart from that a follower holds
its user name as long as its gateway exists, so that no other follower can log the same user in.

Who must wait is woken, in the order of asking, when what it waits for is given back: as many as there are free places,
since waking a fleet of hundreds for each place would cost more than the starts. A waiter that no longer wants its turn
may let a wake-up go unused, so every waiter also asks again by itself now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spreadpilot_core.ibkr.deciding.observation import PermitState, PermitView
from spreadpilot_core.ibkr.protocols import FollowerId

PLACE = "place"


@dataclass(frozen=True, slots=True)
class _Permit:
    user: str
    phone: str | None


@dataclass(frozen=True, slots=True)
class _Waiter:
    behind: str
    """`PLACE`, or the user or phone that is busy."""
    wake: Callable[[], None]


class Admission:
    """All permits of one manager."""

    def __init__(self, *, parallel_starts: int) -> None:
        self._parallel_starts = parallel_starts
        self._permits: dict[FollowerId, _Permit] = {}
        self._starting: set[FollowerId] = set()
        self._users: dict[str, FollowerId] = {}
        self._waiting: dict[FollowerId, _Waiter] = {}

    def ask(self, follower_id: FollowerId, *, user: str, phone: str | None, wake: Callable[[], None]) -> PermitView:
        """A permit, or behind whom to wait; `wake` is called once when asking again may help."""
        owner = self._users.get(user, follower_id)
        if owner != follower_id:
            self._wait(follower_id, f"user {user}", wake)
            sentence = f"IBKR user {user} is logged in for follower {owner} already; {follower_id} names the same user."
            return PermitView(PermitState.TAKEN, sentence)
        obstacle = self._obstacle(follower_id, user, phone)
        if obstacle is not None:
            behind, sentence = obstacle
            self._wait(follower_id, behind, wake)
            return PermitView(PermitState.WAITING, sentence)
        self._waiting.pop(follower_id, None)
        self.adopt(follower_id, user=user, phone=phone)
        self._starting.add(follower_id)
        return PermitView(PermitState.HELD)

    def _wait(self, follower_id: FollowerId, behind: str, wake: Callable[[], None]) -> None:
        known = self._waiting.get(follower_id)
        if known is None or known.behind != behind:  # who asks again keeps its place in the row
            self._waiting[follower_id] = _Waiter(behind, wake)

    def _obstacle(self, follower_id: FollowerId, user: str, phone: str | None) -> tuple[str, str] | None:
        for other, permit in self._permits.items():
            if other == follower_id:
                continue
            if permit.user == user:
                return f"user {user}", f"It waits for the login of {other}, which has the same IBKR user {user}."
            if phone is not None and permit.phone == phone:
                sentence = f"It waits for the login of {other}: the phone of {phone} is asked for one at a time."
                return f"phone {phone}", sentence
        if follower_id not in self._starting and len(self._starting) >= self._parallel_starts:
            return PLACE, f"It waits for a place: {len(self._starting)} gateways are being started (parallel_starts)."
        return None

    def adopt(self, follower_id: FollowerId, *, user: str, phone: str | None) -> None:
        """A gateway that is logging in already takes its permit without asking."""
        self._permits[follower_id] = _Permit(user, phone)
        self.hold_user(follower_id, user)

    def hold_user(self, follower_id: FollowerId, user: str) -> None:
        """The follower's gateway is logged in as this user."""
        self._users.setdefault(user, follower_id)

    def started(self, follower_id: FollowerId) -> None:
        """The start call returned, one way or the other: the place is free."""
        self._starting.discard(follower_id)
        self._wake(PLACE, at_most=self._parallel_starts - len(self._starting))

    def settled(self, follower_id: FollowerId) -> None:
        """The login is settled: user and phone may be asked again."""
        permit = self._permits.pop(follower_id, None)
        if permit is not None:
            self._wake(f"user {permit.user}")
            self._wake(f"phone {permit.phone}")
        self.started(follower_id)

    def gone(self, follower_id: FollowerId) -> None:
        """The follower's gateway is confirmed gone, or was never made: it holds nothing any more."""
        self._waiting.pop(follower_id, None)
        for user in [user for user, owner in self._users.items() if owner == follower_id]:
            del self._users[user]
            self._wake(f"user {user}")
        self.settled(follower_id)

    def _wake(self, behind: str, *, at_most: int | None = None) -> None:
        waiters = [follower_id for follower_id, waiter in self._waiting.items() if waiter.behind == behind]
        for follower_id in waiters[:at_most]:
            self._waiting.pop(follower_id).wake()
