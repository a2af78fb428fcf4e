"""IBKR's user names: one function says which are one user, and everything that names a user goes through it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.credentials.courier.encoding import UntypableError, check_user
from spreadpilot_core.ibkr.deciding.observation import PermitState
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Login
from spreadpilot_core.ibkr.model.records import AttemptId, LoginAttempt, Record
from spreadpilot_core.ibkr.model.users import canonical_user, differs_in_more_than_case
from spreadpilot_core.ibkr.supervision.admission import Admission

ALIKE = ["Alice123", "ALICE123", "alice123", "\uff41\uff4c\uff49\uff43\uff45123", "ali\u200bce123", "\ufeffalice123 ", "Al\u00adice123", "alice\u2060123\ufe0f"]  # fmt: skip


@pytest.mark.parametrize("user", ALIKE)
def test_what_ibkr_takes_for_one_user_is_one(user: str) -> None:
    """Case, width and invisible characters make no other user."""
    assert canonical_user(user) == "alice123"


@given(st.text())
def test_the_form_is_stable(user: str) -> None:
    """The canonical form of a canonical form is itself, for every text."""
    once = canonical_user(user)
    assert canonical_user(once) == once
    assert canonical_user(once.swapcase()) == canonical_user(user.swapcase())


@pytest.mark.parametrize("user", ["Alice123", "alice123", "ALICE_1.2@x"])
@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
def test_a_name_in_capitals_is_taken(user: str, controller: str) -> None:
    """It differs in case alone: the login gets it in lower case."""
    assert not differs_in_more_than_case(user)
    check_user(user, controller)  # type: ignore[arg-type]


@pytest.mark.parametrize("user", ["ali\u200bce", "\uff41lice", "ali ce", "alice\u00a0", "\u202ealice", "\u3164alice", "ali\u00adce", "\ufb01ona"])  # fmt: skip
@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
def test_a_name_that_differs_in_more_than_case_is_refused(user: str, controller: str) -> None:
    """It would be another user, or none, at IBKR: a login with it is a failed one."""
    with pytest.raises(UntypableError):
        check_user(user, controller)  # type: ignore[arg-type]


def test_permits_exclude_one_user_however_it_is_written() -> None:
    """Two followers that name the same user in other letters never log in at once, nor one beside the other."""
    admission = Admission(parallel_starts=4)
    anna, bert = FollowerId("anna"), FollowerId("bert")
    assert admission.ask(anna, user="Alice123", phone=None, wake=lambda: None).state is PermitState.HELD
    assert admission.ask(bert, user="aLICE123", phone=None, wake=lambda: None).state is PermitState.TAKEN
    admission.gone(anna)
    assert admission.ask(bert, user="alice\u200b123", phone=None, wake=lambda: None).state is PermitState.HELD


def test_one_phone_is_one_however_its_owner_is_written() -> None:
    """The owner of a phone may be a user: the same letters decide."""
    admission = Admission(parallel_starts=4)
    assert admission.ask(FollowerId("a"), user="u1", phone="Olga", wake=lambda: None).state is PermitState.HELD
    assert admission.ask(FollowerId("b"), user="u2", phone="olga ", wake=lambda: None).state is PermitState.WAITING


def test_logins_and_records_hold_the_canonical_form() -> None:
    """Ledger keys, budgets and rejected users are compared as they are stored."""
    now = datetime(2026, 11, 24, tzinfo=UTC)
    attempt = LoginAttempt(
        id=AttemptId("1"), user="Bob", follower_id=FollowerId("b"), secret_version="1", reserved_at=now
    )
    login = Login(user="BOB", version="1", source="stored", written_at=None, ticket="t")
    record = Record(follower_id=FollowerId("b"), user="BoB", rejected_user="bOb")
    assert attempt.user == login.user == record.user == record.rejected_user == "bob"
