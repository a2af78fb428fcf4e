"""Whose container changed, told without asking every follower."""

from __future__ import annotations

from typing import Any

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.supervision.holders import Holders


class Holder:
    """Knows its containers, and counts how often it was asked."""

    def __init__(self, name: str, *containers: str) -> None:
        self.follower_id = FollowerId(name)
        self.containers = set(containers)
        self.asked = 0

    def knows(self, container_id: ContainerId) -> bool:
        """As a supervisor does."""
        self.asked += 1
        return container_id in self.containers


def fleet(*followers: Holder) -> tuple[Holders, dict[FollowerId, Any]]:
    supervisors: dict[FollowerId, Any] = {each.follower_id: each for each in followers}
    return Holders(supervisors), supervisors


def test_the_container_of_a_launch_is_found_without_asking_the_others() -> None:
    """Three thousand launches must not ask three thousand followers each."""
    many = [Holder(f"f{number}", f"c{number}") for number in range(100)]
    holders, _ = fleet(*many)
    for number, each in enumerate(many):
        holders.expect(each, ContainerId(f"c{number}"))  # type: ignore[arg-type]  # it stands for a supervisor
    found = [holders.of(ContainerId(f"c{number}")) for number in range(100)]
    assert found == many
    assert sum(each.asked for each in many) == 100


def test_a_container_that_no_launch_told_of_is_looked_for() -> None:
    """One that was adopted is found as well, and a stranger's is nobody's."""
    anna, bert = Holder("anna", "a"), Holder("bert", "b")
    holders, _ = fleet(anna, bert)
    assert holders.of(ContainerId("b")) is bert
    assert holders.of(ContainerId("stranger")) is None


def test_a_follower_that_is_gone_holds_nothing() -> None:
    """What was expected of it is forgotten with it."""
    anna = Holder("anna", "a")
    holders, supervisors = fleet(anna)
    holders.expect(anna, ContainerId("a"))  # type: ignore[arg-type]  # as above
    supervisors.clear()
    assert holders.of(ContainerId("a")) is None
