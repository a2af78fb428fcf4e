"""What systemd is told, on the datagram socket that it names."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.service.systemd import Systemd
from support.waiting import until


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.setblocking(False)
        yield server


def _told(listening: socket.socket) -> list[str]:
    told = []
    while True:
        try:
            told.append(listening.recv(1024).decode())
        except BlockingIOError:
            return told


def _environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify"), **more}


async def test_start_and_end_are_told(listening: socket.socket, tmp_path: Path) -> None:
    """READY lets dependants start, STOPPING says that the end is meant."""
    systemd = Systemd(_environment(tmp_path))
    systemd.started()
    systemd.ending()
    assert _told(listening) == ["READY=1", "STOPPING=1"]


async def test_the_loop_feeds_the_watchdog(listening: socket.socket, tmp_path: Path) -> None:
    """It is fed again and again as long as the loop goes round, and only if it waits for this very process."""
    fed = asyncio.create_task(Systemd(_environment(tmp_path, WATCHDOG_USEC="30000")).feed_watchdog())
    seen: list[str] = []

    def often() -> bool:
        seen.extend(_told(listening))
        return len(seen) >= 5

    await until(often)
    assert set(seen) == {"WATCHDOG=1"}
    fed.cancel()
    for other in ({"WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid() + 1)}, {"WATCHDOG_USEC": "x"}, {}):
        await Systemd(_environment(tmp_path, **other)).feed_watchdog()


async def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    """Neither without its socket, nor with one that is gone."""
    for environment in ({}, {"WATCHDOG_USEC": "1000"}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        systemd = Systemd(environment)
        systemd.started()
        systemd.ending()
    await Systemd({"WATCHDOG_USEC": "1000"}).feed_watchdog()
