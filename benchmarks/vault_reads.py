"""A hundred followers' secrets through one courier against bare concurrent hvac reads of the same server, in the same run.

    python -m benchmarks.vault_reads [--followers 100] [--rounds 9]

The ratio is of the time for all followers, round by round, median of rounds. The courier's start and what the audit's
flushes of the disk cost are told apart: the ratio's rounds keep the state directory in memory, where a flush is free.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hvac  # type: ignore[import-untyped]  # it ships no types
from requests.adapters import HTTPAdapter

from benchmarks.support.figures import figure, report
from spreadpilot_core.ibkr.credentials.couriers import Couriers, courier_environment, first_line
from spreadpilot_core.ibkr.protocols import FollowerId
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.telemetry import set_up_logs
from support.vault import BaoServer

MEMORY = Path("/dev/shm")  # noqa: S108  # made anew below it, with a name that nobody can guess
THREADS = 32
"""As many as the courier has."""


async def through_a_courier(bao: BaoServer, state_dir: Path, followers: int) -> tuple[float, float]:
    settings = Settings.read(state_dir=state_dir, vault_addr=bao.address)
    environment = courier_environment({**os.environ, "VAULT_TOKEN": bao.root.token})
    couriers = Couriers(first_line(settings), environment=environment)
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


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--followers", type=int, default=100)
    options.add_argument("--rounds", type=int, default=9)
    given = options.parse_args()
    set_up_logs(level="warning")  # to standard error: the figures alone are the output
    memory = str(MEMORY) if MEMORY.is_dir() else None
    with TemporaryDirectory() as directory, BaoServer(Path(directory) / "bao") as bao:
        for number in range(given.followers):
            bao.put(f"ibkr/f{number}", IB_USER=f"user{number}", IB_PASS=f"password {number}")
        starts, ratios, bares, couriers, disks = [], [], [], [], []
        for _ in range(given.rounds):
            start, courier = one_courier(bao, memory, given.followers)
            without = bare(bao, given.followers)
            _, on_disk = one_courier(bao, None, given.followers)
            starts.append(start)
            couriers.append(courier)
            bares.append(without)
            disks.append(on_disk)
            ratios.append(courier / without)
    each = 1000 / given.followers
    report(
        [
            figure(
                "through one courier, against bare hvac reads", statistics.median(ratios), "times", target="at most 1.3"
            ),
            figure("bare hvac reads, a follower", statistics.median(bares) * each, "ms"),
            figure("through one courier, a follower", statistics.median(couriers) * each, "ms"),
            figure(
                "more for the audit's flushes, a follower",
                (statistics.median(disks) - statistics.median(couriers)) * each,
                "ms",
            ),
            figure("a courier's start, once a burst", statistics.median(starts) * 1000, "ms"),
        ]
    )


if __name__ == "__main__":
    main()
