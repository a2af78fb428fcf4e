"""Scripts, faults and timings as data: what is accepted, what is refused and with which words, and how laps are used up."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.simulator import faults, notices
from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from spreadpilot_core.ibkr.simulator.gateway import SimulatedGateway
from spreadpilot_core.ibkr.simulator.restarts import Restarts, last_end_of_tokens
from spreadpilot_core.ibkr.simulator.script import Script, Timings
from spreadpilot_core.ibkr.simulator.setup import Setup
from spreadpilot_core.ibkr.simulator.switches import SWITCHES

NEW_YORK = ZoneInfo("America/New_York")


def test_laps_are_used_up_one_a_start() -> None:
    """Each start takes the next lap; after the last one everything goes well."""
    script = Script.from_json([{"wrong_password": True}, {}, {"slow_start": 5}])
    assert script.take().get("wrong_password") == {"dialog": "unrecognized"}
    assert script.take().get("wrong_password") is None
    assert script.take().get("slow_start") == {"seconds": 5}
    assert script.take().get("slow_start") is None


def test_a_lap_for_ever_is_never_used_up() -> None:
    """The last lap may hold for all starts to come."""
    script = Script.from_json([{}, {"login_failed": True, "forever": True}])
    script.take()
    assert all(script.take().get("login_failed") is not None for _ in range(5))


def test_what_is_left_survives_as_plain_data() -> None:
    """`to_json` gives what is still to come, and a script made of it does the same."""
    laps = [{"wrong_password": True}, {"slow_start": 5, "then": [{"after": 1, "fault": "notice", "code": 2105}]}]
    script = Script.from_json(json.loads(json.dumps(laps)))
    script.take()
    again = Script.from_json(script.to_json()).take()
    assert again.get("slow_start") == {"seconds": 5}
    assert [(later.after, later.fault, later.arguments["code"]) for later in again.later] == [(1.0, "notice", 2105)]


def test_false_means_not_at_all() -> None:
    """A fault that is false does not happen."""
    assert Script.from_json([{"wrong_password": False}]).take().get("wrong_password") is None


def test_added_fault_joins_the_next_lap() -> None:
    """What is added at run time happens at the next start, beside what was scripted, and only once."""
    script = Script.from_json([{"slow_start": 5, "forever": True}])
    script.add_to_next("wrong_password", {"dialog": "unrecognized"})
    lap = script.take()
    assert (lap.get("slow_start"), lap.get("wrong_password")) == ({"seconds": 5}, {"dialog": "unrecognized"})
    after = script.take()
    assert (after.get("slow_start"), after.get("wrong_password")) == ({"seconds": 5}, None)


@pytest.mark.parametrize(
    ("lap", "words"),
    [
        ({"wrong_pasword": True}, "there is no fault 'wrong_pasword' for a start; known are slow_start"),
        ({"crash": 3}, "there is no fault 'crash' for a start"),
        ({"slow_start": {"minutes": 3}}, "fault slow_start takes no minutes; its arguments: seconds"),
        ({"no_login_form": 3}, "fault no_login_form takes no arguments, only true"),
        ({"slow_start": "long"}, "seconds of fault slow_start is 'long', but must be a number"),
        ({"slow_start": -1}, "must not be negative"),
        ({"slow_start": True, "mute": "half"}, "stage of fault mute is 'half', but must be one of start, handshake"),
        ({"close_early": 3}, "on of fault close_early is 3, but must be true or false"),
        ({"login_error": 3}, "text of fault login_error is 3, but must be text"),
        ({"then": [{"fault": "crash"}]}, 'needs "after" (seconds) and "fault" (a name)'),
        ({"then": [{"after": 1, "fault": "explode"}]}, "there is no fault 'explode' here"),
    ],
)
def test_wrong_scripts_are_refused_in_a_sentence(lap: dict[str, Any], words: str) -> None:
    """What can't be understood is refused with the name, the value and what is known."""
    with pytest.raises(ValueError, match=r".+") as refusal:
        Script.from_json([lap])
    assert words in str(refusal.value)


@given(
    st.dictionaries(
        st.sampled_from([*faults.FAULTS, "then", "nonsense"]),
        st.one_of(
            st.none(), st.booleans(), st.floats(), st.text(max_size=3), st.dictionaries(st.text(max_size=3), st.none())
        ),
        max_size=3,
    )
)
def test_any_lap_is_taken_or_refused(lap: dict[str, Any]) -> None:
    """Whatever is given: a script, or a `ValueError`."""
    try:
        script = Script.from_json([lap])
    except ValueError:
        return
    assert script.take().given is not None


def test_every_running_fault_is_carried_out_by_somebody() -> None:
    """Each running fault is a switch of the API or known to both controllers."""
    for_controllers = {
        "nightly_restart", "log_off", "session_lost", "rejected_later", "other_login", "password_notice", "window",
        "approve_second_factor", "miss_second_factor", "crash", "out_of_memory", "kill",
    }  # fmt: skip
    running = {name for name, fault in faults.FAULTS.items() if fault.kind == "running"}
    assert running == set(SWITCHES) | for_controllers


def test_fast_login_takes_well_under_two_seconds() -> None:
    """The stages up to a usable API, added up: tests and demos never wait long; real ones are those of the field."""

    def whole(timings: Timings) -> float:
        stages = ("controller_start", "program_start", "login_form", "answer", "login", "second_factor", "disclaimer")
        return float(sum(getattr(timings, stage) for stage in stages))

    assert whole(Timings.FAST) < 1
    assert 10 < whole(Timings.REAL) < 25
    assert whole(Timings.FAST.scaled(2)) == pytest.approx(2 * whole(Timings.FAST))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (datetime(2026, 11, 22, 0, 59, tzinfo=NEW_YORK), datetime(2026, 11, 15, 1, tzinfo=NEW_YORK)),
        (datetime(2026, 11, 22, 1, 0, tzinfo=NEW_YORK), datetime(2026, 11, 22, 1, tzinfo=NEW_YORK)),
        (datetime(2026, 11, 24, 12, 0, tzinfo=NEW_YORK), datetime(2026, 11, 22, 1, tzinfo=NEW_YORK)),
        (datetime(2026, 11, 22, 5, 59, tzinfo=ZoneInfo("UTC")), datetime(2026, 11, 15, 1, tzinfo=NEW_YORK)),
        (datetime(2026, 11, 28, 23, 59, tzinfo=NEW_YORK), datetime(2026, 11, 22, 1, tzinfo=NEW_YORK)),
    ],
)
def test_tokens_end_on_sunday_at_one_in_new_york(now: datetime, expected: datetime) -> None:
    """IBKR's weekly end of tokens, from just before it to a week later."""
    assert last_end_of_tokens(now) == expected


def test_next_restart_is_within_a_day() -> None:
    """The daily restart is at its time of day in the container's zone, and never in the past."""
    zone = ZoneInfo("Asia/Hong_Kong")
    setup = Setup(
        user="u",
        trading_mode="paper",
        accounts=["DU1"],
        read_only=False,
        time_zone=str(zone),
        auto_restart_time="11:45 PM",
    )
    seconds = Restarts(setup).seconds_to_next()
    assert seconds is not None
    assert 0 < seconds <= 86400
    at = datetime.now(zone) + timedelta(seconds=seconds)
    assert (at + timedelta(seconds=30)).strftime("%I:%M %p") == "11:45 PM"


def test_notice_without_a_known_text_needs_one() -> None:
    """A code that brings no text and is given none is refused; the known ones are named."""
    with pytest.raises(ValueError, match="notice 999 needs a text; known without are 1100"):
        notices.send(ApiServer(accounts=["DU1"]), 999)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trading_mode": "both"}, "trading_mode is 'both', but must be one of paper, live"),
        ({"controller": "tws"}, "controller is 'tws', but must be one of ibc, ibcontroller"),
        ({"existing_session_action": "no"}, "existing_session_action is 'no'"),
        ({"missed_action": "no"}, "missed_action is 'no'"),
        ({"time_zone": "Mars/Olympus"}, "time_zone is 'Mars/Olympus', but must be an IANA time zone"),
        ({"auto_restart_time": "23:45"}, "auto_restart_time is '23:45', but must look like \"11:45 PM\""),
        ({"accounts": []}, "accounts is [], but must be a list of account numbers"),
        ({"accounts": "DU1"}, "accounts is 'DU1', but must be a list"),
        ({"server_version": 12}, "12"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(options: dict[str, Any], words: str) -> None:
    """Each option that can't be used is named with its value and what is allowed."""
    with pytest.raises(ValueError, match=r".+") as refusal:
        SimulatedGateway(**{"accounts": ["DU1"], **options})
    assert words in str(refusal.value)


def test_documentation_names_every_fault() -> None:
    """The tables of the documentation hold each fault with its words, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", page, re.MULTILINE))
    assert {name: words for name, words in rows.items() if name in faults.FAULTS} == {
        name: fault.does for name, fault in faults.FAULTS.items()
    }
