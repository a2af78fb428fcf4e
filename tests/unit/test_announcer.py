from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import structlog

from spreadpilot_core.ibkr.api_client.connection import Connection
from spreadpilot_core.ibkr.deciding.decision import Decision
from spreadpilot_core.ibkr.model.events import Event, EventBus
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode, Severity
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.reporting.announcer import Announcer
from spreadpilot_core.ibkr.reporting.repetitions import Repetitions


class ClosedPipe:
    """A logger whose reader is gone."""

    def __getattr__(self, name: str) -> object:
        def write(*_: object, **__: object) -> None:
            raise BrokenPipeError

        return write


def test_the_same_trouble_of_several_is_logged_in_full_once(caplog: pytest.LogCaptureFixture) -> None:
    """An image that can't be pulled fails a whole fleet: one warning says why; events, which programs read, say it each time."""
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    bus = EventBus()
    repetitions = Repetitions()
    published: list[Event] = []
    bus.publish = published.append  # type: ignore[method-assign]
    caplog.set_level(logging.INFO)
    for number, name in enumerate(("alice", "bob", "carol")):
        decision = Decision(
            state=State.BACKING_OFF,
            why=Reason(ReasonCode.IMAGE_UNAVAILABLE, "There is no image x.", f"Next try at 12:05:0{number} UTC."),
            record=Record(follower_id=FollowerId(name)),
        )
        Announcer(FollowerId(name), bus, lambda: now, repetitions)._state_changed(None, decision)
    first, *others = caplog.records
    assert (first.levelname, "There is no image x." in first.getMessage()) == ("WARNING", True)
    assert [(each.levelname, each.getMessage().partition(": ")[2]) for each in others] == [
        ("INFO", "It is backing_off, for the same reason as alice.")
    ] * 2
    assert all("There is no image x." in each.sentence for each in published)
    now += timedelta(minutes=2)
    Announcer(FollowerId("bob"), bus, lambda: now, repetitions)._state_changed(None, decision)
    assert "There is no image x." in caplog.records[-1].getMessage()


def test_a_log_that_nobody_reads_any_more_harms_no_gateway() -> None:
    """Telling goes on when writing the log line fails."""
    announcer = Announcer.__new__(Announcer)
    announcer._log = structlog.wrap_logger(ClosedPipe(), processors=[], wrapper_class=structlog.BoundLogger)

    announcer._say("info", "GatewayReady", sentence="Ready.")


def test_a_connection_that_we_end_ourselves_worries_nobody() -> None:
    """One that is lost does; the event says why in either case."""
    bus, published = EventBus(), []
    bus.listen(published.append)
    announcer = Announcer(FollowerId("alice"), bus, lambda: datetime.now(UTC), Repetitions())
    connection = object.__new__(Connection)
    for cause in (ReasonCode.STOPPED_BY_OPERATOR, ReasonCode.HEARTBEAT_MISSED):
        announcer.connection_dropped(connection, "Why.", cause)
    assert [(each.reason_code, each.severity) for each in published] == [
        (ReasonCode.STOPPED_BY_OPERATOR, Severity.INFO),
        (ReasonCode.HEARTBEAT_MISSED, Severity.WARNING),
    ]


def decided(state: State, code: ReasonCode | None) -> Decision:
    """A verdict for this reason."""
    why = Reason(code, f"It is {code.value}.") if code is not None else None
    return Decision(state=state, why=why, record=Record(follower_id=FollowerId("alice")))


def test_a_fact_is_logged_once_at_its_level(caplog: pytest.LogCaptureFixture) -> None:
    """A state that follows for the same reason is `info`; what waits for a human is an error; readiness is `GatewayReady`'s to say."""
    caplog.set_level(logging.DEBUG)
    announcer = Announcer(FollowerId("alice"), EventBus(), lambda: datetime.now(UTC), Repetitions())
    course = [
        decided(State.QUEUED, ReasonCode.PASSWORD_REJECTED),
        decided(State.BACKING_OFF, ReasonCode.PASSWORD_REJECTED),
        decided(State.NEEDS_HUMAN, ReasonCode.PASSWORD_REJECTED),
        decided(State.LAUNCHING, ReasonCode.CONTAINER_STARTING),
        decided(State.READY, None),
        decided(State.RECONNECTING, ReasonCode.HEARTBEAT_MISSED),
    ]
    for before, decision in pairwise([None, *course]):
        announcer._state_changed(before, decision)
    levels = [each.levelname for each in caplog.records]
    assert levels == ["ERROR", "INFO", "ERROR", "INFO", "DEBUG", "WARNING"]
    structured = [each.structured for each in caplog.records]  # type: ignore[attr-defined]
    assert [each["reason_code"] for each in structured][-1] == "HEARTBEAT_MISSED"


def test_what_everybody_says_at_each_start_is_no_information(caplog: pytest.LogCaptureFixture) -> None:
    """That nothing was observed yet; said later, it is."""
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    caplog.set_level(logging.DEBUG)
    unobserved = Decision(
        state=State.QUEUED,
        why=Reason(ReasonCode.NOT_OBSERVED_YET, "The record store was not read yet."),
        record=Record(follower_id=FollowerId("alice")),
    )
    announcer = Announcer(FollowerId("alice"), EventBus(), lambda: now, Repetitions())
    announcer._state_changed(None, unobserved)
    announcer._state_changed(unobserved, unobserved)
    assert [each.levelname for each in caplog.records] == ["DEBUG", "INFO"]
