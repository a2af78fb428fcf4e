"""Times as their reader's clock shows them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import time_machine

from spreadpilot_core.ibkr.system.local_time import in_local_time, local_time


@pytest.fixture(params=["Asia/Tokyo"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The reader's zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("said", ["2026-11-30T16:03:05+00:00", "2026-11-30T16:03:05.123Z", "2026-11-30T17:03:05+01:00"])
def test_a_moment_names_its_zone(said: str) -> None:
    """Date and time where the reader is, and which zone that is."""
    assert local_time(said) == "2026-12-01 01:03:05 JST"


@pytest.mark.parametrize("zone", ["America/Sao_Paulo"], indirect=True)
def test_a_zone_without_letters_is_told_by_its_distance(zone: str) -> None:  # noqa: ARG001  # the fixture
    """Some zones have no abbreviation."""
    assert local_time("2026-11-30T16:03:05+00:00") == "2026-11-30 13:03:05 -03"


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("said", ["", "yesterday", "9999-12-31T23:59:59+00:00"])
def test_what_is_no_moment_stays_as_it_is(said: str) -> None:
    """A file that somebody altered is shown all the same."""
    assert said[:4] in local_time(said)


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("It has until 14:03:05 UTC.", "It has until 23:03:05 JST."),
        ("Next try at 2026-11-30 16:03:05 UTC, or later.", "Next try at 2026-12-01 01:03:05 JST, or later."),
        ("failed within 24 h (13:50:01, 14:03:05 UTC).", "failed within 24 h (22:50:01, 23:03:05 JST)."),
        ("at 14:03:05 UTC and at 15:00:00 UTC", "at 23:03:05 JST and at 00:00:00 JST"),
        ("The zone is Etc/UTC.", "The zone is Etc/UTC."),
        ("It took 14:03:05.", "It took 14:03:05."),
        ("at 99:99:99 UTC", "at 99:99:99 UTC"),
    ],
)
def test_times_in_a_sentence_are_the_readers(said: str, shown: str) -> None:
    """Whatever says UTC is shown as the reader's clock shows it, and nothing else is touched."""
    assert in_local_time(said) == shown


@pytest.mark.parametrize("zone", ["Europe/Zurich"], indirect=True)
@pytest.mark.parametrize(
    ("now", "shown"),
    [("2026-03-28T12:30:00Z", "02:00:00 CET"), ("2026-03-28T13:30:00Z", "03:00:00 CEST")],
)
def test_a_time_without_a_day_is_the_nearest_one(zone: str, now: str, shown: str) -> None:  # noqa: ARG001  # the fixture
    """Around a change of the clocks the day decides: what is nearest may be on its other side."""
    with time_machine.travel(now, tick=False):
        assert in_local_time("at 01:00:00 UTC") == f"at {shown}"
