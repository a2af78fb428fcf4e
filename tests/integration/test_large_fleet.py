"""A fleet that is larger than what may start at once: each secret is read when its turn is there, once. Nothing is timed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, SecretVersion
from spreadpilot_core.ibkr.store.local.followers_file import FILE_NAME
from support.home import Home, eventually

FOLLOWERS = 120
PLACES = 4


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home(ports=FOLLOWERS)
    place.settings["healthcheck_interval"] = 30.0
    place.settings["secret_poll_interval"] = 600.0
    yield place
    await place.end()


def _fill(home: Home, followers: Sequence[str]) -> None:
    """Followers with a login each, all in one write."""
    table = '[[follower]]\nid = "{0}"\nvault_secret_ref = "ibkr/{0}"\nenabled = true\n'
    (home.directory / FILE_NAME).write_text("\n".join(table.format(each) for each in followers))
    logins = {
        f"ibkr/{each}": Credentials(
            user=f"user-{each}", password="a-password", version=SecretVersion("1", None), source="vault"
        )
        for each in followers
    }
    EncryptedCredentials.at(home.directory).remember(logins)


async def test_a_fleet_reads_each_secret_once_and_in_its_turn(home: Home) -> None:
    """The audit trail has one reading and one delivery of each, and at no moment more read than places that wait for them."""
    followers = [f"f{number}" for number in range(FOLLOWERS)]
    await asyncio.to_thread(_fill, home, followers)
    manager = home.manager(parallel_starts=PLACES)
    await manager.start()
    try:
        await eventually(lambda: all(manager.is_healthy(each) for each in followers), within=300)
        trail = await asyncio.to_thread(lambda: list(AuditTrail(home.directory).entries()))
    finally:
        await manager.stop()
    lines = [each for each in trail if each["act"] in ("read", "deliver")]
    assert {each["outcome"] for each in lines} == {"done"}
    assert Counter((each["act"], each["follower"]) for each in lines) == {
        (act, follower): 1 for act in ("read", "deliver") for follower in followers
    }
    held = 0
    for each in lines:
        held += 1 if each["act"] == "read" else -1
        assert held <= PLACES


async def test_one_snapshot_is_that_of_the_list(home: Home) -> None:
    """However it is asked for; a record that can't be used has one too."""
    await asyncio.to_thread(_fill, home, ["anna"])
    with (home.directory / FILE_NAME).open("a") as file:
        file.write('\n[[follower]]\nid = "broken"\nvault_secret_ref = ""\nenabled = true\n')
    manager = home.manager()
    await manager.start()
    try:
        await eventually(lambda: manager.is_healthy("anna"))
        assert {each.follower_id for each in manager.list_gateways()} == {"anna", "broken"}
        for each in manager.list_gateways():
            assert manager.get_gateway(each.follower_id).state is each.state
    finally:
        await manager.stop()
