from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import deliver
from spreadpilot_core.ibkr.errors import DeliveryError
from support.stdin_delivery import Doorway

SECRET = "pä\\ss {x}".encode()


@pytest.fixture(params=["simulated", "docker"])
def doorway(request: pytest.FixtureRequest, tmp_path: Path) -> Doorway:
    return Doorway(tmp_path / "s", request.param)


def test_length_and_bytes_go_through(doorway: Doorway) -> None:
    """Both kinds of door get the length line, every byte, and the end of input."""
    with doorway:
        deliver(doorway.delivery_target("c1"), SECRET)
        assert doorway.wait_for("c1") == SECRET
        deliver(doorway.delivery_target("c2"), os.urandom(60_000))
        assert len(doorway.wait_for("c2")) == 60_000


def test_docker_is_asked_for_an_upgrade(tmp_path: Path) -> None:
    """The engine gets one attach for standard input alone, in the version the door names."""
    with Doorway(tmp_path / "s", "docker") as doorway:
        deliver(doorway.delivery_target("c1"), SECRET)
        doorway.wait_for("c1")
    [request] = doorway.requests
    assert request.startswith(b"POST /v1.41/containers/c1/attach?stream=1&stdin=1 HTTP/1.1\r\n")
    assert b"Upgrade: tcp\r\n" in request


def test_a_refusal_is_told_and_nothing_is_sent(doorway: Doorway) -> None:
    """What the other side answers is in the error; the secret isn't, and stays here."""
    doorway.refuse = "no such container: c1"
    with doorway, pytest.raises(DeliveryError, match="no such container: c1") as failed:
        deliver(doorway.delivery_target("c1"), SECRET)
    assert doorway.received == {}
    assert "ss {x}" not in repr(failed.value)


def test_one_that_never_answers_is_given_up(doorway: Doorway) -> None:
    """A silent engine or host costs the time limit and no more."""
    doorway.silent = True
    with doorway, pytest.raises(DeliveryError, match=r"timed out|took too long"):
        deliver(doorway.delivery_target("c1"), SECRET, timeout=0.3)


def test_nobody_behind_the_door(tmp_path: Path) -> None:
    """A missing socket, one nobody listens on, and an unknown kind are delivery errors that say so."""
    with pytest.raises(DeliveryError, match="No such file"):
        deliver({"kind": "docker", "socket": str(tmp_path / "no"), "container": "c", "api_version": "1.41"}, SECRET)
    with socket.socket(socket.AF_UNIX) as unheard:
        unheard.bind(str(tmp_path / "unheard"))
        with pytest.raises(DeliveryError, match="refused"):
            deliver({"kind": "simulated", "socket": str(tmp_path / "unheard"), "container": "c"}, SECRET)
    with pytest.raises(DeliveryError, match="no delivery target of kind 'window'"):
        deliver({"kind": "window"}, SECRET)


@pytest.mark.parametrize("missing", ["socket", "container"])
def test_a_door_that_lacks_something(tmp_path: Path, missing: str) -> None:
    """An incomplete door is a delivery error that names what it lacks."""
    with Doorway(tmp_path / "s", "simulated") as doorway:
        delivery_target = {name: value for name, value in doorway.delivery_target("c").items() if name != missing}
        with pytest.raises(DeliveryError, match=f"no '{missing}' in the delivery target"):
            deliver(delivery_target, SECRET)


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"x" * 70_000])
def test_answers_that_make_no_sense(tmp_path: Path, answer: bytes) -> None:
    """A closed, meaningless or endless answer is a delivery error."""

    class Odd(Doorway):
        def _serve(self, connection: socket.socket) -> None:
            with suppress(ConnectionError), connection:
                connection.recv(1000)
                connection.sendall(answer)

    with Odd(tmp_path / "s", "simulated") as doorway, pytest.raises(DeliveryError):
        deliver(doorway.delivery_target("c"), SECRET)
