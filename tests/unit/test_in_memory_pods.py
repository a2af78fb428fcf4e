"""What only a pod-shaped runtime shows: it waits for a place, and its end is known only when its node says so."""

from __future__ import annotations

import asyncio

import pytest

from spreadpilot_core.ibkr.errors import NameTakenError, RuntimeUnavailableError
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.runtimes.in_memory import runtime as in_memory
from support.in_memory_place import PodPlace, pod_place_fixture  # noqa: F401  # a fixture
from support.runtimes import until


@pytest.fixture(name="place")
def place_fixture(pod_place: PodPlace) -> PodPlace:
    """A cluster of its own."""
    return pod_place


async def test_a_pod_without_a_place_is_pending_and_has_no_address(place: PodPlace) -> None:
    """Once the scheduler has one it waits for its password; cut off before, it is listed as it is."""
    place.engine.scheduler.clear()
    launching = asyncio.create_task(place.launch(place.opened))
    await until(lambda: len(place.engine.simulator) == 1, "for the pod")
    (pending,) = await place.opened.list()
    assert (pending.phase, pending.endpoint, pending.started_at) == (GatewayPhase.PENDING, None, None)
    launching.cancel()
    await asyncio.gather(launching, return_exceptions=True)
    await place.opened.remove(pending.container_id, grace=0)
    place.engine.scheduler.set()
    assert (await place.launch(place.opened)).endpoint is not None


async def test_a_pod_whose_node_is_lost_stays_its_followers_only_one(
    place: PodPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its removal says that its end is not confirmed; nothing replaces it; once the node answers it goes."""
    monkeypatch.setattr(in_memory, "CONFIRMED_WITHIN", 0.05)
    gateway = await place.launch(place.opened)
    place.engine.nodes.clear()
    with pytest.raises(RuntimeUnavailableError, match="not confirmed"):
        await place.opened.remove(gateway.container_id, grace=0.01)
    (still_there,) = await place.opened.list()
    assert (still_there.container_id, still_there.phase) == (gateway.container_id, GatewayPhase.RUNNING)
    with pytest.raises(NameTakenError):
        await place.launch(place.opened)
    place.engine.nodes.set()
    await place.opened.remove(gateway.container_id, grace=30)
    assert list(await place.opened.list()) == []


async def test_a_committed_pod_counts_as_one_that_may_log_in(place: PodPlace) -> None:
    """Its password is on its way: a manager that comes now must not take its login for one that was never begun."""
    container_id = await place.cut_off(place.opened)
    assert (await place.opened.list())[0].phase is GatewayPhase.AWAITING_SECRET
    await place.opened.remove(container_id, grace=0)

    delivering = asyncio.Event()

    async def never(_: object) -> None:
        delivering.set()
        await asyncio.Event().wait()

    async def committed(_: object) -> None:
        pass

    launching = asyncio.create_task(place.opened.launch(place.spec(), 1, secret=never, commit=committed))
    await delivering.wait()
    assert [each.phase for each in await place.opened.list()] == [GatewayPhase.RUNNING]
    launching.cancel()
    await asyncio.gather(launching, return_exceptions=True)
