"""Processes of their own that write to a store: to race each other, and to be killed.

They are forked from a server process that has everything imported, so that twenty of them cost no more than one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.records import NO_LIMITS, LoginOutcome
from spreadpilot_core.ibkr.seams import RecordStore
from spreadpilot_core.ibkr.store.local.followers_file import add_follower
from support.stores import BUDGET, NOON, a_mapping, a_record, an_attempt, an_entry


@cache
def forked() -> ForkServerContext:
    """Where such processes come from. The server finds what it imports beforehand by PYTHONPATH, and by nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.store_writers"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        forkserver.ensure_running()
    return context


def add_many(path: Path, name: str) -> None:
    """Add ten followers to the file."""
    for number in range(10):
        add_follower(path, f"{name}-{number}", vault_secret_ref="x")


def reserve_many(new_store: Callable[[], RecordStore], name: int, rounds: int, granted: Connection) -> None:
    """Try to reserve the login of each round's user once; send the rounds that were granted."""

    async def work() -> list[int]:
        store = new_store()
        await store.open()
        won = []
        for number in range(rounds):
            attempt = an_attempt(1000 * number + name, user=f"user {number}")
            if await store.reserve_login(attempt, BUDGET) is None:
                won.append(number)
        await store.close()
        return won

    granted.send(asyncio.run(work()))


def write_for_ever(new_store: Callable[[], RecordStore], first: int, acknowledged: Connection) -> None:
    """Write numbered things, one after the other; send each number once everything of it was acknowledged."""

    async def work() -> None:
        store = new_store()
        await store.open()
        number = first
        while True:
            await write_numbered(store, number)
            acknowledged.send_bytes(str(number).encode())
            number += 1

    asyncio.run(work())


async def write_numbered(store: RecordStore, number: int) -> None:
    """One record, one whole failed login, one mapping and one history entry."""
    attempt = an_attempt(number, after=timedelta(seconds=number))
    await store.save(a_record(f"follower-{number % 7}", client_id=number))
    await store.reserve_login(attempt, NO_LIMITS)
    await store.settle_login(attempt.id, LoginOutcome.FAILED, NOON)
    await store.report([a_mapping("anna", client_id=number)])
    await store.append_history([an_entry(number)])
