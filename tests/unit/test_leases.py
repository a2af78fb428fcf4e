from __future__ import annotations

import random
import socket

import pytest

from spreadpilot_core.ibkr.errors import ClientIdsExhaustedError, PortsExhaustedError
from spreadpilot_core.ibkr.leases import ClientIdLeases, PortLeases, is_free
from spreadpilot_core.ibkr.protocols import FollowerId
from support.ports import free_ports

ANNA, BEN = FollowerId("anna"), FollowerId("ben")


def test_a_hundred_and_one_ports_are_a_hundred_and_one_gateways() -> None:
    """Both ends of the range belong; the next one gets the range, the holders and the setting to change."""
    first = free_ports(101)
    ports = PortLeases(first, first + 100)
    leased = [ports.lease(FollowerId(f"f{number}")) for number in range(101)]

    assert sorted(leased) == list(range(first, first + 101))
    with pytest.raises(
        PortsExhaustedError, match=rf"{first}-{first + 100}: 101 held by gateways .*by f0.*port_range_end"
    ):
        ports.lease(FollowerId("one more"))


def test_a_port_that_another_program_listens_on_is_not_leased() -> None:
    """The bind test finds it, also when it listens on all addresses."""
    first = free_ports(2)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("0.0.0.0", first))
        other.listen()

        assert not is_free(first)
        assert PortLeases(first, first + 1).lease(ANNA) == first + 1


def test_a_released_port_is_the_last_to_be_given_out_again() -> None:
    """A program that still talks to the old endpoint must not reach another account."""
    first = free_ports(3)
    ports = PortLeases(first, first + 2)
    assert ports.lease(ANNA) == first
    ports.release(ANNA)

    assert [ports.lease(FollowerId(name)) for name in "bcd"] == [first + 1, first + 2, first]


def test_a_port_that_was_refused_at_start_comes_after_all_others() -> None:
    """A container may hold a port that no bind test sees; it is tried again only when nothing else is left."""
    first = free_ports(2)
    ports = PortLeases(first, first + 1)
    assert ports.lease(ANNA) == first
    ports.release(ANNA, refused=True)

    assert ports.lease(ANNA) == first + 1
    assert ports.lease(BEN) == first


def test_an_adopted_gateway_keeps_its_port_also_outside_the_range() -> None:
    """What runs is claimed as it is, and released when it is gone."""
    ports = PortLeases(40_000, 40_001)
    ports.claim(ANNA, 39_999)

    assert ports.held() == {39_999: ANNA}
    ports.release(ANNA)
    assert ports.held() == {}


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
