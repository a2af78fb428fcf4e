from __future__ import annotations

from typing import Any

import pytest

from spreadpilot_core.ibkr.protocols import RuntimeEventKind
from spreadpilot_core.ibkr.runtimes.docker_streams import LogReader, engine_time, event_from


def told(action: str, **attributes: str) -> dict[str, Any]:
    marks = {"spreadpilot.gateway-manager.follower": "alice"} | attributes
    return {"Type": "container", "Action": action, "Actor": {"ID": "c1", "Attributes": marks}}


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("start", RuntimeEventKind.STARTED),
        ("die", RuntimeEventKind.DIED),
        ("pause", RuntimeEventKind.PAUSED),
        ("unpause", RuntimeEventKind.RESUMED),
        ("destroy", RuntimeEventKind.REMOVED),
        ("oom", RuntimeEventKind.HEALTH),
        ("health_status: unhealthy", RuntimeEventKind.HEALTH),
    ],
)
def test_events_keep_what_they_are_about(action: str, kind: RuntimeEventKind) -> None:
    """Follower and container come from the event itself; nothing is asked for."""
    event = event_from(told(action))
    assert event is not None
    assert (event.kind, event.follower_id, event.container_id) == (kind, "alice", "c1")


def test_a_death_has_its_exit_code_and_health_its_word() -> None:
    """The code is the engine's attribute, a string."""
    died, sick = event_from(told("die", exitCode="137")), event_from(told("health_status: unhealthy", exitCode="1"))
    assert died is not None
    assert died.exit_code == 137
    assert sick is not None
    assert (sick.exit_code, sick.detail) == (None, "unhealthy")


@pytest.mark.parametrize("line", [{}, {"Action": "die"}, {"Action": "exec_start: sh", "Actor": {"ID": "c1"}}])
def test_what_says_nothing_to_us_is_left_out(line: dict[str, Any]) -> None:
    """Unknown actions and events without an actor."""
    assert event_from(line) is None


# ---------------------------------------------------------------------------------------------- logs

S1 = b"2026-11-24T10:00:00.000000001Z "
S2 = b"2026-11-24T10:00:00.900000000Z "


def test_lines_are_put_together_from_pieces() -> None:
    """The engine cuts where it likes; the two channels do not mix."""
    reader = LogReader()
    assert reader.feed(1, S1 + b"one ") == []
    assert reader.feed(2, S1 + b"err\n") == ["err"]
    assert reader.feed(1, b"line\n" + S2 + b"two\r\n") == ["one line", "two"]


def test_a_repeated_line_is_told_once_and_an_equal_one_twice() -> None:
    """Rotation and reconnects repeat a line with its stamp; the same words at another time are another line."""
    reader = LogReader()
    assert reader.feed(1, S1 + b"a\n" + S1 + b"a\n") == ["a"]
    assert reader.feed(1, S2 + b"a\n") == ["a"]


def test_a_long_line_comes_in_pieces_and_none_is_told_again() -> None:
    """Each piece bears the line's stamp, and rotation repeats pieces too: one line comes out, and no half one after it."""
    reader = LogReader()
    long = b"x" * 16_384
    assert reader.feed(1, S1 + long) == []
    assert reader.feed(1, S1 + b"rest\n") == [long.decode() + "rest"]
    assert reader.feed(1, S2 + b"the end\n") == ["the end"]
    assert reader.feed(1, S1 + b"rest\n") == []


def test_memory_of_lines_is_bounded() -> None:
    """A flood costs no memory."""
    reader = LogReader()
    for i in range(5000):
        reader.feed(1, b"2026-11-24T10:00:00.%09dZ x\n" % i)
    assert len(reader._seen) == len(reader._order) == 2048
    reader.feed(1, b"y" * 1_000_000)
    assert sum(map(len, reader._parts.values())) <= 64 * 1024


def test_odd_bytes_are_no_trouble() -> None:
    """Lines that are no UTF-8, have no stamp, or are empty."""
    reader = LogReader()
    assert reader.feed(1, S1 + b"caf\xe9\n") == ["caf\ufffd"]
    assert reader.feed(1, b"\n") == [""]
    assert reader.feed(1, S1 + b"\n") == [""]


def test_a_log_goes_on_a_little_before_its_last_line() -> None:
    """The channels are stamped apart, so a line written later may bear an earlier stamp; half lines begin anew."""
    reader = LogReader()
    assert reader.reconnect(otherwise="0") == "0"
    reader.feed(1, S2 + b"whole\n" + S2 + b"ha")
    assert reader.reconnect(otherwise="0") == "1795514400.400000"
    assert reader.feed(1, S2 + b"half\n") == ["half"]


def test_a_broken_stamp_does_not_move_the_place() -> None:
    """A cut line gives no time to go on from."""
    reader = LogReader()
    reader.feed(1, b"cut off\n")
    assert reader.reconnect(otherwise="7") == "7"


def test_times_as_queries_want_them() -> None:
    """Seconds with a fraction; never is none."""
    assert engine_time("1970-01-01T00:00:01.5Z") == "1.500000"
    assert engine_time("0001-01-01T00:00:00Z") is None
