from __future__ import annotations

from collections.abc import Callable

from spreadpilot_core.ibkr.admission import Admission
from spreadpilot_core.ibkr.deciding.observation import PermitState
from spreadpilot_core.ibkr.protocols import FollowerId

ANNA, BEN, CARL = FollowerId("anna"), FollowerId("ben"), FollowerId("carl")


class Wakes(list[str]):
    """Who was woken, in order."""

    def of(self, name: str) -> Callable[[], None]:
        """A callback that notes this name."""
        return lambda: self.append(name)


def test_one_phone_is_asked_for_one_login_at_a_time() -> None:
    """The second login of one owner waits until the first is settled, and is woken then."""
    admission, woken = Admission(parallel_starts=4), Wakes()
    assert admission.ask(ANNA, user="a", phone="owner", wake=woken.of("anna")).state is PermitState.HELD
    waiting = admission.ask(BEN, user="b", phone="owner", wake=woken.of("ben"))

    assert waiting.state is PermitState.WAITING
    assert "anna" in waiting.sentence
    admission.started(ANNA)
    assert woken == []
    admission.settled(ANNA)
    assert woken == ["ben"]
    assert admission.ask(BEN, user="b", phone="owner", wake=woken.of("ben")).state is PermitState.HELD


def test_paper_logins_ask_no_phone_and_do_not_wait_for_each_other() -> None:
    """Without a phone only the places limit."""
    admission = Admission(parallel_starts=4)

    for follower in (ANNA, BEN, CARL):
        assert admission.ask(follower, user=follower, phone=None, wake=lambda: None).state is PermitState.HELD


def test_places_are_given_back_when_the_start_call_returns() -> None:
    """Waiting for a login does not count; who waits for a place is woken in the order of asking, no more than fit."""
    admission, woken = Admission(parallel_starts=1), Wakes()
    admission.ask(ANNA, user="a", phone=None, wake=woken.of("anna"))
    assert admission.ask(BEN, user="b", phone=None, wake=woken.of("ben")).state is PermitState.WAITING
    assert admission.ask(CARL, user="c", phone=None, wake=woken.of("carl")).state is PermitState.WAITING

    admission.started(ANNA)

    assert woken == ["ben"]


def test_a_user_that_another_gateway_is_logged_in_as_is_taken() -> None:
    """Both are named; the user is free when the first gateway is gone."""
    admission, woken = Admission(parallel_starts=4), Wakes()
    admission.hold_user(ANNA, "shared")
    taken = admission.ask(BEN, user="shared", phone=None, wake=woken.of("ben"))

    assert taken.state is PermitState.TAKEN
    assert "anna" in taken.sentence
    assert "ben" in taken.sentence
    admission.gone(ANNA)
    assert woken == ["ben"]
    assert admission.ask(BEN, user="shared", phone=None, wake=woken.of("ben")).state is PermitState.HELD


def test_an_adopted_login_takes_its_permit_before_others_may_ask() -> None:
    """A gateway that was logging in when the last manager died is not doubled."""
    admission = Admission(parallel_starts=4)
    admission.adopt(ANNA, user="a", phone="owner")

    assert admission.ask(BEN, user="b", phone="owner", wake=lambda: None).state is PermitState.WAITING
    assert admission.ask(CARL, user="a", phone=None, wake=lambda: None).state is PermitState.TAKEN


def test_asking_again_keeps_the_place_in_the_row() -> None:
    """A waiter that looks again by itself is not moved behind others."""
    admission, woken = Admission(parallel_starts=1), Wakes()
    admission.ask(ANNA, user="a", phone=None, wake=woken.of("anna"))
    admission.ask(BEN, user="b", phone=None, wake=woken.of("ben"))
    admission.ask(CARL, user="c", phone=None, wake=woken.of("carl"))
    admission.ask(BEN, user="b", phone=None, wake=woken.of("ben again"))

    admission.gone(ANNA)

    assert woken == ["ben"]
