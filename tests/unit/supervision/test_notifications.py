"""What a whole fleet tells people, in made-up time: real verdicts, real reasons, and silence where all is as it should be."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.notifications.audience import Channel
from spreadpilot_core.ibkr.notifications.notifier import Notifier
from spreadpilot_core.ibkr.notifications.outbox import Message
from spreadpilot_core.ibkr.store.in_memory import InMemoryShared
from spreadpilot_core.ibkr.supervision.notified import NotifiedFleet
from spreadpilot_core.ibkr.system.clock import utc_now
from support.made_up_fleet import ANNA, BEN, PASSWORD, MadeUpManager, World, world_in
from support.made_up_time import in_made_up_time, until

NAMES = [f"f{number:02}" for number in range(8)]


class Told:
    """What people got."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, _: Channel, message: Message) -> str | None:
        """Everything arrives."""
        self.messages.append(message)
        return None

    @property
    def titles(self) -> list[str]:
        """In their order."""
        return [each.title for each in self.messages]


@contextlib.asynccontextmanager
async def telling(world: World, told: Told, **settings: object) -> AsyncIterator[MadeUpManager]:
    """A manager with its notifier, as `GatewayManager` wires them."""
    manager = world.manager(notify_reminder=0, **settings)
    notifier = Notifier(
        manager.settings,
        urls=[SecretStr("json://people")],
        bus=manager.bus,
        notices=manager.services.notices,
        shared=InMemoryShared(world.content),
        may_act=lambda: True,
        send=told.send,
        sender_name="here",
        clock=utc_now,
    )
    notifier.watch(NotifiedFleet(manager.fleet, startup_time=120.0))
    notifier.begin()
    await manager.begin()
    try:
        yield manager
    finally:
        await notifier.close()
        await manager.close()


async def a_while(seconds: float = 1200.0) -> None:
    """Let time pass."""
    end = utc_now().timestamp() + seconds
    await until(lambda: utc_now().timestamp() >= end, within=seconds + 10)


@in_made_up_time
async def test_a_fleet_that_is_well_tells_nothing(tmp_path: Path) -> None:
    """Its first logins, a restart on schedule, a restart by an operator, a lost client, a manager that is followed by another."""
    told = Told()
    async with world_in(tmp_path / "here") as world:
        world.add(*NAMES)
        async with telling(world, told) as manager:
            for name in NAMES:
                await manager.state(State.READY, name)
            manager.inject("nightly_restart", NAMES[0])
            await a_while()
            await manager.restart(NAMES[1])
            manager.inject("drop_clients", NAMES[2])
            await a_while()
            assert await manager.reconnect(NAMES[3])
            for name in NAMES:
                await manager.state(State.READY, name)
        async with telling(world, told) as manager:
            await a_while()
            for name in NAMES:
                await manager.state(State.READY, name)
            await manager.stop(NAMES[0])
            world.change(NAMES[1], enabled=False)
            world.drop(NAMES[2])
            await a_while()
    assert told.titles == []


@in_made_up_time
async def test_a_crash_that_is_cured_within_the_delay_is_no_news_and_one_that_is_not_is(tmp_path: Path) -> None:
    """A container that is killed is back within half a minute; one that can't be started again is told, and its end too."""
    told = Told()
    async with world_in(tmp_path / "here") as world:
        world.add(ANNA)
        async with telling(world, told, notify_outage_delay=90.0) as manager:
            await manager.state(State.READY)
            await manager.kill()
            await until(lambda: manager.supervisor().state is not State.READY)
            await manager.state(State.READY)
            await a_while()
            assert told.titles == []
            world.script(ANNA, {"crash_at_start": 1}, {"crash_at_start": 1}, {"crash_at_start": 1})
            await manager.kill()
            await until(lambda: told.titles)
            await manager.state(State.READY)
            await a_while()
    assert told.titles == ["anna is out of service", "Resolved: anna"]
    assert "anna: " in told.messages[0].body
    assert "It is ready again. It took " in told.messages[1].body


@in_made_up_time
async def test_a_rejected_password_is_told_with_its_cure_and_so_is_its_rotation(tmp_path: Path) -> None:
    """Told once, also over a manager that follows; the new secret, and then the end."""
    told = Told()
    async with world_in(tmp_path / "here") as world:
        world.add(ANNA)
        world.script(ANNA, {"wrong_password": True})
        async with telling(world, told) as manager:
            await manager.state(State.NEEDS_HUMAN)
            await a_while()
        assert told.titles == ["anna needs somebody"]
        assert "To do: Store the right password, and it logs in by itself" in told.messages[0].body
        assert "user-anna" not in told.messages[0].body
        async with telling(world, told, secret_poll_interval=60.0) as manager:
            await manager.state(State.NEEDS_HUMAN)
            await a_while()
            assert told.titles == ["anna needs somebody"]
            world.broker.put("ibkr/anna", "user-anna", f"{PASSWORD}, another")
            await manager.state(State.READY)
            await a_while()
    assert sorted(told.titles[1:]) == ["Resolved: anna", "anna has a new secret"]
    assert PASSWORD not in str(told.messages)


@in_made_up_time
@pytest.mark.parametrize("answer", ["approved", "missed"])
async def test_each_phone_is_told_and_what_becomes_of_it(tmp_path: Path, answer: str) -> None:
    """Approved: it is over. Missed: somebody is needed, or it is asked again."""
    told = Told()
    async with world_in(tmp_path / "here") as world:
        world.add(ANNA, BEN, trading_mode="live")
        for name in (ANNA, BEN):
            world.script(name, {"second_factor": {"answer": answer, "seconds": 20}})
        async with telling(world, told) as manager:
            await until(lambda: len(told.titles) >= 2)
            assert sorted(told.titles[:2]) == [f"{name}: approve the login on the phone" for name in (ANNA, BEN)]
            assert "Approve it in IBKR Mobile on that phone. It has until" in told.messages[0].body
            await a_while()
            if answer == "approved":
                assert manager.supervisor().state is State.READY
                assert told.titles[2:] == ["Resolved: 2 logins"]
            else:
                assert manager.supervisor().state is not State.AWAITING_2FA
                assert "Resolved: 2 logins" not in told.titles
                assert {"anna needs somebody", "2 gateways need somebody"} & set(told.titles), told.titles


@in_made_up_time
async def test_a_storm_of_lost_links_is_one_message(tmp_path: Path) -> None:
    """All of them in one, and so is the end."""
    told = Told()
    async with world_in(tmp_path / "here") as world:
        world.add(*NAMES)
        async with telling(world, told) as manager:
            for name in NAMES:
                await manager.state(State.READY, name)
            for name in NAMES:
                manager.inject("link_lost", name, seconds=300)
            await a_while()
    assert told.titles == ["8 gateways are out of service", "Resolved: 8 gateways"]


@in_made_up_time
async def test_what_happens_in_the_reset_hours_is_expected(tmp_path: Path) -> None:
    """IBKR closes every gateway, and takes no login before their end; afterwards all are ready again."""
    told = Told()
    async with world_in(tmp_path / "here") as world:
        world.add(ANNA, BEN)
        for name in (ANNA, BEN):
            world.script(name, reset_hours="America/New_York 10:30-11:00")
        async with telling(world, told) as manager:
            for name in (ANNA, BEN):
                await manager.state(State.READY, name)
            await until(lambda: manager.supervisor().state is not State.READY)
            assert datetime(2026, 3, 2, 15, 29, tzinfo=UTC) < utc_now() < datetime(2026, 3, 2, 15, 31, tzinfo=UTC)
            await a_while()
            assert manager.supervisor().state is not State.READY
            for name in (ANNA, BEN):
                await manager.state(State.READY, name)
            await a_while()
    assert told.titles == []


@in_made_up_time
async def test_an_engine_that_is_away_is_told_once_for_all(tmp_path: Path) -> None:
    """The manager's notice, and not one message for each gateway that waits."""
    told = Told()
    async with world_in(tmp_path / "here") as world:
        world.add(*NAMES[:3])
        async with telling(world, told) as manager:
            for name in NAMES[:3]:
                await manager.state(State.READY, name)
            world.engine.go_away()
            manager.fleet._relist_asked.set()
            await until(lambda: told.titles)
            world.engine.come_back()
            await until(lambda: len(told.titles) > 1)
            await a_while()
    assert told.titles == ["The gateway manager has trouble", "Resolved: the gateway manager's trouble"]


@in_made_up_time
async def test_a_record_that_cannot_be_used_is_told_until_it_is_mended(tmp_path: Path) -> None:
    """With the field that is wrong."""
    told = Told()
    async with world_in(tmp_path / "here") as world:
        world.add(ANNA, account=7)
        async with telling(world, told) as manager:
            await until(lambda: told.titles)
            world.add(ANNA, account="DU1234567")
            await until(lambda: len(told.titles) > 1)
            await a_while()
            assert manager.events
    assert told.titles[0] == "anna needs somebody"
    assert "account is 7" in told.messages[0].body
