"""What every `CredentialBroker` does: the courier's real processes, and the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import pytest

from spreadpilot_core.ibkr.credentials.in_memory import InMemoryBroker
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.errors import (
    CredentialsRefusedError,
    CredentialsUnavailableError,
    DeliveryError,
    DeliveryExpiredError,
)
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.seams import CredentialBroker
from support.couriers import couriers_in
from support.stdin_delivery import Doorway

REF, ANNA = "ibkr/anna", FollowerId("anna")


class Place(Protocol):
    """A broker, the secrets that it reads, and containers that wait."""

    broker: CredentialBroker
    put: Callable[[str, str, str], None]

    def target(self, container: str) -> DeliveryTarget:
        """A container that takes a password."""

    def received(self, container: str) -> bytes:
        """What came to it."""


class CourierPlace:
    def __init__(self, broker: CredentialBroker, doorway: Doorway, directory: Path) -> None:
        self.broker = broker
        self.put = EncryptedCredentials.at(directory).set
        self.target = doorway.target
        self.received = doorway.wait_for


class InMemoryPlace:
    def __init__(self) -> None:
        self._came: dict[str, bytes] = {}
        self.broker = InMemoryBroker(self._take)
        self.put = self.broker.put

    def target(self, container: str) -> DeliveryTarget:
        """A container that takes a password."""
        return DeliveryTarget("in_memory", ContainerId(container))

    def received(self, container: str) -> bytes:
        """What came to it."""
        return self._came[container]

    def _take(self, target: DeliveryTarget, secret: bytes) -> None:
        if target.kind != "in_memory":
            raise LookupError(target.kind)
        self._came[target.container_id] = secret


@pytest.fixture(params=["courier", "in_memory"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "in_memory":
        yield InMemoryPlace()
        return
    with Doorway(tmp_path / "s", "simulated") as doorway:
        async with couriers_in(tmp_path) as couriers:
            yield CourierPlace(couriers, doorway, tmp_path)


async def test_a_secret_is_read_and_delivered_once(place: Place) -> None:
    """User and version are told, the password arrives as its controller wants it, and a ticket is good for one delivery."""
    await asyncio.to_thread(place.put, REF, "Anna.01", "pass\\wörd")
    place.broker.expect()
    login = await place.broker.read(REF, "ibc", follower_id=ANNA)
    assert (login.user, login.version) == ("anna.01", await place.broker.version(REF))
    assert "wörd" not in repr(login)
    await place.broker.deliver(login.ticket, place.target("c1"))
    assert await asyncio.to_thread(place.received, "c1") == b"pass\\\\w\\u00F6rd"
    with pytest.raises(DeliveryExpiredError):
        await place.broker.deliver(login.ticket, place.target("c2"))


async def test_another_content_has_another_version(place: Place) -> None:
    """It is seen without a read, and a read after it has it."""
    await asyncio.to_thread(place.put, REF, "anna01", "one")
    before = await place.broker.version(REF, follower_id=ANNA)
    await asyncio.to_thread(place.put, REF, "anna01", "two")
    after = await place.broker.version(REF, follower_id=ANNA)
    assert before != after
    assert (await place.broker.read(REF, "ibc", follower_id=ANNA)).version == after


async def test_what_is_not_there_or_can_not_be_typed_is_refused(place: Place) -> None:
    """It will not pass by itself."""
    with pytest.raises(CredentialsRefusedError):
        await place.broker.read("ibkr/nobody", "ibc", follower_id=ANNA)
    await asyncio.to_thread(place.put, REF, "anna01", "a{{b")
    with pytest.raises(CredentialsRefusedError):
        await place.broker.read(REF, "ibcontroller", follower_id=ANNA)


async def test_a_delivery_that_reaches_nobody_is_an_error(place: Place) -> None:
    """No sender knows that kind of target."""
    await asyncio.to_thread(place.put, REF, "anna01", "one")
    login = await place.broker.read(REF, "ibc", follower_id=ANNA)
    with pytest.raises(DeliveryError):
        await place.broker.deliver(login.ticket, DeliveryTarget("pigeon", ContainerId("c1")))


async def test_a_closed_broker_reads_nothing(place: Place) -> None:
    """It may be closed twice, and what it held is gone."""
    await asyncio.to_thread(place.put, REF, "anna01", "one")
    login = await place.broker.read(REF, "ibc", follower_id=ANNA)
    await place.broker.close()
    await place.broker.close()
    with pytest.raises(CredentialsUnavailableError):
        await place.broker.read(REF, "ibc", follower_id=ANNA)
    with pytest.raises(DeliveryExpiredError):
        await place.broker.deliver(login.ticket, place.target("c1"))
