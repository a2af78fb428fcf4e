from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.service.history_commands import moment
from support.command import Command
from support.home import Home
from support.waiting import wait_until


def happened(command: Command, *options: str) -> list[dict[str, Any]]:
    entries = command.json("history", "alice", *options)
    assert isinstance(entries, list)
    return entries


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [each["name"] for each in entries if each["name"] != "StateChanged"]


def pages(home: Home) -> list[dict[str, Any]]:
    """Through the control socket of the running manager, three entries a page."""
    transport = httpx.HTTPTransport(uds=str(home.directory / "control.sock"))
    found: list[dict[str, Any]] = []
    with httpx.Client(transport=transport, base_url="http://manager/v1") as client:
        query: dict[str, Any] = {"follower_id": "alice", "limit": 3}
        while True:
            page = client.get("/history", params=query).json()
            found += page["entries"]
            if page["older"] is None:
                return found
            query["before"] = page["older"]


def test_what_happened_is_read_beside_a_manager_and_without_one(home: Home, command: Command) -> None:
    """Oldest first, of this follower alone, with code and severity; the same through the socket, and afterwards."""
    asyncio.run(home.add("alice", "bob"))
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: {"GatewayLaunched", "LoginCompleted", "GatewayReady"} <= {*names(happened(command))})
        beside = happened(command)
        assert names(beside)[:3] == ["GatewayLaunched", "LoginCompleted", "GatewayReady"]
        assert {each["follower_id"] for each in beside} == {"alice"}
        codes = {each["reason_code"] for each in beside if each["name"] == "StateChanged"}
        assert {ReasonCode.CONTAINER_STARTING.value, ReasonCode.LOGIN_IN_PROGRESS.value} <= codes
        told = pages(home)[::-1]
        assert [each["id"] for each in told[: len(beside)]] == [each["id"] for each in beside]
        assert command("stop", "alice").returncode == 0
        wait_until(lambda: "GatewayStopped" in names(happened(command)))
    afterwards = happened(command)
    assert [each["id"] for each in afterwards[: len(beside)]] == [each["id"] for each in beside]
    assert [each["at"] for each in afterwards] == sorted(each["at"] for each in afterwards)

    shown = command("history", "alice", "--since", "1h")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert len(lines) == len(afterwards)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ +StateChanged +\S", lines[0])
    assert all(datetime.fromisoformat(each["at"]).utcoffset() == timedelta(0) for each in afterwards)
    middle = afterwards[len(afterwards) // 2]["at"]
    assert [each["id"] for each in happened(command, "--since", middle)] == [
        each["id"] for each in afterwards if each["at"] >= middle
    ]


def test_times_are_the_readers(home: Home, command: Command) -> None:
    """The zone of whoever reads, with its name; an entry that an earlier manager left is found."""
    asyncio.run(home.add("alice"))
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: "GatewayReady" in names(happened(command)))
    (ready,) = [each for each in happened(command) if each["name"] == "GatewayReady"]
    shown = command("history", "alice", TZ="Asia/Tokyo").stdout
    tokyo = datetime.fromisoformat(ready["at"]) + timedelta(hours=9)
    assert f"{tokyo:%Y-%m-%d %H:%M:%S} JST" in shown


def test_nothing_to_show_is_said(home: Home, command: Command) -> None:
    """Of a follower without a history, of somebody whom nobody knows, and of a time that is none."""
    asyncio.run(home.add("alice"))
    assert command("history", "alice").stdout == "Nothing is kept of alice.\n"
    assert json.loads(command("history", "alice", "--json").stdout) == []
    nobody = command("history", "nobody")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr == "'nobody' is no follower, and nothing is kept of it.\n"
    wrong = command("history", "alice", "--since", "yesterday")
    assert wrong.returncode == 2
    assert "neither a time like" in " ".join(wrong.stderr.split())


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("30min", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
        ("1w", timedelta(weeks=1)),
    ],
)
def test_a_span_counts_back_from_now(text: str, ago: timedelta) -> None:
    """As people write it."""
    before = datetime.now(UTC)
    assert before - ago <= moment(text) <= datetime.now(UTC) - ago


def test_a_time_without_a_zone_is_the_readers() -> None:
    """And one with a zone is what it says."""
    assert moment("2026-11-30T09:00") == datetime(2026, 11, 30, 9).astimezone()
    assert moment("2026-11-30T09:00+09:00") == datetime(2026, 11, 30, tzinfo=UTC)
    for wrong in ("", "2", "h", "-2h", "2 h", "tomorrow"):
        with pytest.raises(ValueError, match="neither"):
            moment(wrong)
