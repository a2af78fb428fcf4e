"""What may be away is tried until it is there, whatever the failure."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from spreadpilot_core.ibkr import tasks
from spreadpilot_core.ibkr.errors import LaunchError, RuntimeUnavailableError
from spreadpilot_core.ibkr.model.events import EventBus
from spreadpilot_core.ibkr.reporting.notices import Notices


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "RETRY_FIRST", 0.001)
    monkeypatch.setattr(tasks, "RETRY_CAP", 0.002)


class Failing:
    """Fails with these errors, one after the other, and then works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def work(self) -> str:
        """One try."""
        if self.errors:
            raise self.errors.pop(0)
        return "there"


async def test_an_outage_a_refusal_and_a_mistake_of_ours_are_all_tried_again() -> None:
    """Nothing but success ends the trying, and each cause is said once."""
    away = RuntimeUnavailableError("It is away.")
    bus = EventBus()
    heard: list[str] = []
    bus.listen(lambda event: heard.append(event.sentence))
    told: list[str] = []
    notices = Notices(bus, lambda: datetime.now(UTC))

    outage = Failing(away, away, LaunchError("It says 500."), KeyError("Id"))
    found = await tasks.retry_until_available("runtime", outage.work, notices.tell, on_failure=told.append)

    assert found == "there"
    assert told[:3] == ["It is away.", "It is away.", "It says 500."]
    assert "KeyError" in told[3]
    assert heard == told[1:]
    assert notices.sentences == ()  # what was away is there


async def test_a_hint_that_it_is_there_again_cuts_a_long_pause_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hears of its return first spares the rest of the pause, and says so once."""
    monkeypatch.setattr(tasks, "RETRY_CAP", 3600.0)
    monkeypatch.setattr(tasks, "RETRY_FIRST", 0.001)
    hint = asyncio.Event()
    outage = Failing(*[RuntimeUnavailableError("It is away.")] * 40)  # the last pauses would take years

    async def work() -> str:
        hint.set()
        return await outage.work()

    notices = Notices(EventBus(), lambda: datetime.now(UTC))
    found = await tasks.retry_until_available("runtime", work, notices.tell, sooner=hint)

    assert found == "there"
