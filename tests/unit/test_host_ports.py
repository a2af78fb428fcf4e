from __future__ import annotations

import socket
from typing import Any

import pytest

from spreadpilot_core.ibkr.errors import PortsExhaustedError
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Endpoint, Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.runtimes.host_ports import PortLeases, nothing_listens
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


def test_a_foreign_containers_port_is_respected_also_while_it_does_not_run() -> None:
    """Nothing listens there now, and it is leased only once the container is gone."""
    first = free_ports(2)
    ports = PortLeases(first, first + 1)
    ports.respect([first])

    assert ports.lease(ANNA) == first + 1
    with pytest.raises(PortsExhaustedError, match="1 in use by other programs"):
        ports.lease(BEN)
    ports.respect([])
    assert ports.lease(BEN) == first


def test_a_port_that_another_program_listens_on_is_not_leased() -> None:
    """The bind test finds it, also when it listens on all addresses."""
    first = free_ports(2)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("0.0.0.0", first))
        other.listen()

        assert not nothing_listens(first)
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
    assert ports.refuse(ANNA) == first
    ports.release(ANNA)

    assert ports.lease(ANNA) == first + 1
    assert ports.lease(BEN) == first


def gateway(follower_id: FollowerId, port: int, **fields: Any) -> Gateway:
    """One that runs there."""
    fields = {
        "container_id": ContainerId(f"container of {follower_id}"),
        "name": f"gw-{follower_id}",
        "client_id": 1000,
        "trading_mode": TradingMode.PAPER,
        "spec_digest": "spec",
        "controller": "ibc",
        "image": "image",
        "phase": GatewayPhase.RUNNING,
        **fields,
    }
    return Gateway(follower_id=follower_id, endpoint=Endpoint("127.0.0.1", port), **fields)


def test_what_runs_keeps_its_port_also_outside_the_range() -> None:
    """A list claims it as it is; it is free once the container is gone."""
    ports = PortLeases(40_000, 40_001)
    anna = gateway(ANNA, 39_999)
    ports.listed([anna], [], before=ports.containers)

    assert ports.held() == {39_999: ANNA}
    ports.gone(anna.container_id)
    assert ports.held() == {}


def test_what_a_list_leaves_out_is_gone_and_what_went_meanwhile_stays_gone() -> None:
    """A list tells of the moment when it was asked for: a launch begun since holds its port, and a removed one has none."""
    ports = PortLeases(40_000, 40_003)
    anna, ben = gateway(ANNA, 40_000), gateway(BEN, 40_001)
    ports.listed([anna, ben], [], before=ports.containers)
    before = ports.containers
    ports.gone(anna.container_id)
    launched = ports.lease(FollowerId("carl"))
    ports.made(ContainerId("of carl"), FollowerId("carl"))
    ports.listed([anna], [], before=before)

    assert ports.held() == {launched: "carl"}


def test_a_strange_containers_port_is_left_alone_and_is_not_its_followers() -> None:
    """It bears the labels alone: the follower keeps its own port, and nobody gets that one."""
    first = free_ports(2)
    ports = PortLeases(first, first + 1)
    ports.listed([gateway(ANNA, first, faults=("it has another entrypoint",))], [], before=ports.containers)

    assert ports.held() == {}
    assert ports.lease(ANNA) == first + 1


def test_a_follower_gets_the_port_that_it_had_before_anybody_else() -> None:
    """As its record says it, also after a restart; others take it only when there is no better one."""
    first = free_ports(3)
    ports = PortLeases(first, first + 2)
    ports.remember(BEN, first)
    ports.pin(FollowerId("carl"), first + 1)

    assert ports.lease(ANNA) == first + 2
    assert ports.lease(BEN) == first
    assert ports.lease(FollowerId("carl")) == first + 1
