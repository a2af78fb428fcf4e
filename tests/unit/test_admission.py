from __future__ import annotations

from collections.abc import Callable

from spreadpilot_core.ibkr.deciding.observation import PermitState
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.supervision.admission import Admission

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


def test_a_user_that_another_manager_has_logged_in_is_refused_and_the_other_named() -> None:
    """However the name is written; others go on, and it too once the other gateway is gone."""
    admission = Admission(parallel_starts=4)
    admission.held_elsewhere = {user_digest("Trader"): "The container c belongs to another manager."}

    refused = admission.ask(ANNA, user="TRADER", phone=None, wake=lambda: None)
    assert refused.state is PermitState.TAKEN
    assert "another manager" in refused.sentence
    assert admission.ask(BEN, user="ben", phone=None, wake=lambda: None).state is PermitState.HELD
    admission.held_elsewhere = {}
    assert admission.ask(ANNA, user="TRADER", phone=None, wake=lambda: None).state is PermitState.HELD


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


def test_what_is_given_back_goes_to_the_first_in_the_row_and_not_to_a_newcomer() -> None:
    """Between being woken and asking again nobody can take its turn."""
    admission, woken = Admission(parallel_starts=1), Wakes()
    admission.ask(ANNA, user="a", phone=None, wake=woken.of("anna"))
    admission.ask(BEN, user="b", phone=None, wake=woken.of("ben"))
    admission.started(ANNA)

    assert admission.ask(CARL, user="c", phone=None, wake=woken.of("carl")).state is PermitState.WAITING
    assert admission.ask(BEN, user="b", phone=None, wake=woken.of("ben")).state is PermitState.HELD
    assert woken == ["ben"]


def test_a_turn_that_nobody_wants_any_more_goes_to_the_next() -> None:
    """Who was woken and is gone leaves no place unused."""
    admission, woken = Admission(parallel_starts=1), Wakes()
    admission.ask(ANNA, user="a", phone=None, wake=woken.of("anna"))
    admission.ask(BEN, user="b", phone=None, wake=woken.of("ben"))
    admission.ask(CARL, user="c", phone=None, wake=woken.of("carl"))
    admission.started(ANNA)
    admission.gone(BEN)

    assert woken == ["ben", "carl"]
    assert admission.ask(CARL, user="c", phone=None, wake=woken.of("carl")).state is PermitState.HELD


def test_who_turns_out_to_be_a_busy_user_gives_its_place_to_the_next() -> None:
    """Nobody knew the user before the secret was read in its turn; it asks by name then, and waits for that alone."""
    admission, woken = Admission(parallel_starts=1), Wakes()
    admission.hold_user(CARL, "shared")
    unnamed = admission.ask(ANNA, user=None, phone=None, wake=woken.of("anna"))
    assert (unnamed.state, unnamed.user) == (PermitState.HELD, None)
    admission.ask(BEN, user="b", phone=None, wake=woken.of("ben"))

    assert admission.ask(ANNA, user="shared", phone=None, wake=woken.of("anna")).state is PermitState.TAKEN
    assert woken == ["ben"]
    assert admission.ask(BEN, user="b", phone=None, wake=woken.of("ben")).state is PermitState.HELD
    admission.gone(CARL)
    assert woken == ["ben", "anna"]


def test_who_asks_by_its_name_keeps_its_place() -> None:
    """The user that the secret told is free: nothing is given back in between."""
    admission, woken = Admission(parallel_starts=1), Wakes()
    admission.ask(ANNA, user=None, phone=None, wake=woken.of("anna"))
    admission.ask(BEN, user="b", phone=None, wake=woken.of("ben"))

    named = admission.ask(ANNA, user="A", phone=None, wake=woken.of("anna"))
    assert (named.state, named.user) == (PermitState.HELD, "a")
    assert woken == []


def test_another_user_than_expected_frees_the_one_before() -> None:
    """The secret names somebody else than the last login: whoever waits for that user may go on."""
    admission, woken = Admission(parallel_starts=2), Wakes()
    admission.ask(ANNA, user="old", phone=None, wake=woken.of("anna"))
    assert admission.ask(BEN, user="old", phone=None, wake=woken.of("ben")).state is PermitState.TAKEN
    admission.ask(ANNA, user="new", phone=None, wake=woken.of("anna"))

    assert woken == ["ben"]
    assert admission.ask(BEN, user="old", phone=None, wake=woken.of("ben")).state is PermitState.HELD


def test_thousands_cost_one_wake_each() -> None:
    """Whoever waits, for a place or for one phone, is woken once, when its turn has come, in the order of asking."""
    for phone in (None, "owner"):
        admission, woken = Admission(parallel_starts=1), Wakes()
        names = [f"f{number}" for number in range(3000)]
        for each in names:
            admission.ask(FollowerId(each), user=each, phone=phone, wake=woken.of(each))
        for each in names:
            assert (
                admission.ask(FollowerId(each), user=each, phone=phone, wake=woken.of(each)).state is PermitState.HELD
            )
            admission.started(FollowerId(each))
            admission.settled(FollowerId(each))
        assert woken == names[1:]
