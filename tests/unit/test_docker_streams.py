from __future__ import annotations

from typing import Any

import pytest

from spreadpilot_core.ibkr.runtimes.docker.streams import LogReader, changed_by, engine_time


def told(action: str, **attributes: str) -> dict[str, Any]:
    marks = {"spreadpilot.gateway-manager.follower": "alice"} | attributes
    return {"Type": "container", "Action": action, "Actor": {"ID": "c1", "Attributes": marks}}


@pytest.mark.parametrize(
    "action", ["start", "die", "pause", "unpause", "destroy", "oom", "health_status: unhealthy", "rename", "update"]
)
def test_an_event_tells_which_container_changed(action: str) -> None:
    """By its id, which comes from the event itself; nothing is asked for."""
    assert changed_by(told(action)) == "c1"


@pytest.mark.parametrize("line", [{}, {"Action": "die"}, {"Action": "exec_start: sh", "Actor": {"ID": "c1"}}])
def test_what_says_nothing_to_us_is_left_out(line: dict[str, Any]) -> None:
    """Unknown actions and events without an actor."""
    assert changed_by(line) is None


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


def test_what_was_lost_before_the_last_line_is_not_told_after_it() -> None:
    """A flood outran the engine's files: lines that it dropped at first come with the repetition, and are history by then."""
    reader = LogReader()
    assert reader.feed(1, S1 + b"first\n") + reader.feed(1, S2 + b"last\n") == ["first", "last"]
    assert reader.feed(2, S1 + b"error\n") == ["error"]
    reader.reconnect(otherwise="0")
    again = S1 + b"first\n" + S1 + b"lost\n" + S2 + b"last\n" + S2 + b"next\n"
    assert reader.feed(1, again) == ["next"]
    assert reader.feed(2, S1 + b"error\n" + S1 + b"one that was written meanwhile\n") == [
        "one that was written meanwhile"
    ]


def test_a_clock_that_is_set_back_loses_no_line() -> None:
    """While a stream stands, stamps decide nothing but what is a repetition."""
    reader = LogReader()
    assert reader.feed(1, S2 + b"before\n" + S1 + b"after\n") == ["before", "after"]
    reader.reconnect(otherwise="0")
    assert reader.feed(1, S2 + b"at the place\n" + S1 + b"set back again\n") == ["at the place", "set back again"]


def test_a_broken_stamp_does_not_move_the_place() -> None:
    """A cut line gives no time to go on from."""
    reader = LogReader()
    reader.feed(1, b"cut off\n")
    assert reader.reconnect(otherwise="7") == "7"


def test_times_as_queries_want_them() -> None:
    """Seconds with a fraction; never is none."""
    assert engine_time("1970-01-01T00:00:01.5Z") == "1.500000"
    assert engine_time("0001-01-01T00:00:00Z") is None
