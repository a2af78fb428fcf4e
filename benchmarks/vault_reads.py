"""A hundred followers' secrets through one courier against bare concurrent hvac reads of the same server, in the same run.

The server is one of its own. The ratio is of the time for all followers, round by round, median of rounds. The courier's start and what the audit's
flushes of the disk cost are told apart: the ratio's rounds keep the state directory in memory, where a flush is free.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hvac  # type: ignore[import-untyped]  # it ships no types
from requests.adapters import HTTPAdapter

from benchmarks.support.figures import Findings, at_most, number, run
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.credentials.broker import CourierBroker, courier_environment, first_line
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.telemetry import set_up_logs
from support.vault import BaoServer

MEMORY = Path("/dev/shm")  # noqa: S108  # made anew below it, with a name that nobody can guess
THREADS = 32
"""As many as the courier has."""


async def through_a_courier(bao: BaoServer, state_dir: Path, followers: int) -> tuple[float, float]:
    settings = Settings.read(state_dir=state_dir, vault_addr=bao.address)
    environment = courier_environment({**os.environ, "VAULT_TOKEN": bao.root.token})
    couriers = CourierBroker(first_line(settings), environment=environment)
    try:
        begun = time.perf_counter()
        await couriers.version("ibkr/f0")
        started = time.perf_counter()
        await asyncio.gather(
            *(
                couriers.read(f"ibkr/f{number}", "ibc", follower_id=FollowerId(f"f{number}"))
                for number in range(followers)
            )
        )
        return started - begun, time.perf_counter() - started
    finally:
        await couriers.close()


def bare(bao: BaoServer, followers: int) -> float:
    client = hvac.Client(bao.address, token=bao.root.token)
    client.adapter.session.mount("http://", HTTPAdapter(pool_maxsize=THREADS))

    def read(number: int) -> Any:
        return client.secrets.kv.v2.read_secret_version(f"ibkr/f{number}", raise_on_deleted_version=False)

    read(0)
    with ThreadPoolExecutor(THREADS) as pool:
        begun = time.perf_counter()
        list(pool.map(read, range(followers)))
        return time.perf_counter() - begun


def one_courier(bao: BaoServer, base: str | None, followers: int) -> tuple[float, float]:
    with TemporaryDirectory(dir=base) as state_dir:
        return asyncio.run(through_a_courier(bao, Path(state_dir), followers))


def measure(findings: Findings, followers: int, rounds: int) -> None:
    memory = str(MEMORY) if MEMORY.is_dir() else None
    with TemporaryDirectory() as directory, BaoServer(Path(directory) / "bao") as bao:
        for each in range(followers):
            bao.put(f"ibkr/f{each}", IB_USER=f"user{each}", IB_PASS=f"password {each}")
        starts, ratios, bares, couriers, disks = [], [], [], [], []
        for _ in range(rounds):
            start, courier = one_courier(bao, memory, followers)
            without = bare(bao, followers)
            _, on_disk = one_courier(bao, None, followers)
            starts.append(start)
            couriers.append(courier)
            bares.append(without)
            disks.append(on_disk)
            ratios.append(courier / without)
    each_ms = 1000 / followers
    ratio, least, ours, disk = (statistics.median(each) for each in (ratios, bares, couriers, disks))
    findings.figure(
        "What does a secret read by the courier cost, against bare `hvac`?",
        f"{ratio:.2f} times ({number(ours * each_ms)} ms, {number(least * each_ms)} ms a follower), and"
        f" {number((disk - ours) * each_ms)} ms more for the audit's flushes of the disk;"
        f" {number(statistics.median(starts) * 1000)} ms for the courier's start, once a burst",
        aim=at_most(ratio, 1.3, "times"),
        ratio=(ratio, "times"),
        bare=(least * each_ms, "ms"),
        courier=(ours * each_ms, "ms"),
        flushes=((disk - ours) * each_ms, "ms"),
        start=(statistics.median(starts) * 1000, "ms"),
    )


if __name__ == "__main__":
    given = options(__doc__, followers=(100, 3), rounds=(9, 1))
    set_up_logs(level="warning")  # to standard error: the figures alone are the output
    sys.exit(run(lambda findings: measure(findings, given.followers, given.rounds)))
