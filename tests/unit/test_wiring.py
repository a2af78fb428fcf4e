"""The composition root: what is opened is closed again, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.credentials.broker import CourierBroker
from spreadpilot_core.ibkr.model.events import EventBus
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.state_dir import holder_of
from spreadpilot_core.ibkr.store.local.records import LocalRecords
from spreadpilot_core.ibkr.wiring import open_services_in_thread

ANNA = FollowerId("anna")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.read(state_dir=tmp_path, runtime_url="simulated:", store_url="local:", vault_enabled=False)


async def test_a_close_that_fails_skips_no_other(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record that waits is written, the runtime and the directory are let go, and the failure is told all the same."""
    closed = []

    async def fail(_: CourierBroker) -> None:
        raise OSError("the couriers can't be ended")

    async def close(_: SimulatedRuntime) -> None:
        closed.append("runtime")

    monkeypatch.setattr(CourierBroker, "close", fail)
    monkeypatch.setattr(SimulatedRuntime, "close", close)
    wired = await open_services_in_thread(settings, None, EventBus())
    await wired.services.ledger.open()
    wired.services.ledger.keep(Record(follower_id=ANNA, user="edemo"))
    with pytest.raises(OSError, match="couriers"):
        await wired.close()
    assert closed == ["runtime"]
    assert await asyncio.to_thread(holder_of, settings.state_dir) is None
    records = LocalRecords.from_settings(settings)
    await records.open()
    assert (await records.load()).usable[ANNA].user == "edemo"
    await records.close()


async def test_one_clock_tells_every_part_what_time_it_is(settings: Settings) -> None:
    """A manager in made-up time lives in it as a whole."""
    now = datetime(2031, 5, 4, 3, 2, 1, tzinfo=UTC)
    wired = await open_services_in_thread(settings, None, EventBus(), clock=lambda: now)
    services = wired.services
    assert services.clock() == now
    assert services.ledger.new_attempt(ANNA, user="edemo", secret_version="1").reserved_at == now
    heard = []
    wired.services.bus.listen(heard.append)
    services.notices.tell("a cause", "A sentence.")
    assert [each.at for each in heard] == [now]
    await wired.close()
