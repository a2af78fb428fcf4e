"""What a bridge to a gateway's screen says at the VNC server and to the browser, and what it passes on."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.http_api.page.rfb import BrowserMessages, let_in
from spreadpilot_core.ibkr.screens.rfb import VERSION, RfbError, answer_to, sign_in

HELLO = b"\0"
UPDATE = struct.pack(">BBHHHH", 3, 0, 0, 0, 640, 480)
ENCODINGS = struct.pack(">BxH3i", 2, 3, 7, -316, 0)
SPOKEN = struct.pack(">BxH2i", 2, 2, 7, 0)
FENCE = struct.pack(">BxxxIB3s", 248, 0, 3, b"abc")
KEY = struct.pack(">BBxxI", 4, 1, 0x61)
POINTER = struct.pack(">BBHH", 5, 1, 10, 10)
CUT = struct.pack(">BxxxI4s", 6, 4, b"text")
QEMU = struct.pack(">BBHII", 255, 0, 1, 0x61, 30)
XVP = struct.pack(">BxBB", 250, 1, 2)
RESIZE = struct.pack(">BxHHBx", 251, 100, 100, 1) + bytes(16)
EVERYTHING = UPDATE + ENCODINGS + FENCE + KEY + POINTER + CUT + QEMU + XVP + RESIZE + UPDATE


@pytest.mark.parametrize(
    ("controls", "passed"),
    [
        (False, UPDATE + SPOKEN + FENCE + UPDATE),
        (True, UPDATE + SPOKEN + FENCE + KEY + POINTER + CUT + QEMU + UPDATE),
    ],
)
@given(cuts=st.lists(st.integers(0, len(EVERYTHING) + 1), max_size=12))
def test_what_is_passed_on(controls: bool, passed: bytes, cuts: list[int]) -> None:
    """Who only looks types, points and pastes nothing; nobody shuts down or resizes; however the bytes are cut up."""
    said, messages = HELLO + EVERYTHING, BrowserMessages(controls=controls)
    places = [0, *sorted(cuts), len(said)]
    parts = [messages.take(said[begin:end]) for begin, end in itertools.pairwise(places)]
    assert b"".join(parts) == b"\1" + passed


@given(st.binary(max_size=400))
def test_rubbish_is_never_passed_on_to_who_may_only_be_shown(rubbish: bytes) -> None:
    """Either it is understood, or the connection ends; a key never slips through."""
    messages = BrowserMessages(controls=False)
    try:
        passed = messages.take(HELLO + rubbish)[1:]
    except RfbError:
        return
    again = BrowserMessages(controls=False)
    assert again.take(HELLO + passed)[1:] == passed


@pytest.mark.parametrize("wrong", [b"\x01", b"\x07", b"\xff\x01", struct.pack(">BxxxI", 6, 1 << 30)])
def test_what_is_not_understood_ends_it(wrong: bytes) -> None:
    """What follows it could be anything."""
    with pytest.raises(RfbError):
        BrowserMessages(controls=True).take(HELLO + wrong + bytes(12))


class Line:
    """Both ends of a connection, of which one was written down before."""

    def __init__(self, says: bytes) -> None:
        self._says = says
        self.heard = b""

    async def read(self, count: int) -> bytes:
        """So many bytes."""
        found, self._says = self._says[:count], self._says[count:]
        if len(found) < count:
            raise EOFError
        return found

    async def write(self, data: bytes) -> None:
        """Keep them."""
        self.heard += data


CHALLENGE = bytes(range(16))


def test_the_answer_is_vncs() -> None:
    """As libvncserver computes it; what is beyond eight characters counts for nothing."""
    assert answer_to(CHALLENGE, "password").hex() == answer_to(CHALLENGE, "password-and-more").hex()
    assert answer_to(bytes(8), "") == bytes.fromhex("8ca64de9c1b123a7")  # DES of nought under nought, as published


async def test_signing_in_with_the_password_and_without() -> None:
    """The better way is taken where both are offered; a server that asks for none is believed."""
    line = Line(VERSION + b"\x02\x01\x02" + CHALLENGE + bytes(4))
    await sign_in(line.read, line.write, "secret")
    assert line.heard == VERSION + b"\x02" + answer_to(CHALLENGE, "secret")
    line = Line(VERSION + b"\x01\x01" + bytes(4))
    await sign_in(line.read, line.write, None)
    assert line.heard == VERSION + b"\x01"


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"SSH-2.0-Open", "no VNC server"),
        (VERSION + b"\0" + struct.pack(">I9s", 9, b"too many."), "too many"),
        (VERSION + b"\x01\x02" + CHALLENGE + struct.pack(">II6s", 1, 6, b"wrong."), "wrong"),
        (VERSION + b"\x01\x13", "none is known"),
    ],
)
async def test_a_server_that_refuses_says_why(says: bytes, why: str) -> None:
    """In its words."""
    line = Line(says)
    with pytest.raises(RfbError, match=why):
        await sign_in(line.read, line.write, "secret")


async def test_the_browser_needs_no_password() -> None:
    """It is offered nothing else."""
    line = Line(VERSION + b"\x01")
    await let_in(line.read, line.write)
    assert line.heard == VERSION + b"\x01\x01" + bytes(4)
    with pytest.raises(RfbError):
        await let_in(Line(b"RFB 003.003\n").read, line.write)
