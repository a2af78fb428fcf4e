"""Which containers a manager takes for its gateways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Endpoint, Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.records import ContainerId, Identities, Record
from spreadpilot_core.ibkr.supervision.ownership import Claims, claim

OURS = Identities("own", ("adopted",))
ALICE = FollowerId("alice")
GATEWAY = Gateway(
    container_id=ContainerId("c1"),
    name="ibgateway-follower-alice",
    follower_id=ALICE,
    client_id=1000,
    endpoint=Endpoint("127.0.0.1", 4100),
    trading_mode=TradingMode.PAPER,
    spec_digest="d",
    controller="ibcontroller",
    image="gateway:1",
    phase=GatewayPhase.RUNNING,
    identity="own",
    launch_id="launch-1",
)
NAMED = Record(follower_id=ALICE, container_id=ContainerId("c1"), launch_id="launch-1")
CUT_OFF = replace(NAMED, container_id=None)
OTHER = replace(NAMED, container_id=ContainerId("c2"), launch_id="launch-2")
LATER = replace(CUT_OFF, launch_id="launch-2", earlier_launches=("launch-0", "launch-1"))
"""Launched again since, in vain: the container of the launch before has its name."""
LOST = Record(follower_id=ALICE)


def claims(
    *found: Gateway, record: Record = NAMED, held: str | None = None, known: bool = True, accept: bool = False
) -> Claims:
    return claim(
        found,
        lambda _: (record, ContainerId(held) if held else None),
        OURS,
        records_known=known,
        accept_lost_records=accept,
    )


@pytest.mark.parametrize(
    ("gateway", "more"),
    [
        ({}, {}),
        ({"is_renamed": True}, {}),
        ({"phase": GatewayPhase.EXITED}, {}),
        ({"phase": GatewayPhase.AWAITING_SECRET}, {"record": CUT_OFF}),
        ({"phase": GatewayPhase.AWAITING_SECRET}, {"record": LATER}),
        ({"phase": GatewayPhase.PENDING}, {"record": LATER}),
        ({}, {"record": LOST, "held": "c1"}),
        ({}, {"record": LOST, "held": "c1", "known": False}),
        ({}, {"record": LOST, "accept": True}),
        ({"identity": "adopted"}, {"record": LOST, "accept": True}),
        ({}, {"record": OTHER, "accept": True}),
    ],
)
def test_what_is_claimed(gateway: dict[str, Any], more: dict[str, Any]) -> None:
    """The record names it, or the launch that was cut off; or it is supervised already; or an operator's word suffices."""
    mine = replace(GATEWAY, **gateway)
    assert claims(mine, **more) == Claims({ALICE: mine})


@pytest.mark.parametrize(
    ("gateway", "more", "holds"),
    [
        ({}, {"record": LOST}, True),
        ({}, {"record": OTHER}, True),
        ({}, {"known": False}, True),
        ({"identity": "adopted"}, {"record": LOST}, True),
        ({"phase": GatewayPhase.PAUSED}, {"record": LOST}, True),
        ({"phase": GatewayPhase.RUNNING}, {"record": CUT_OFF}, True),
        ({"phase": GatewayPhase.RUNNING}, {"record": LATER}, True),
        ({"phase": GatewayPhase.AWAITING_SECRET}, {"record": replace(LATER, container_id="c2")}, False),
        ({"phase": GatewayPhase.AWAITING_SECRET, "launch_id": ""}, {"record": LATER}, False),
        ({"phase": GatewayPhase.AWAITING_SECRET, "is_renamed": True}, {"record": CUT_OFF}, False),
        ({"is_renamed": True}, {"record": LOST, "accept": True}, True),
        ({"phase": GatewayPhase.EXITED}, {"record": LOST}, False),
        ({"faults": ("it has another entrypoint",)}, {}, False),
        ({"faults": ("it has another entrypoint",)}, {"record": LOST, "accept": True}, False),
        ({"faults": ("it has another entrypoint",)}, {"held": "c1"}, False),
    ],
)
def test_what_is_left_alone(gateway: dict[str, Any], more: dict[str, Any], holds: bool) -> None:
    """It is reported; where it may be logged in, its follower starts no other."""
    found = claims(replace(GATEWAY, **gateway), **more)
    assert found.gateways == {}
    assert list(found.reports) == ["c1"]
    assert (ALICE in found.unclaimed) == holds
    assert len(found.others) == holds


def test_a_copy_beside_the_gateway_is_told_from_it() -> None:
    """Everything about it may be the same, but for the id: the gateway is claimed, and its follower goes on."""
    copy = replace(GATEWAY, container_id=ContainerId("copy"))
    for accept in (False, True):
        found = claims(copy, GATEWAY, accept=accept)
        assert found.gateways == {ALICE: GATEWAY}
        assert (list(found.reports), found.unclaimed) == (["copy"], {})


def test_of_two_that_no_record_names_none_is_chosen() -> None:
    """An operator's word says that records were lost, not which of two it is."""
    found = claims(GATEWAY, replace(GATEWAY, container_id=ContainerId("c9")), record=LOST, accept=True)
    assert found.gateways == {}
    assert len(found.reports) == 2
    assert ALICE in found.unclaimed
