"""What is told and when, in made-up time: storms, flapping, escalation, reminders, ends, and what outlives a manager."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

import pytest

from spreadpilot_core.ibkr.model.events import Event
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.notifications.planner import Phase, Plan, Planner
from spreadpilot_core.ibkr.notifications.troubles import Kind, Troubles
from support.made_up_events import (
    at,
    awaits_phone,
    launched,
    lost_ibkr,
    prompted,
    ready,
    rejected,
    rotated,
    state,
)

DELAY, REMINDER = 30.0, 3600.0
FIFTY = [f"f{number:02}" for number in range(50)]
Said = tuple[float, str, str, tuple[str, ...]]


class Day:
    """A planner, and all that it told: when, the phase, the kind, about whom."""

    def __init__(self, *, reminder: float = REMINDER, quiet: dict[str, float] | None = None, **least: Severity) -> None:
        self.quiet = quiet or {}
        self.troubles = Troubles(outage_delay=DELAY)
        self.planner = Planner(
            self.troubles,
            outage_delay=DELAY,
            reminder=reminder,
            minimum=lambda name: least.get(name or "", least.get("fleet", Severity.INFO)),
            quiet_until=self._quiet_until,
        )
        self.told: list[Said] = []
        self.plans: list[Plan] = []
        self.now = 0.0

    def _quiet_until(self, name: str, moment: datetime) -> datetime | None:
        end = at(self.quiet.get(name, 0.0))
        return end if moment < end else None

    def happens(self, *happening: Event) -> None:
        """Let time pass to each, in its order."""
        for event in happening:
            self.passes((event.at - at(0)).total_seconds())
            self.troubles.see(event)

    def passes(self, until: float) -> None:
        """Look whenever something is due, and at the end."""
        while (due := self.planner.next_due(at(self.now))) is not None and due <= at(until):
            self.now = max(self.now, (due - at(0)).total_seconds())
            before = self.planner.changes
            self._tell()
            silent = {place for place, each in self.troubles.open.items() if each.closes == due}
            assert self.planner.changes > before or not silent, "it is due, and nothing is done about it"
        self.now = until
        self._tell()

    def _tell(self) -> None:
        for plan in self.planner.plan(at(self.now)):
            self.plans.append(plan)
            names = tuple(each.subject for each in plan.troubles)
            self.told.append((self.now, plan.phase.value, plan.troubles[0].kind.value, names))

    def restarted(self, **choices: float) -> Day:
        """The next manager, which knows what this one wrote down."""
        after = Day(**choices)  # type: ignore[arg-type]
        after.now = self.now
        after.planner.load(json.loads(json.dumps(self.planner.as_documents())))
        return after

    @property
    def words(self) -> list[str]:
        """Each message in short."""
        return [f"{phase} {kind} {len(names)}" for _, phase, kind, names in self.told]


def all_of(names: Iterable[str], make: object, begin: float, apart: float = 0.0) -> list[Event]:
    """The same of many, a little apart."""
    assert callable(make)
    return [make(name, begin + place * apart) for place, name in enumerate(names)]


def test_a_storm_of_fifty_is_one_message_and_its_end_is_another() -> None:
    """They lose IBKR within twelve seconds, and have it again within ten."""
    day = Day()
    day.happens(*all_of(FIFTY, ready, 0))
    day.happens(*all_of(FIFTY, lost_ibkr, 100, 0.25))
    day.happens(*all_of(FIFTY, ready, 400, 0.2))
    day.passes(4000)
    assert day.words == ["begins outage 50", "over outage 50"]
    assert [moment for moment, *_ in day.told] == [130, 430]


def test_what_passes_by_itself_is_no_news() -> None:
    """An outage that is over before its delay is told neither at its begin nor at its end."""
    day = Day()
    day.happens(ready("anna", 0), lost_ibkr("anna", 10), ready("anna", 35))
    day.passes(9000)
    assert day.told == []
    assert day.troubles.open == {}


def test_one_that_comes_and_goes_quickly_is_one_trouble() -> None:
    """Down for 20 s, up for 10 s, again and again: told once, and over once it has stayed up."""
    day = Day()
    day.happens(ready("anna", 0))
    for beginning in range(10, 610, 30):
        day.happens(lost_ibkr("anna", beginning), ready("anna", beginning + 20))
    day.passes(2000)
    assert day.words == ["begins outage 1", "over outage 1"]


def test_one_that_comes_and_goes_slowly_is_told_ever_more_seldom() -> None:
    """Two minutes down, two minutes up, for eight hours: a handful of messages, not two hundred and forty."""
    day = Day(reminder=0)
    day.happens(ready("anna", 0))
    for beginning in range(120, 8 * 3600, 240):
        day.happens(lost_ibkr("anna", beginning), ready("anna", beginning + 120))
    day.passes(12 * 3600)
    begun, over = day.words.count("begins outage 1"), day.words.count("over outage 1")
    assert begun == over
    assert begun < 16


def test_late_ones_of_a_storm_come_together_a_minute_later() -> None:
    """Whoever fails after the message goes into the next one, not into messages of their own."""
    day = Day()
    day.happens(*all_of(FIFTY, ready, 0), *all_of(FIFTY[:10], lost_ibkr, 10))
    day.happens(*all_of(FIFTY[10:], lost_ibkr, 41, 1.0))
    day.passes(1000)
    assert [each for each in day.words if "begins" in each] == ["begins outage 10", "begins outage 40"]


def test_phones_are_told_at_once_and_each_alone() -> None:
    """Three prompts within a second are three messages; their approvals are told together."""
    day = Day()
    for name in ("anna", "ben", "carl"):
        day.happens(*awaits_phone(name, 10))
    day.passes(10)
    assert day.words == ["begins phone 1"] * 3
    for name in ("anna", "ben", "carl"):
        day.happens(state(name, State.CONNECTING, 40, ReasonCode.API_CONNECTING), ready(name, 41))
    day.passes(3000)
    assert day.words[3:] == ["over phone 3"]
    (first, *_) = day.plans
    assert first.troubles[0].action == "Approve it in IBKR Mobile on that phone. It has until 15:05:00 UTC."


def test_a_prompt_that_is_missed_becomes_a_gateway_that_needs_somebody() -> None:
    """The prompt itself has no end of its own then; a new prompt is told anew, and the end is the gateway's."""
    day = Day()
    missed = ReasonCode.PHONE_APPROVAL_MISSED
    day.happens(*awaits_phone("anna", 10), state("anna", State.NEEDS_HUMAN, 300, missed))
    day.happens(launched("anna", 400), *awaits_phone("anna", 410), ready("anna", 430))
    day.passes(3000)
    assert day.words == ["begins phone 1", "begins human 1", "begins phone 1", "over phone 1", "over human 1"]


def test_a_phone_that_is_asked_again_within_one_login_is_told_again() -> None:
    """The controller may ask once more without the state changing."""
    day = Day()
    day.happens(*awaits_phone("anna", 10), prompted("anna", 100))
    day.passes(101)
    assert day.words == ["begins phone 1"] * 2


def test_who_needs_somebody_is_told_by_reason() -> None:
    """Twenty with a rejected password are one message, the one with a wrong account is another: each has its own cure."""
    day = Day()
    day.happens(*all_of(FIFTY[:20], rejected, 10, 0.1))
    day.happens(state("zoe", State.NEEDS_HUMAN, 12, ReasonCode.WRONG_ACCOUNT))
    day.passes(600)
    assert sorted(day.words) == ["begins human 1", "begins human 20"]
    assert max(moment for moment, *_ in day.told) <= 15


def test_an_outage_that_gets_worse_is_told_again_and_ends_once() -> None:
    """Down, then somebody is needed, then ready."""
    day = Day()
    day.happens(ready("anna", 0), lost_ibkr("anna", 10), rejected("anna", 100), ready("anna", 500))
    day.passes(3000)
    assert day.words == ["begins outage 1", "begins human 1", "over human 1"]


def test_one_that_needs_somebody_at_once_is_no_outage_before() -> None:
    """What is not yet told as an outage is told as what it has become."""
    day = Day()
    day.happens(ready("anna", 0), lost_ibkr("anna", 10), rejected("anna", 20))
    day.passes(3000)
    assert day.words == ["begins human 1"]


def test_a_second_rejection_is_told_and_the_same_one_is_not() -> None:
    """A new version that is rejected too is news; so is another try of the same one; a state that is told anew is not."""
    day = Day(reminder=0)
    queued = state("anna", State.QUEUED, 100, ReasonCode.CREDENTIALS_NEEDED)
    day.happens(rejected("anna", 10), queued, rejected("anna", 101))
    day.passes(200)
    assert day.words == ["begins human 1"]
    day.happens(rejected("anna", 300, version="2"))
    day.passes(400)
    day.happens(launched("anna", 500), rejected("anna", 520, version="2"))
    day.passes(600)
    assert day.words == ["begins human 1"] * 3


def test_what_lasts_is_told_again_after_each_interval_and_together() -> None:
    """Two outages that began a quarter of an hour apart share their reminders."""
    day = Day()
    day.happens(ready("anna", 0), ready("ben", 0), lost_ibkr("anna", 10), lost_ibkr("ben", 900))
    day.passes(3 * 3600)
    assert day.words == ["begins outage 1", "begins outage 1", "still outage 2", "still outage 2"]
    day.happens(ready("anna", 10_810), ready("ben", 10_810))
    day.passes(20_000)
    assert day.words[4:] == ["over outage 2"]


def test_no_reminder_comes_where_none_is_wanted() -> None:
    """A reminder of 0 is none."""
    day = Day(reminder=0)
    day.happens(rejected("anna", 10))
    day.passes(100_000)
    assert day.words == ["begins human 1"]
    assert day.planner.next_due(at(100_000)) is None


@pytest.mark.parametrize(
    ("after", "code"),
    [(State.STOPPED, ReasonCode.STOPPED_BY_OPERATOR), (State.DISABLED, ReasonCode.NOT_ENABLED)],
)
def test_who_is_not_wanted_any_more_has_no_trouble(after: State, code: ReasonCode) -> None:
    """An operator's stop ends it at once, and says so."""
    day = Day()
    day.happens(rejected("anna", 10))
    day.passes(20)
    day.happens(state("anna", after, 100, code, sentence="An operator stopped it."))
    day.passes(100)
    assert day.words == ["begins human 1", "over human 1"]
    assert day.plans[-1].troubles[0].end == "An operator stopped it."


@pytest.mark.parametrize(
    "code", [ReasonCode.SCHEDULED_RESTART, ReasonCode.RESTART_REQUESTED, ReasonCode.IBKR_RESET_WINDOW]
)
def test_what_was_asked_for_is_no_outage(code: ReasonCode) -> None:
    """A restart on schedule, or at an operator's word, and the wait for IBKR's reset hours."""
    day = Day()
    day.happens(ready("anna", 0), state("anna", State.RESTARTING, 10, code))
    day.passes(600)
    assert day.told == []


def test_one_that_was_ready_and_is_stuck_on_its_way_back_is_an_outage() -> None:
    """Also where each step of it is as it should be."""
    day = Day()
    day.happens(ready("anna", 0), state("anna", State.QUEUED, 10, ReasonCode.WAITING_FOR_PERMIT))
    day.passes(100)
    assert day.words == ["begins outage 1"]


def test_a_first_start_is_no_outage_until_something_is_wrong() -> None:
    """A fleet that logs in for the first time is on its way."""
    day = Day()
    day.happens(state("anna", State.QUEUED, 0, ReasonCode.WAITING_FOR_PERMIT))
    day.happens(state("anna", State.LOGGING_IN, 10, ReasonCode.LOGIN_IN_PROGRESS))
    day.passes(900)
    assert day.told == []
    day.happens(state("anna", State.BACKING_OFF, 901, ReasonCode.LOGIN_TIMEOUT))
    day.passes(1000)
    assert day.words == ["begins outage 1"]


def test_an_outage_in_the_reset_hours_is_told_if_it_outlasts_them() -> None:
    """IBKR resets its servers every night: nobody is woken for that."""
    day = Day(quiet={"anna": 7200, "ben": 7200})
    day.happens(ready("anna", 0), ready("ben", 0), lost_ibkr("anna", 10), lost_ibkr("ben", 10), ready("anna", 3000))
    day.passes(7229)
    assert day.told == []
    day.passes(7300)
    assert day.told == [(7230, "begins", "outage", ("ben",))]


def test_rotated_secrets_are_told_together_once() -> None:
    """Nothing of them lasts: no reminder and no end."""
    day = Day()
    day.happens(*all_of(FIFTY[:5], rotated, 10, 0.2))
    day.passes(50_000)
    assert day.words == ["begins rotated 5"]


def test_what_is_less_than_the_least_severity_is_not_told() -> None:
    """By the setting, and by a follower's own record in either direction."""
    day = Day(fleet=Severity.ERROR, ben=Severity.WARNING)
    for name in ("anna", "ben"):
        day.happens(ready(name, 0), lost_ibkr(name, 10), rotated(name, 20))
    day.passes(100)
    assert day.told == [(40, "begins", "outage", ("ben",))]
    day.happens(rejected("anna", 200))
    day.passes(300)
    day.happens(ready("anna", 400), ready("ben", 400))
    day.passes(1000)
    assert day.words == ["begins outage 1", "begins human 1", "over human 2"]


def test_a_notice_that_stands_is_told_and_its_end_too() -> None:
    """A store that is away for longer than the delay; what is about notifications themselves is not."""
    day = Day()
    away = {"record store": "The record store is away.", "notifications: channel 1": "It fails."}
    day.troubles.see_notices(away, at(10))
    day.passes(35)
    assert day.told == []
    day.passes(41)
    day.troubles.see_notices({}, at(100))
    day.passes(200)
    assert [each[:3] for each in day.told] == [(40, "begins", "manager"), (130, "over", "manager")]
    assert day.plans[-1].troubles[0].end == "It is over: The record store is away."


def test_a_notice_that_comes_and_goes_is_told_ever_more_seldom() -> None:
    """Whoever shows wrong tokens now and then, without end, fills nobody's phone."""
    day = Day()
    for second in range(0, 6 * 3600, 120):
        day.passes(second)
        day.troubles.see_notices({"http_address": "Somebody at 192.0.2.7 shows tokens that are not valid."}, at(second))
        day.passes(second + 61)
        day.troubles.see_notices({}, at(second + 61))
    assert len(day.told) < 20, day.told


def test_a_record_that_cannot_be_used_needs_somebody_until_it_is_gone_or_ready() -> None:
    """A nameless one is over when it is gone, a follower's when its gateway is ready."""
    day = Day()
    day.troubles.see_followers([], {"anna": "account is 7.", "record 2": "id is missing."}, at(0))
    day.passes(10)
    assert day.words == ["begins human 2"]
    day.troubles.see_followers(["anna"], {}, at(100))
    day.passes(101)
    assert [each[1:] for each in day.told[1:]] == [("over", "human", ("record 2",))]
    day.happens(state("anna", State.QUEUED, 102, ReasonCode.WAITING_FOR_PERMIT), ready("anna", 120))
    day.passes(400)
    assert day.words[2:] == ["over human 1"]


# ---------------------------------------------------------------------------------------------- over managers


def test_the_next_manager_tells_nothing_twice() -> None:
    """What stands still stands, under whatever order its own first verdicts come in."""
    first = Day()
    first.happens(ready("anna", 0), lost_ibkr("anna", 10), rejected("ben", 10), *awaits_phone("carl", 50))
    first.passes(60)
    assert len(first.told) == 3
    second = first.restarted()
    second.happens(state("anna", State.QUEUED, 70, ReasonCode.NOT_OBSERVED_YET), lost_ibkr("anna", 71))
    second.happens(state("ben", State.QUEUED, 71, ReasonCode.CREDENTIALS_NEEDED), rejected("ben", 72))
    second.happens(*awaits_phone("carl", 73))
    second.passes(1000)
    assert second.told == []


def test_the_next_manager_tells_what_has_ended_and_what_is_new() -> None:
    """One is ready again, one has a new trouble, and a prompt that is later than a prompt may last is a new one."""
    first = Day()
    first.happens(rejected("anna", 10), *awaits_phone("carl", 10))
    first.passes(60)
    second = first.restarted()
    second.happens(ready("anna", 500), rejected("ben", 501), *awaits_phone("carl", 502))
    second.passes(1000)
    assert sorted(second.words) == ["begins human 1", "begins phone 1", "over human 1"]


def test_reminders_go_on_over_managers() -> None:
    """The interval is counted from what was told last, whoever told it."""
    first = Day()
    first.happens(rejected("anna", 10))
    first.passes(3000)
    second = first.restarted()
    second.passes(3700)
    assert second.told == [(3613, "still", "human", ("anna",))]


def test_whose_record_went_between_two_managers_has_no_trouble() -> None:
    """Nobody is left who could be ready again."""
    first = Day()
    first.happens(rejected("anna", 10))
    first.passes(60)
    second = first.restarted()
    second.troubles.see_followers(["ben"], {}, at(70))
    second.passes(71)
    assert second.words == ["over human 1"]


def test_the_end_of_a_manager_is_the_end_of_no_trouble() -> None:
    """What it says of its own stop, or of another leader, says nothing of the gateway."""
    day = Day()
    day.happens(rejected("anna", 10))
    day.passes(60)
    for after, code in (
        (State.DISABLED, ReasonCode.MANAGER_STOPPING),
        (State.QUEUED, ReasonCode.NOT_LEADER),
        (State.QUEUED, ReasonCode.MANAGER_DETACHING),
    ):
        day.happens(state("anna", after, 100, code))
    day.passes(1000)
    assert day.words == ["begins human 1"]


def test_spoilt_documents_are_as_if_they_were_not_there() -> None:
    """Whatever somebody wrote into the store, the next manager starts."""
    day = Day()
    day.happens(rejected("anna", 10))
    day.passes(20)
    good = day.planner.as_documents()
    after = Day()
    after.planner.load([{}, {"kind": "nonsense"}, {**good[0], "notified": None}, {**good[0], "since": 7}, *good])
    assert [each.subject for each in after.troubles.open.values()] == ["anna"]
    assert [each.kind for each in after.troubles.open.values()] == [Kind.HUMAN]
    assert Phase("over") is Phase.OVER
