"""The actions that a supervisor can begin: that each kind has one, and what an action's flags do to its run."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from spreadpilot_core.ibkr.deciding.decision import Action
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult, GatewayAction, Work
from spreadpilot_core.ibkr.supervision.actions.registry import ACTIONS
from spreadpilot_core.ibkr.supervision.actions.runner import ActionRunner
from spreadpilot_core.ibkr.tasks import Tasks


class Bench:
    """A runner with one action of a test's own: it works until it is let go on, and keeps what it brought."""

    def __init__(self, **flags: bool) -> None:
        self.go_on = asyncio.Event()
        self.applied: list[ActionResult[str]] = []
        self.ended = asyncio.Event()
        self.runner = ActionRunner(FollowerId("anna"), Tasks("test"), lambda _: self.ended.set())
        self.action: GatewayAction[str] = GatewayAction(
            kind=ActionKind.INSPECT, run=self.run, apply=lambda result, _: self.applied.append(result), **flags
        )
        facts: Any = SimpleNamespace()
        self.context = ActionContext(
            facts=facts, services=facts, asked=Action(ActionKind.INSPECT, ""), wake=lambda: None, relist=lambda: None
        )
        self.runner.begin(self.action, self.context)

    def run(self, context: ActionContext) -> Work[str]:
        """As long as the test wants."""
        return self.work(context)

    async def work(self, context: ActionContext) -> ActionResult[str]:
        """Say whether it was asked to give up."""
        await self.go_on.wait()
        return ActionResult(found="given up" if context.abort.is_set() else "done")


class BrokenBench(Bench):
    """With an action that has a defect."""

    async def work(self, context: ActionContext) -> ActionResult[str]:
        """Meet what nobody foresaw."""
        raise LookupError(context.asked.kind)


@pytest.mark.parametrize("kind", ActionKind)
def test_each_kind_of_action_has_one_file_that_carries_it_out(kind: ActionKind) -> None:
    """A kind without a file could be decided on and never done."""
    assert ACTIONS[kind].kind is kind
    assert ACTIONS[kind].span == f"gateway {kind.value}"


def test_only_actions_that_change_nothing_may_be_cut_short() -> None:
    """A launch or a removal that is cut short would leave it open what is there."""
    assert {kind for kind, action in ACTIONS.items() if action.cancellable} == {
        ActionKind.CHECK_IMAGE,
        ActionKind.PREPARE,
        ActionKind.CONNECT,
        ActionKind.HEARTBEAT,
        ActionKind.INSPECT,
    }
    assert {kind for kind, action in ACTIONS.items() if action.touches_container} == {
        ActionKind.LAUNCH,
        ActionKind.REMOVE,
        ActionKind.INSPECT,
    }


async def test_what_may_be_cut_short_is_when_something_else_is_wanted() -> None:
    """Its outcome says so, and nothing that it would have brought is taken."""
    bench = Bench(cancellable=True)
    bench.runner.make_way()
    await bench.ended.wait()
    assert [(each.failure, each.found) for each in bench.applied] == [(Failure.ABORTED, None)]
    assert bench.runner.kind is None


async def test_what_may_not_be_cut_short_is_asked_to_give_up_and_brings_what_it_has() -> None:
    """It goes on to its next safe point."""
    bench = Bench(touches_container=True)
    assert bench.runner.is_busy_with_container
    bench.runner.make_way()
    bench.go_on.set()
    await bench.ended.wait()
    assert [(each.failure, each.found) for each in bench.applied] == [(None, "given up")]
    assert not bench.runner.is_busy_with_container
    assert bench.runner.container_actions == 1


async def test_a_defect_of_an_action_is_its_failure_and_leaves_it_open_what_is_there() -> None:
    """No exception of an action reaches the loop; the runtime is asked."""
    bench = BrokenBench()
    await bench.ended.wait()
    [result] = bench.applied
    assert (result.failure, result.runtime_unsure) == (Failure.FAILED, True)
    assert bench.runner.outcome is not None
    assert bench.runner.outcome.sentence.startswith("inspect failed in a way nobody foresaw")


async def test_an_action_with_nothing_to_wait_for_leaves_the_runner_free() -> None:
    """It was done at once, or what it is for has gone: no outcome tells of it."""
    bench = Bench(cancellable=True)
    bench.go_on.set()
    await bench.ended.wait()
    before = bench.runner.outcome
    at_once: GatewayAction[None] = GatewayAction(kind=ActionKind.RETURN_PERMIT, run=lambda _: None)
    bench.runner.begin(at_once, bench.context)
    assert (bench.runner.kind, bench.runner.outcome) == (None, before)
