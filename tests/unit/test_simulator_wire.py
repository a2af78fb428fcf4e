"""Frames, fields, versions and pace of the simulator's API server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.simulator.api import wire
from spreadpilot_core.ibkr.simulator.api.fields import BadRequest, Fields
from spreadpilot_core.ibkr.simulator.api.pace import LIMIT, Pace
from spreadpilot_core.ibkr.simulator.api_server import ApiServer


@given(payloads=st.lists(st.binary(max_size=50)), cuts=st.lists(st.integers(1, 20), min_size=1))
def test_frames_come_out_as_they_went_in(payloads: list[bytes], cuts: list[int]) -> None:
    """Frames are found whole and in order, wherever their bytes were cut."""
    stream = b"".join(wire.frame(payload) for payload in payloads)
    frames, found, place = wire.Frames(), [], 0
    while place < len(stream):
        size = cuts[place % len(cuts)]
        found += list(frames.feed(stream[place : place + size]))
        place += size
    assert found == payloads


def test_an_oversize_frame_is_refused() -> None:
    """A frame may announce the protocol's largest size and not a byte more."""
    assert list(wire.Frames().feed(b"\x00\xff\xff\xff")) == []
    with pytest.raises(wire.WireError, match="16777216 bytes"):
        list(wire.Frames().feed(b"\x01\x00\x00\x00"))


def test_a_message_is_nul_terminated_text() -> None:
    """Values are written as IBKR writes them: nothing for none, 1 for true, the shortest number."""
    assert wire.message(9, None, True, 0.1, -0.0, 1e-7, 230.0, "DU1") == wire.frame(
        b"9\0\x001\x000.1\x000\x000.0000001\x00230\x00DU1\x00"
    )


@pytest.mark.parametrize(
    ("version", "sentence"),
    [(158, "158 is refused: clients disagree"), (156, "serves 157 to 178"), (179, "serves 157 to 178")],
)
def test_versions_that_are_not_offered(version: int, sentence: str) -> None:
    """A server refuses to be made for a version that it can't serve, and says why."""
    with pytest.raises(ValueError, match=sentence):
        ApiServer(accounts=["DU1"], server_version=version)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("2147483647", None),
        ("1.7976931348623157E308", None),
        ("Infinite", None),
        ("-2.5", -2.5),
        ("7", 7.0),
    ],
)
def test_unset_numbers(text: str, value: float | None) -> None:
    """The three ways in which clients write an unset number read as none."""
    assert Fields([text]).number() == value


@pytest.mark.parametrize("text", ["x", "inf", "nan", "1e300", "0x10"])
def test_numbers_that_are_none(text: str) -> None:
    """What is no number, or an absurd one, is refused with the field's place."""
    with pytest.raises(BadRequest, match="field 1"):
        Fields([text]).integer()


def test_a_request_that_is_too_short() -> None:
    """Reading past the end of a request is an error of the request."""
    fields = Fields(["1", "true"])
    assert (fields.flag(), fields.flag()) == (True, True)
    with pytest.raises(BadRequest, match="ends after field 2"):
        fields.text()


def test_the_pace_of_a_careful_client() -> None:
    """A client that sends 45 messages each second passes, also when two of its seconds arrive close together."""
    pace = Pace(0.0)
    assert all(pace.take(0.15) for _ in range(45))
    assert all(pace.take(1.0) for _ in range(45))
    assert all(pace.take(2.0) for _ in range(45))


def test_the_pace_of_a_reckless_client() -> None:
    """The fifty-first message at once is one too many; three such seconds are abuse, however many messages they had."""
    pace = Pace(0.0)
    assert all(pace.take(0.0) for _ in range(LIMIT))
    assert not pace.take(0.0)
    assert [pace.strike(at) for at in (0.0, 0.5, 1.0, 2.0)] == [True, False, True, True]
    assert pace.is_abuse
