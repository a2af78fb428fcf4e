"""What may be away is tried until it is there, whatever the failure."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from spreadpilot_core.ibkr import reaching
from spreadpilot_core.ibkr.errors import LaunchError, RuntimeUnavailableError
from spreadpilot_core.ibkr.events import EventBus


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "RETRY_FIRST", 0.001)
    monkeypatch.setattr(reaching, "RETRY_CAP", 0.002)


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

    found = await reaching.Reaching(bus, lambda: datetime.now(UTC)).until_reached(
        "runtime", Failing(away, away, LaunchError("It says 500."), KeyError("Id")).work, tell=told.append
    )

    assert found == "there"
    assert told[:3] == ["It is away.", "It is away.", "It says 500."]
    assert "KeyError" in told[3]
    assert heard == told[1:]


async def test_a_hint_that_it_is_there_again_cuts_a_long_pause_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hears of its return first spares the rest of the pause, and says so once."""
    monkeypatch.setattr(reaching, "RETRY_CAP", 3600.0)
    monkeypatch.setattr(reaching, "RETRY_FIRST", 0.001)
    hint = asyncio.Event()
    outage = Failing(*[RuntimeUnavailableError("It is away.")] * 40)  # the last pauses would take years

    async def work() -> str:
        hint.set()
        return await outage.work()

    found = await reaching.Reaching(EventBus(), lambda: datetime.now(UTC)).until_reached("runtime", work, sooner=hint)

    assert found == "there"


async def test_a_loop_that_fails_begins_again_until_it_is_over() -> None:
    """A loop of the fleet that a mistake would end goes on."""
    rounds = 0

    async def loop() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 3:
            raise ValueError

    await reaching.kept_going("watch", loop)

    assert rounds == 3
