"""The parts of the simulated engine by themselves: feeds, doors, orders, garbage on its socket, slow readers."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.simulator.engine.container import Order
from spreadpilot_core.ibkr.simulator.engine.feed import Feed
from spreadpilot_core.ibkr.simulator.engine.files import Address, HostFiles, read_address
from spreadpilot_core.ibkr.simulator.engine.operations import Operations
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused
from support.runtimes import until
from support.simulated_engine import ORDER, ServedEngine, served_fixture  # noqa: F401  # a fixture

# ---------------------------------------------------------------------------------------------- feeds


@given(keep=st.integers(1, 50), entries=st.integers(0, 120), start=st.integers(0, 130))
def test_a_feed_gives_what_it_keeps_in_order_and_says_what_was_lost(keep: int, entries: int, start: int) -> None:
    """A reader gets the newest `keep` entries from its place on, numbered by their place in all that ever came."""

    async def read() -> list[tuple[int, int]]:
        feed: Feed[int] = Feed(keep)
        for entry in range(entries):
            feed.append(entry)
        feed.close()
        return [(first + i, entry) async for first, batch in feed.follow(start) for i, entry in enumerate(batch)]

    assert asyncio.run(read()) == [(n, n) for n in range(max(start, entries - keep), entries)]


async def test_readers_of_a_feed_wait_and_wake_together() -> None:
    """Each reader gets each entry once, however the appends fall between its reads."""
    feed: Feed[int] = Feed(1000)

    async def read() -> list[int]:
        return [entry async for _, batch in feed.follow() for entry in batch]

    readers = [asyncio.create_task(read()) for _ in range(3)]
    for entry in range(100):
        feed.append(entry)
        if entry % 7 == 0:
            await asyncio.sleep(0)
    feed.close()
    assert await asyncio.gather(*readers) == [list(range(100))] * 3
    assert feed.last(3) == [97, 98, 99]


# ---------------------------------------------------------------------------------------------- doors


async def test_a_secret_goes_through_the_door_once(served: ServedEngine) -> None:
    """The first deliverer is let in, a second one is told that it is too late, and nothing shows the secret."""
    container = served.create()
    assert await served.deliver(container, b"6\nsecret") == [{"ok": True}]
    (answer,) = await served.deliver(container, b"5\nother")
    assert "takes no secret" in answer["error"]
    served.engine.start(container)
    (late,) = await served.deliver(container, b"5\nother")
    assert "takes no secret" in late["error"]
    trail = await asyncio.to_thread((served.directory / "operations.jsonl").read_text)
    assert "secret" not in trail.replace("no_secret", "")
    assert "secret" not in json.dumps(container.describe()).replace("secret_file", "")


@pytest.mark.parametrize(
    "content",
    [b"", b"6\n", b"6\nsecre", b"6\nsecret!", b"secret", b"-1\n", b"0\n", b"6", b"999999999999\nx", b"\xb2\nxx"],
)
async def test_a_secret_that_did_not_arrive_whole_is_no_secret(served: ServedEngine, content: bytes) -> None:
    """A deliverer that was killed in the middle leaves a container that never starts."""
    container = served.create()
    answers = await served.deliver(container, content)
    assert answers[0] == {"ok": True}
    assert "length" in answers[1]["error"]
    with pytest.raises(Refused) as refused:
        served.engine.start(container)
    assert refused.value.code == "no_secret"
    assert container.state == "created"


async def test_a_door_to_nowhere_is_refused(served: ServedEngine) -> None:
    """An unknown container is said to be gone."""
    (answer,) = await served.talk({"attach": "0" * 64}, greet=False)
    assert "no container" in answer["error"]


# ---------------------------------------------------------------------------------------------- orders, lives


@pytest.mark.parametrize(
    "change",
    [
        {"host_port": "4001"},
        {"host_port": True},
        {"controller": "other"},
        {"trading_mode": "both"},
        {"name": None},
        {"read_only": "no"},
    ],
)
def test_an_order_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    """With the field's name, before anything is made."""
    with pytest.raises(Refused) as refused:
        Order.from_json({**ORDER, **change})
    assert refused.value.code == "bad_request"


def test_an_incomplete_order_names_what_is_missing() -> None:
    """A field without a default can't be left out; a field that is not known is left alone."""
    with pytest.raises(Refused, match="spec_digest"):
        Order.from_json({name: value for name, value in ORDER.items() if name != "spec_digest"})
    assert Order.from_json({**ORDER, "later": 1}).labels["follower_id"] == "alice"


async def test_a_gateway_killed_as_soon_as_it_starts_frees_its_port(served: ServedEngine) -> None:
    """Even in the same turn of the loop: exit code, events and port are as after any kill."""
    container = served.create()
    await served.deliver(container, b"6\nsecret")
    served.engine.start(container)
    container.kill()
    await container.stop(30)
    assert (container.state, container.exit_code) == ("exited", 137)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", container.order.host_port):
        pass
    assert [event["kind"] for event in served.engine.events.last(2)] == ["started", "died"]


async def test_a_gateway_that_can_not_be_made_is_a_refusal(served: ServedEngine) -> None:
    """A time zone that doesn't exist is told with its name; the container stays as it was."""
    container = served.create(time_zone="Mars/Olympus")
    await served.deliver(container, b"6\nsecret")
    with pytest.raises(Refused, match="Mars/Olympus"):
        served.engine.start(container)
    assert container.state == "created"


# ---------------------------------------------------------------------------------------------- garbage, slow readers


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\n",
        b"hello\n",
        b"[1, 2]\n",
        b"\xff\xfe\x00\n",
        b"{" * 5000 + b"\n",
        b"[" * 100_000 + b"\n",
        b'{"op": "hello"}\n',
        b'{"op": "hello", "owner": 1, "manager": "m"}\n',
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_garbage_for_a_greeting_is_answered_and_harms_nobody(served: ServedEngine, nonsense: bytes) -> None:
    """The connection gets an error or is closed, and everybody else is served as before."""
    (answer,) = await served.talk(nonsense, greet=False)
    assert answer is None or answer["error"] == "bad_request"
    assert await served.talk({"op": "list"}) == [{"ok": True, "containers": [], "foreign": []}]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"op": "nothing"},
        {"op": ["create"]},
        {"op": "create"},
        {"op": "create", "order": []},
        {"op": "inspect", "container": 7},
        {"op": "remove", "container": "x", "grace": "long"},
        {"op": "log", "container": "x", "from": "start"},
        {"op": "script", "follower_id": "alice", "entry": {"laps": 5}},
        {"op": "script", "follower_id": "alice", "entry": {"what": 5}},
        {"op": "inject", "follower_id": "alice", "fault": "no_such_fault", "arguments": {}},
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(served: ServedEngine, request_: object) -> None:
    """With a code and a sentence; the engine goes on."""
    (answer,) = await served.talk(request_)
    assert answer["error"] in ("bad_request", "gone", "unknown_fault")
    assert answer["sentence"].endswith((".", "…")) or answer["error"] == "unknown_fault"
    assert await served.talk({"op": "list"}) == [{"ok": True, "containers": [], "foreign": []}]


async def test_a_line_without_end_is_cut_off(served: ServedEngine) -> None:
    """A client that never ends its line is dropped at the limit and fills no memory."""

    async def write_for_ever() -> None:
        _, writer = await served.connect()
        while True:
            writer.write(secrets.token_bytes(1 << 16).replace(b"\n", b"x"))
            await writer.drain()
            await asyncio.sleep(0)

    with pytest.raises(ConnectionError):
        await write_for_ever()
    assert await served.talk({"op": "list"}) == [{"ok": True, "containers": [], "foreign": []}]


async def test_a_slow_log_reader_holds_up_nobody_and_loses_the_oldest_lines(served: ServedEngine) -> None:
    """While one reader stands still, a flood is taken, others are served, and it later goes on where lines are kept."""
    container = served.create()
    await served.deliver(container, b"6\nsecret")
    served.engine.start(container)
    reader, writer = await served.connect()
    writer.write(b'{"op": "hello", "owner": "me", "manager": "m"}\n')
    writer.write(json.dumps({"op": "log", "container": container.id}).encode() + b"\n")
    await until(lambda: len(served.service) == 1)
    for number in range(100_000):
        container.log.append(f"flood {number} " + "x" * 60)
        if number % 1000 == 0:
            await asyncio.sleep(0)
    assert len(await served.talk({"op": "list"})) == 1
    await container.stop(0)
    lines = [json.loads(line) for line in (await reader.read()).splitlines()[2:]]
    writer.close()
    numbers = [line["number"] for line in lines if "line" in line]
    assert numbers == sorted(numbers)
    assert len(numbers) < 50_000
    flood = [line["line"] for line in lines if "flood " in line.get("line", "")]  # its controller goes on writing too
    assert flood[-1].startswith("flood 99999 ")
    assert lines[-1] == {"end": True}


async def test_an_event_reader_that_missed_something_is_cut_off(served: ServedEngine) -> None:
    """It subscribes again and knows of the gap; an event is never silently left out."""
    reader, writer = await served.connect()
    writer.write(b'{"op": "hello", "owner": "me", "manager": "m"}\n{"op": "events"}\n')
    await until(lambda: len(served.service) == 1)
    assert json.loads(await reader.readline())["ok"]
    assert json.loads(await reader.readline())["ok"]
    for number in range(50_000):
        served.engine.events.append({"kind": "started", "identity": "me", "container_id": f"{number:064}"})
        if number % 1000 == 0:
            await asyncio.sleep(0)
    heard = [int(json.loads(line)["container_id"]) for line in (await reader.read()).splitlines()]
    writer.close()
    assert heard == list(range(len(heard)))
    assert len(heard) < 50_000
    await until(lambda: len(served.service) == 0)


async def test_a_reader_that_goes_away_is_noticed(served: ServedEngine) -> None:
    """A subscription whose client has gone doesn't keep an idle host alive, even when nothing ever happens."""
    for operation in ("events", "log"):
        container = served.create(name=operation, follower_id=operation)
        await served.deliver(container, b"6\nsecret")
        served.engine.start(container)
        _, writer = await served.connect()
        writer.write(b'{"op": "hello", "owner": "me", "manager": "m"}\n')
        writer.write(json.dumps({"op": operation, "container": container.id}).encode() + b"\n")
        await until(lambda: len(served.service) == 1)
        writer.close()
        await until(lambda: len(served.service) == 0, f"for the end of {operation}")


async def test_an_ending_host_answers_no_greeting(served: ServedEngine) -> None:
    """Whoever greets it then has asked for nothing yet, and turns to the next host."""
    assert await served.talk({"op": "shutdown"}) == [{"ok": True}]
    assert served.asked_to_end
    served.service.ending = True
    assert await served.talk({"op": "hello", "owner": "me", "manager": "m"}, greet=False) == [None]


# ---------------------------------------------------------------------------------------------- files


def test_a_directory_has_one_host(tmp_path: Path) -> None:
    """The lock is held by one process; who is second is told so, and the directory is made for its owner alone."""
    directory = tmp_path / "not" / "there"
    assert HostFiles(directory).lock()
    assert not HostFiles(directory).lock()
    assert directory.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_host_left_is_taken_over(tmp_path: Path) -> None:
    """Its socket, in the directory or elsewhere, goes; a file that is no socket stays whatever the address says."""
    files = HostFiles(tmp_path / ("long" * 40))
    assert files.lock()
    place = Path(files.place_socket())
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(place)) <= 103
    listener_left(place)
    files.publish(Address(pid=1, host="a", socket=str(place)))
    other = Path(files.place_socket())
    assert not place.parent.exists()
    assert other.parent != place.parent
    precious = tmp_path / "precious"
    precious.write_text("kept")
    files.publish(Address(pid=1, host="a", socket=str(precious)))
    files.place_socket()
    files.retract()
    assert precious.read_text() == "kept"
    assert read_address(files.directory) is None
    for made in (other, *Path(tempfile.gettempdir()).glob("gateway-simulator-*")):
        if made.is_dir() and not any(made.iterdir()) and made.stat().st_uid == os.getuid():
            made.rmdir()


def listener_left(place: Path) -> None:
    """A socket file without anybody behind it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_an_address_that_can_not_be_read_is_none(tmp_path: Path, content: str) -> None:
    """A file that was cut off while the machine went down doesn't stop the next host."""
    (tmp_path / "simulated-host.json").write_text(content)
    assert read_address(tmp_path) is None


def test_the_trail_survives_a_directory_that_is_gone(tmp_path: Path) -> None:
    """What was asked for is done all the same; a failure inside is told as an interruption."""
    with Operations(tmp_path / "gone", "h").noted("create"):
        pass
    operations = Operations(tmp_path, "h")
    with pytest.raises(Refused), operations.noted("start", manager="m"):
        raise Refused("no_secret", "It waits.")
    with pytest.raises(RuntimeError), operations.noted("start", manager="m"):
        raise RuntimeError
    lines = [json.loads(line) for line in (tmp_path / "operations.jsonl").read_text().splitlines()]
    assert [(line["number"], line["phase"], line.get("result")) for line in lines] == [
        (1, "begin", None),
        (1, "end", "no_secret"),
        (2, "begin", None),
        (2, "end", "interrupted"),
    ]
    assert lines[0]["monotonic"] <= lines[1]["monotonic"]
