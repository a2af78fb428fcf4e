"""Records that go, break or turn live beside running gateways: whose gateway stays, and what ends the waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.errors import LaunchError, UnknownFollowerError, WrongTradingModeError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.store.local.followers_file import remove_follower, set_enabled, set_fields
from support.home import Home, eventually, seen

FLEET = ("anna", "bert", "cleo")


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


@contextlib.asynccontextmanager
async def running(home: Home, *, ready: tuple[str, ...] = FLEET, **settings: object) -> AsyncIterator[GatewayManager]:
    """A manager whose gateways are ready; they are left running at its end."""
    manager = home.manager(**settings)
    await manager.start()
    try:
        await all_ready(manager, *ready)
        yield manager
    finally:
        await manager.detach()


async def all_ready(manager: GatewayManager, *names: str) -> None:
    await eventually(lambda: all(manager.is_healthy(each) for each in names), lambda: told(manager))


async def say(manager: GatewayManager, name: str, words: str) -> None:
    """Wait until the follower's snapshot has these words among its notices."""
    await eventually(lambda: words in " ".join(seen(manager, name).notices), lambda: told(manager))


async def gone(manager: GatewayManager, name: str) -> None:
    def is_gone() -> bool:
        return all(each.follower_id != name for each in manager.list_gateways())

    await eventually(is_gone, lambda: told(manager))


def told(manager: GatewayManager) -> list[object]:
    return [(each.follower_id, each.state, each.reason, each.notices) for each in manager.list_gateways()]


def containers(manager: GatewayManager) -> dict[str, str | None]:
    return {each.follower_id: each.container for each in manager.list_gateways()}


async def write(home: Home, text: str | None) -> None:
    await asyncio.to_thread(home.followers_file.write_text, text) if text is not None else home.followers_file.unlink()


async def edit(home: Home, change: Callable[[str], str]) -> None:
    await write(home, change(home.followers_file.read_text()))


async def test_an_emptied_store_stops_nobody_before_an_operator_says_so(home: Home) -> None:
    """Emptied, missing, over a restart of the manager: all stay and ask; the confirmation that follows is audited."""
    await home.add(*FLEET, "dora")
    async with running(home, removal_delay=0.2) as manager:
        await manager.stop_gateway("dora")
        before = {each: container for each, container in containers(manager).items() if each != "dora"}
        for content in ("", None):
            await write(home, content)
            await say(manager, "anna", "confirm-removals")
        assert manager.missing_followers() == FLEET
        assert all(manager.is_healthy(each) for each in FLEET)
        assert seen(manager, "dora").endpoint is None  # who has no gateway is not missing, and not out of sight
    async with running(home, removal_delay=0.2) as manager:
        await say(manager, "anna", "Of 3 followers with a gateway 3 have lost their records")
        await asyncio.sleep(1)
        assert containers(manager) == before
        assert await manager.confirm_removals(["bert"]) == ("bert",)
        await gone(manager, "bert")
        assert manager.missing_followers() == ("anna", "cleo")
        assert await manager.confirm_removals() == ("anna", "cleo")
        await gone(manager, "anna")
        await gone(manager, "cleo")
    entries = await asyncio.to_thread(lambda: list(AuditTrail(home.directory).entries()))
    assert [(each["act"], each["follower"]) for each in entries if "confirm" in each["act"]] == [
        ("confirm-removal", name) for name in ("bert", "anna", "cleo")
    ]


async def test_one_record_of_three_goes_after_its_delay(home: Home) -> None:
    """A single record that is gone is let go by time alone, and not before; a record that is back by then stays."""
    await home.add(*FLEET)
    async with running(home, removal_delay=3.0) as manager:
        whole = home.followers_file.read_text()
        await edit(home, lambda text: text.replace('id = "bert"', 'id = "Bert"'))
        await say(manager, "bert", "Its record is gone; its gateway is stopped at")
        assert manager.is_healthy("bert")
        await write(home, whole)
        await eventually(lambda: seen(manager, "bert").notices == (), lambda: told(manager))
        await edit(home, lambda text: text.rpartition("[[follower]]")[0])
        await gone(manager, "cleo")
        assert manager.is_healthy("anna")
        assert manager.is_healthy("bert")


async def test_what_an_operator_says_counts_at_once(home: Home) -> None:
    """Disabled by record, however many, removed by command, stopped: nothing of that waits, whatever the delay."""
    await home.add(*FLEET, "dora")
    async with running(home, ready=(*FLEET, "dora"), removal_delay=3600) as manager:
        await asyncio.to_thread(set_enabled, home.followers_file, "anna", enabled=False)
        await asyncio.to_thread(remove_follower, home.followers_file, "bert")
        await asyncio.to_thread(remove_follower, home.followers_file, "cleo")
        await gone(manager, "bert")
        await gone(manager, "cleo")
        await eventually(lambda: seen(manager, "anna").container is None, lambda: told(manager))
        await write(home, "")
        await say(manager, "dora", "confirm-removals")
        await manager.stop_gateway("dora")
        assert manager.missing_followers() == ()


async def test_a_slip_leaves_the_last_good_reading_in_force(home: Home) -> None:
    """Unknown and misplaced names, a second record of the same id, a broken file: named in status, and nobody is stopped."""
    await home.add("anna", "bert")
    async with running(home, ready=("anna", "bert"), removal_delay=0.2) as manager:
        good, before = home.followers_file.read_text(), containers(manager)
        for slip, words in (
            (good.replace("enabled", "enbled"), "enbled is unknown (enabled was meant?)"),
            (good.replace("enabled = true", "enabled = true\nread_only_api = true"), "read_only_api stands outside"),
            (good.replace("enabled = true", ""), "enabled is missing in its record"),
            (good + good, "in 2 records"),
            (good + "[[follower\n", "can't be understood: line"),
            ("x = " + "[" * 5000, "nested too deeply"),
        ):
            await write(home, slip)
            await say(manager, "anna", words)
            assert containers(manager) == before
            assert all(manager.is_healthy(each) for each in ("anna", "bert"))
        await write(home, good.replace("enabled = true", "enabled = false\ncolour = 1"))
        await eventually(lambda: set(containers(manager).values()) == {None}, lambda: told(manager))
        assert seen(manager, "anna").state is State.INVALID


async def test_a_crash_under_a_broken_record_starts_what_was_last_good(home: Home) -> None:
    """The gateway that ends while its record is broken, also under the next manager, comes back by the reading before it."""
    await home.add("anna")
    async with running(home, ready=("anna",)):
        await edit(home, lambda text: text + "colour = 1\n")
    async with running(home, ready=("anna",)) as manager:
        await say(manager, "anna", "colour is unknown")
        runtime = home.runtime()
        await runtime.open()
        (gateway,) = await runtime.list()
        await runtime.remove(gateway.container_id, grace=0)
        await eventually(lambda: not manager.is_healthy("anna"), lambda: told(manager))
        await all_ready(manager, "anna")
        await runtime.close()
        with pytest.raises(UnknownFollowerError):
            manager.is_healthy("colour")


async def test_paper_becomes_live_by_an_operators_word_alone(home: Home) -> None:
    """The record's word is held with its other changes, also over a crash and a restart; `launch --live` lets it through."""
    await home.add("anna")
    async with running(home, ready=("anna",)) as manager:
        assert await manager.get_client("anna", require="paper") is not None
        with pytest.raises(WrongTradingModeError, match="anna is paper, and live is required"):
            await manager.get_client("anna", require=TradingMode.LIVE)
        with pytest.raises(LaunchError, match="does not ask for that"):
            await manager.launch_gateway("anna", live=True)
        await asyncio.to_thread(
            set_fields, home.followers_file, "anna", {"trading_mode": "live", "phone_owner": "Anna"}
        )
        await say(manager, "anna", "trading_mode is 'live' instead of 'paper'; phone_owner is 'Anna' (it was not set)")
    runtime = home.runtime()
    await runtime.open()
    async with running(home, ready=("anna",)) as manager:
        (gateway,) = await runtime.list()
        await runtime.remove(gateway.container_id, grace=0)
        await eventually(lambda: not manager.is_healthy("anna"), lambda: told(manager))
        await all_ready(manager, "anna")
        assert seen(manager, "anna").trading_mode is TradingMode.PAPER
        await manager.launch_gateway("anna", live=True)
        await all_ready(manager, "anna")
        assert seen(manager, "anna").trading_mode is TradingMode.LIVE
        assert seen(manager, "anna").notices == ()
        assert await manager.get_client("anna", require="live") is not None
        await manager.stop_gateway("anna")
    await runtime.close()


async def test_a_follower_keeps_its_port(home: Home) -> None:
    """Stopped and started in another order, by another manager, each is at its old endpoint; a pinned port is taken instead."""
    await home.add(*FLEET)
    async with running(home) as manager:
        endpoints = {each.follower_id: each.endpoint for each in manager.list_gateways()}
        await manager.stop()
    async with running(home, ready=()) as manager:
        await all_ready(manager, *FLEET)
        assert {each.follower_id: each.endpoint for each in manager.list_gateways()} == endpoints
        last = home.settings["port_range_end"]
        await asyncio.to_thread(set_fields, home.followers_file, "bert", {"gateway.port": last})
        await eventually(lambda: seen(manager, "bert").outdated, lambda: told(manager))
        await manager.restart_gateway("bert")
        await all_ready(manager, "bert")
        assert seen(manager, "bert").endpoint == f"127.0.0.1:{last}"
        assert not seen(manager, "bert").outdated
        await manager.stop()
