"""Whatever happens in a week: what IBKR sees of one user, judged by the lines that its controllers print."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from spreadpilot_core.ibkr.deciding.observation import FleetView, Limits, Wanted
from spreadpilot_core.ibkr.model.reset_windows import reset_hours
from support.log_world import LogWorld, Typed

WEEK = timedelta(days=7)
HOURS = reset_hours(None, None, waits=True)
BUDGET, FULL = 3, 12
LOCKED_AT = 10
"""Failed logins of a user in 24 h at which IBKR locks it."""


def fates(*next_ones: str, always: str = "good") -> Callable[[LogWorld], None]:
    def plan(world: LogWorld) -> None:
        world.fates, world.always = deque(next_ones), always

    return plan


def sessions_of(seconds: float | None) -> Callable[[LogWorld], None]:
    def plan(world: LogWorld) -> None:
        world.session = seconds

    return plan


def set_to(**changes: Any) -> Callable[[LogWorld], None]:
    def change(world: LogWorld) -> None:
        for name, value in changes.items():
            setattr(world, name, value)

    return change


def new_password(world: LogWorld) -> None:
    world.version = str(int(world.version) + 1)


MISHAPS: dict[str, Callable[[LogWorld], None]] = {
    "logins fail for hours": fates(always="login error"),
    "the server can't be reached": fates(always="no server"),
    "one login fails": fates("login error"),
    "two logins fail": fates("login error", "no server"),
    "the password is wrong": fates(always="rejected"),
    "login failed": fates("login failed", "login failed"),
    "too many attempts": fates("throttled"),
    "the phone is missed": fates("phone missed"),
    "the login hangs": fates("hangs", "hangs"),
    "the gateway dies at its login": fates("dies", "dies", "dies"),
    "the host is slow": fates("no window", "window late", "window late", "no window"),
    "all is well": fates(),
    "sessions last a minute": sessions_of(60),
    "sessions last an hour": sessions_of(3600),
    "sessions last": sessions_of(None),
    "the gateway crashes": LogWorld.crash,
    "the session is lost": LogWorld.lose_session,
    "the manager dies": LogWorld.restart_manager,
    "a new password": new_password,
    "an operator launches": LogWorld.operator_says,
    "an operator retries": lambda world: world.operator_says(retry_login=True),
    "an operator stops it": set_to(wanted=Wanted.STOP),
    "it is wanted": set_to(wanted=Wanted.RUN),
    "the followers are unknown": set_to(wanted=Wanted.KEEP),
    "the API is shut": set_to(api_answers=False),
    "the API answers": set_to(api_answers=True),
    "the whole fleet loses": set_to(fleet=FleetView(total=5, lost=4)),
    "the fleet is well": set_to(fleet=FleetView(total=5, lost=0)),
}
HISTORIES = st.lists(st.tuples(st.sampled_from(sorted(MISHAPS)), st.floats(0.001, 20)), min_size=3, max_size=25)
WAYS = st.fixed_dictionaries(
    {
        "controller": st.sampled_from(["ibc", "ibcontroller"]),
        "delay": st.sampled_from([0.0, 0.5, 2.0]),
        "latency": st.sampled_from([0.0, 0.5, 1.5]),
        "heeds_signals": st.booleans(),
        "phone": st.sampled_from([None, None, "olga"]),
    }
)


def lived(history: list[tuple[str, float]], **ways: Any) -> LogWorld:
    """A world after a week in which these things happened, each so many hours after the one before."""
    world = LogWorld(limits=Limits(login_budget=BUDGET, full_login_limit=FULL, healthcheck_interval=3600), **ways)
    end = world.now + WEEK
    for mishap, hours in history:
        MISHAPS[mishap](world)
        world.run(min(timedelta(hours=hours), end - world.now))
    world.run(end - world.now)
    return world


def in_reset(each: Typed) -> bool:
    """Whether IBKR may have dropped it unseen: what fails there is not counted."""
    return HOURS.long_span(each.at) is not None


def by_itself(each: Typed) -> bool:
    return not each.by_operator


def begun_by_the_manager(each: Typed) -> bool:
    return not each.by_operator and not each.after_session


def most_in_a_row(world: LogWorld) -> int:
    """The most logins that failed one after the other in one container."""
    most = row = 0
    container = ""
    for each in world.typed:
        row = row + 1 if each.container == container and each.failed else int(each.failed)
        container, most = each.container, max(most, row)
    return most


@settings(max_examples=30)
@given(HISTORIES, WAYS)
def test_no_week_brings_a_user_near_its_lock(history: list[tuple[str, float]], ways: dict[str, Any]) -> None:
    """Failed logins stay in the budget, all of them in their limit; each is booked, and no container has a third lap."""
    world = lived(history, **ways)

    assert world.broken == []
    assert world.typed_within_a_day(only=lambda each: by_itself(each) and each.failed and not in_reset(each)) <= BUDGET
    assert world.typed_within_a_day(only=lambda each: each.failed and not in_reset(each)) <= 8
    assert world.typed_within_a_day(only=begun_by_the_manager) <= FULL
    assert most_in_a_row(world) <= 2
    assert len(world.typed) <= sum(each.is_full or each.outcome is None for each in world.attempts)
    begun = [each for each in world.attempts if not each.by_operator and not str(each.id).startswith("booked")]
    assert [each.reserved_at for each in begun if HOURS.short_span(each.reserved_at, 0) is not None] == []
    asked = [each for each in world.attempts if each.phone is not None and not each.by_operator and each.is_full]
    spans = zip(asked, asked[4:], strict=False)
    own = [later.reserved_at - first.reserved_at for first, later in spans if not str(later.id).startswith("booked")]
    assert min(own, default=timedelta(days=1)) >= timedelta(days=1)


@settings(max_examples=20)
@given(HISTORIES, WAYS, st.integers(0, 99))
def test_lost_lines_bring_no_user_to_its_lock(
    history: list[tuple[str, float]], ways: dict[str, Any], seed: int
) -> None:
    """An engine that rotates its logs loses some; a tenth of all lines gone, and IBKR still locks nobody."""
    world = lived(history, losing=0.1, rng=random.Random(seed), **ways)

    assert world.broken == []
    assert world.typed_within_a_day(only=lambda each: each.failed and not in_reset(each)) < LOCKED_AT
