"""A secret that could not be had, and another version of it: decided in made-up time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure
from spreadpilot_core.ibkr.model.states import State
from support.decide_world import World


def _refused(failure: Failure) -> World:
    """A world whose first look at the secret has just failed; its turn is given back."""
    world = World()
    world.fail_next = failure
    for _ in range(10):
        world.step()
        if world.outcome is not None and world.outcome.failure is failure and world.permit is None:
            return world
    raise AssertionError(world.memory)


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.UNAVAILABLE])
def test_another_version_ends_the_wait_for_a_secret(failure: Failure) -> None:
    """Be it missing, unusable or out of reach: with another version it is read at once, in a turn of its own."""
    waiting, mended = _refused(failure), _refused(failure)
    assert waiting.step().action is None
    mended.step()  # it has learned of the failure
    mended.now = waiting.memory.not_before - timedelta(seconds=1)
    mended.version = "2"
    begun = [decision.action.kind for decision in (mended.step(), mended.step()) if decision.action is not None]
    assert begun == [ActionKind.ASK_PERMIT, ActionKind.PREPARE]


def test_the_same_version_is_waited_for() -> None:
    """Otherwise a missing secret would be asked for without a pause."""
    world = _refused(Failure.REFUSED)
    before = world.now
    while (decision := world.step()).action is None:
        world.now += timedelta(seconds=1)
    assert world.now - before > timedelta(seconds=200)
    assert decision.action is not None


def test_what_is_asked_for_says_how_it_counts_at_once() -> None:
    """The next action names the command, ready to be pasted."""
    decision = _refused(Failure.REFUSED).step()
    assert decision.state is State.NEEDS_HUMAN
    assert "`gateway-manager launch" in (decision.next_action or "")
