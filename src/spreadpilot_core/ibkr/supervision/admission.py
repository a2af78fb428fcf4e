"""Permits: leave to spend one login. The one place where gateways exclude each other, and it never awaits.

A permit takes three things, in this order: the IBKR user (one login at a time), the phone that will be asked (one prompt at a
time per owner; paper logins need none), and one of the places for parallel starts. The place is given back when the
controller shows its login window, when the container ends, or when `window_time` is over: so many JVMs start at once and no more;
user and phone when the login is settled in the record store. Apart from that a follower holds
its user name as long as its gateway exists, so that no other follower can log the same user in.

The secret is read by who holds a permit, so that a fleet's secrets are read one after the other, each shortly before its
delivery. Whose user nobody knows before that takes a permit without one, and asks again by name; when the name is busy, the
place goes to the next in the row meanwhile.

Each of the three is a row, first come, first served: what is given back is handed to the first who waits, who is woken, and
holds it from that moment on. Who waits for the second or third thing keeps what it has of the first: it has waited for that in
a row of its own, and nobody who has a place waits for a user or a phone. Whatever the size of the fleet, asking and giving back
cost the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from spreadpilot_core.ibkr.deciding.observation import PermitState, PermitView
from spreadpilot_core.ibkr.model.details import PhoneQueue
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.users import canonical_user, user_digest
from spreadpilot_core.ibkr.system.wording import counted

Wake = Callable[[], None]


@dataclass(slots=True)
class _Row:
    """Something that few may hold at once, and who waits for it, in the order of asking."""

    capacity: int = 1
    holders: dict[FollowerId, None] = field(default_factory=dict)
    waiting: dict[FollowerId, Wake] = field(default_factory=dict)

    def take(self, follower_id: FollowerId, wake: Wake) -> bool:
        """Hold it, or wait; who asks again keeps its place in the row."""
        if follower_id in self.holders:
            return True
        if len(self.holders) < self.capacity:
            self.holders[follower_id] = None
            return True
        self.waiting.setdefault(follower_id, wake)
        return False

    def leave(self, follower_id: FollowerId) -> None:
        """Neither hold it nor wait for it; the next who waits is handed it."""
        self.waiting.pop(follower_id, None)
        self.holders.pop(follower_id, None)
        while self.waiting and len(self.holders) < self.capacity:
            following = next(iter(self.waiting))
            self.holders[following] = None
            self.waiting.pop(following)()

    def force(self, follower_id: FollowerId) -> None:
        """Hold it, whoever else does: it is so already."""
        self.waiting.pop(follower_id, None)
        self.holders[follower_id] = None

    def other_holder(self, follower_id: FollowerId) -> FollowerId | None:
        """Somebody else who holds it."""
        return next((each for each in self.holders if each != follower_id), None)


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a follower holds or waits for."""

    user: str | None = None
    phone: str | None = None


class Admission:
    """All permits of one manager."""

    def __init__(self, *, parallel_starts: int) -> None:
        self._claims: dict[FollowerId, _Claim] = {}
        self._places = _Row(parallel_starts)
        self._users: dict[str, _Row] = {}
        self._phones: dict[str, _Row] = {}
        self.held_elsewhere: Mapping[str, str] = {}
        """Digests of the users whose gateways on this engine are not this manager's, and a sentence about each."""

    def ask(self, follower_id: FollowerId, *, user: str | None, phone: str | None, wake: Wake) -> PermitView:
        """A permit, or behind whom to wait; `wake` is called when that was handed over, and asking again may help.

        Args:
            follower_id: who asks.
            user: None while nobody knows it: then the secret may be read, and a permit with the name is asked for next.
            phone: whose phone the login asks.
            wake: called at most once.
        """
        claim = _Claim(_canonical(user), _canonical(phone))
        self._change(follower_id, claim)
        view = self._user(follower_id, claim, wake) or self._phone(follower_id, claim, wake)
        if view is not None:
            self.started(follower_id)  # nobody who waits for a user or a phone keeps a place from others
            return view
        if not self._places.take(follower_id, wake):
            count = len(self._places.holders)
            sentence = f"It waits for a place: {counted(count, 'gateway')} {'is' if count == 1 else 'are'} being started (parallel_starts)."
            return PermitView(PermitState.WAITING, sentence, claim.user)
        return PermitView(PermitState.HELD, user=claim.user)

    def _change(self, follower_id: FollowerId, claim: _Claim) -> None:
        """From now on it claims this; what it claimed else is free."""
        before = self._claims.get(follower_id, _Claim())
        self._claims[follower_id] = claim
        if before.phone != claim.phone:
            _leave(self._phones, before.phone, follower_id)
        if before.user != claim.user:
            _leave(self._users, before.user, follower_id)

    def _user(self, follower_id: FollowerId, claim: _Claim, wake: Wake) -> PermitView | None:
        """Why it can't have its user now; None: it holds it, or nobody knows it."""
        user = claim.user
        if user is None:
            return None
        elsewhere = self.held_elsewhere.get(user_digest(user))
        if elsewhere is not None:
            sentence = f"{elsewhere} It has the IBKR user {user} of {follower_id}."
            return PermitView(PermitState.TAKEN, sentence, user)
        row = self._users.setdefault(user, _Row())
        if row.take(follower_id, wake):
            return None
        owner = row.other_holder(follower_id)
        sentence = f"IBKR user {user} is logged in for follower {owner} already; {follower_id} names the same user."
        return PermitView(PermitState.TAKEN, sentence, user)

    def _phone(self, follower_id: FollowerId, claim: _Claim, wake: Wake) -> PermitView | None:
        if claim.phone is None:
            return None
        row = self._phones.setdefault(claim.phone, _Row())
        if row.take(follower_id, wake):
            return None
        other = row.other_holder(follower_id)
        sentence = f"It waits for the login of {other}: the phone of {claim.phone} is asked for one at a time."
        return PermitView(PermitState.WAITING, sentence, claim.user)

    def adopt(self, follower_id: FollowerId, *, user: str, phone: str | None, starting: bool = False) -> None:
        """A gateway that is logging in already takes its permit without asking, and a place when it is still starting."""
        claim = _Claim(canonical_user(user), _canonical(phone))
        self._change(follower_id, claim)
        self.hold_user(follower_id, user)
        if claim.phone is not None:
            self._phones.setdefault(claim.phone, _Row()).force(follower_id)
        if starting:
            self._places.force(follower_id)

    def taken_by(self, follower_id: FollowerId, user: str) -> FollowerId | None:
        """The other follower whose gateway is logged in as this user."""
        row = self._users.get(canonical_user(user))
        return None if row is None or follower_id in row.holders else row.other_holder(follower_id)

    def hold_user(self, follower_id: FollowerId, user: str) -> None:
        """The follower's gateway is logged in as this user."""
        name = canonical_user(user)
        claim = self._claims.get(follower_id, _Claim())
        if claim.user != name:
            self._change(follower_id, replace(claim, user=name))
        self._users.setdefault(name, _Row()).force(follower_id)

    def started(self, follower_id: FollowerId) -> None:
        """The start takes no place any more, one way or the other; said again it changes nothing."""
        self._places.leave(follower_id)

    def settled(self, follower_id: FollowerId) -> None:
        """The login is settled: its phone may be asked again."""
        claim = self._claims.get(follower_id)
        if claim is not None:
            self._claims[follower_id] = replace(claim, phone=None)
            _leave(self._phones, claim.phone, follower_id)
        self.started(follower_id)

    def phones(self) -> tuple[PhoneQueue, ...]:
        """Each phone that is asked, or about to be, and who waits for it."""
        return tuple(PhoneQueue(name, tuple(row.holders), tuple(row.waiting)) for name, row in self._phones.items())

    def gone(self, follower_id: FollowerId) -> None:
        """The follower's gateway is confirmed gone, or was never made: it holds nothing any more, and waits for nothing."""
        self.settled(follower_id)
        claim = self._claims.pop(follower_id, None)
        if claim is not None:
            _leave(self._users, claim.user, follower_id)


def _canonical(name: str | None) -> str | None:
    return canonical_user(name) if name is not None else None


def _leave(rows: dict[str, _Row], name: str | None, follower_id: FollowerId) -> None:
    """Leave the row of this name; one that nobody holds is forgotten."""
    row = rows.get(name) if name is not None else None
    if row is None or name is None:
        return
    row.leave(follower_id)
    if not row.holders:
        rows.pop(name, None)
