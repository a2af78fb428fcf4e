from __future__ import annotations

import random

import pytest

from spreadpilot_core.ibkr.errors import ClientIdsExhaustedError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.supervision.leases import ClientIdLeases

ANNA, BEN = FollowerId("anna"), FollowerId("ben")


def test_a_client_id_is_drawn_once_and_kept() -> None:
    """The same follower gets the same id; nobody else gets it."""
    ids = ClientIdLeases(1000, 9999, rng=random.Random(1))
    anna = ids.lease(ANNA)

    assert ids.lease(ANNA) == anna
    assert 1000 <= anna <= 9999
    assert ids.lease(BEN) != anna


def test_another_client_id_is_drawn_when_the_old_one_is_refused() -> None:
    """After 326 the id is avoided and given back."""
    ids = ClientIdLeases(1, 2, rng=random.Random(1))
    old = ids.lease(ANNA)
    new = ids.lease(ANNA, other_than=(old,))

    assert {old, new} == {1, 2}
    assert ids.lease(BEN) == old


def test_exhausted_client_ids_name_the_range_the_holders_and_the_setting() -> None:
    """All ids of a small range are found before it gives up."""
    ids = ClientIdLeases(5, 7, rng=random.Random(1))
    for number in range(3):
        ids.lease(FollowerId(f"f{number}"))

    with pytest.raises(ClientIdsExhaustedError, match=r"5-7: all 3 are held .*client_id_range_end"):
        ids.lease(ANNA)


def test_a_claimed_client_id_is_not_drawn_for_others() -> None:
    """Records and running gateways claim theirs before anything is handed out."""
    ids = ClientIdLeases(1, 2, rng=random.Random(1))
    ids.claim(ANNA, 1)

    assert ids.lease(BEN) == 2
    ids.release(ANNA)
    assert ids.lease(FollowerId("carl")) == 1
