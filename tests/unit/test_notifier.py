"""The notifier in made-up time, on documents in memory: who tells, what outlives whom, and that no channel waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import SecretStr

from spreadpilot_core.ibkr.model.events import Event, EventBus, FollowersLoaded
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.reasons import Severity
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.notifications.audience import Channel
from spreadpilot_core.ibkr.notifications.notifier import DOCUMENT_KIND, Notifier
from spreadpilot_core.ibkr.notifications.outbox import Message
from spreadpilot_core.ibkr.reporting.notices import Notices
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.documents import RECORDS
from spreadpilot_core.ibkr.store.in_memory import InMemoryShared, MemoryContent
from spreadpilot_core.ibkr.system.clock import utc_now
from support.made_up_events import BEGIN, at, awaits_phone, lost_ibkr, ready, rejected, rotated
from support.made_up_time import START, in_made_up_time, until

NEVER = 1e9


@dataclass
class World:
    """What outlives a manager: the shared documents, who is the leader, and what has arrived."""

    directory: Path
    content: MemoryContent = field(default_factory=MemoryContent)
    leader: Manager | None = None
    arrived: list[tuple[str, str]] = field(default_factory=list)
    """Channel and title."""
    away: set[str] = field(default_factory=set)
    """Channels that refuse."""
    hanging: dict[str, float] = field(default_factory=dict)
    """Channels that take so many seconds."""

    async def send(self, channel: Channel, message: Message) -> str | None:
        """Stands for the network."""
        if seconds := self.hanging.get(channel.name):
            await asyncio.sleep(seconds)
        if channel.name in self.away:
            return "It can't be reached."
        self.arrived.append((channel.name, message.title))
        return None

    def titles(self, channel: str = "channel 1") -> list[str]:
        """What has arrived there."""
        return [title for name, title in self.arrived if name == channel]


class Manager:
    """One notifier with its bus; it is the leader when the world says so."""

    def __init__(self, world: World, *followers: Follower, channels: int = 1, **settings: object) -> None:
        self.world = world
        self.bus = EventBus()
        self.notices = Notices(self.bus, utc_now)
        self._followers = followers
        self.broken: dict[str, str] = {}
        self.notifier = Notifier(
            Settings.read(state_dir=world.directory, runtime_url="simulated:", **settings),
            urls=[SecretStr(f"json://host/{place}") for place in range(channels)],
            bus=self.bus,
            notices=self.notices,
            shared=InMemoryShared(world.content),
            may_act=lambda: world.leader is self,
            send=world.send,
            sender_name="here",
            clock=utc_now,
        )
        self.notifier.watch(self)

    def followers(self) -> Sequence[Follower]:
        """Fulfils `FleetFacts`."""
        return self._followers

    def faulty(self) -> Mapping[str, str]:
        """Fulfils `FleetFacts`."""
        return self.broken

    def user_of(self, _: str) -> str | None:
        """Fulfils `FleetFacts`."""
        return None

    def quiet_until(self, _: str, __: datetime) -> datetime | None:
        """Fulfils `FleetFacts`."""
        return None

    def begin(self, *, leads: bool = True) -> Manager:
        """Start; the followers were read."""
        self.notifier.begin()
        if leads:
            self.world.leader = self
        self.bus.publish(FollowersLoaded(at=utc_now(), sentence="Read.", usable=1, faulty=0))
        return self

    def happens(self, *happening: Event) -> None:
        """Now."""
        for event in happening:
            self.bus.publish(event)


def _follower(name: str, url: str | None = None, least: Severity | None = None) -> Follower:
    return Follower(
        id=FollowerId(name),
        vault_secret_ref="r",
        notify_urls=SecretStr(url) if url else None,
        notify_min_severity=least,
    )


def test_both_beginnings_are_the_same() -> None:
    """Made-up events begin with the made-up day."""
    assert BEGIN == START


@in_made_up_time
async def test_a_standby_tells_nothing_and_goes_on_where_the_leader_stopped(tmp_path: Path) -> None:
    """Both see the same fleet; what the leader told is not told again, what it had not told is."""
    world = World(tmp_path)
    people = [_follower(name) for name in ("anna", "ben")]
    one, two = Manager(world, *people).begin(), Manager(world, *people).begin(leads=False)
    for manager in (one, two):
        manager.happens(rejected("anna", 0))
    await until(lambda: world.titles() == ["anna needs somebody"])
    await asyncio.sleep(300)
    assert world.titles() == ["anna needs somebody"]
    world.leader = two
    one.happens(rejected("ben", 300))
    two.happens(rejected("ben", 300))
    await until(lambda: len(world.titles()) > 1)
    await asyncio.sleep(600)
    assert world.titles() == ["anna needs somebody", "ben needs somebody"]
    world.leader = one
    for manager in (one, two):
        manager.happens(ready("anna", 900), ready("ben", 900))
    await until(lambda: len(world.titles()) > 2)
    await asyncio.sleep(600)
    assert world.titles()[2:] == ["Resolved: 2 gateways"]
    for manager in (one, two):
        await manager.notifier.close()


@in_made_up_time
async def test_what_waits_for_a_channel_goes_over_to_the_next_manager(tmp_path: Path) -> None:
    """It dies without a word while its channel is away; the next one sends in order, and once."""
    world = World(tmp_path, away={"channel 1"})
    first = Manager(world, _follower("anna")).begin()
    first.happens(rejected("anna", 0))
    first.happens(rotated("anna", 0))
    await until(lambda: "channel 1" in " ".join(first.notices.sentences))
    await first.notifier._tasks.cancel()  # as a kill does: nothing is drained
    world.leader = None
    await asyncio.sleep(60)
    second = Manager(world, _follower("anna")).begin()
    second.happens(rejected("anna", 60))
    world.away.clear()
    await until(lambda: len(world.titles()) == 2)
    await asyncio.sleep(600)
    assert sorted(world.titles()) == ["anna has a new secret", "anna needs somebody"]
    await second.notifier.close()


@in_made_up_time
async def test_a_channel_that_hangs_or_fails_holds_up_no_other(tmp_path: Path) -> None:
    """The third gets both messages at once; the second, when it is back, in order; each failure is a notice until then."""
    world = World(tmp_path, away={"channel 2"}, hanging={"channel 1": 30.0})
    manager = Manager(world, channels=3).begin()
    manager.happens(rejected("anna", 0))
    await until(lambda: world.titles("channel 3"), within=10)
    manager.happens(*awaits_phone("ben", 10))
    await until(lambda: len(world.titles("channel 3")) == 2, within=10)
    assert world.titles("channel 2") == []
    await until(lambda: len(manager.notices.sentences) == 1)
    assert "channel 2 have failed" in manager.notices.sentences[0]
    assert "json://" not in manager.notices.sentences[0]
    world.away.clear()
    await until(lambda: len(world.titles("channel 2")) == 2 and len(world.titles("channel 1")) == 2)
    assert world.titles("channel 2") == world.titles("channel 3")
    await until(lambda: manager.notices.sentences == ())
    await manager.notifier.close()


@in_made_up_time
async def test_what_is_given_up_is_said_by_status_until_the_channel_works(tmp_path: Path) -> None:
    """A day later nobody needs to hear of it by that channel any more."""
    world = World(tmp_path, away={"channel 1"})
    manager = Manager(world, _follower("anna"), notify_reminder=0).begin()
    manager.happens(rejected("anna", 0))
    await until(lambda: "1 were given up" in " ".join(manager.notices.sentences), within=100_000)
    world.away.clear()
    manager.happens(ready("anna", 86_500))
    await until(lambda: world.titles() == ["Resolved: anna"])
    await until(lambda: manager.notices.sentences == ())
    await manager.notifier.close()


@in_made_up_time
async def test_a_store_that_is_away_delays_no_message(tmp_path: Path) -> None:
    """Told all the same, and kept when it is back."""
    world = World(tmp_path)
    manager = Manager(world, _follower("anna")).begin()
    await asyncio.sleep(1)
    world.content.is_away = True
    manager.happens(rejected("anna", 1))
    await until(lambda: world.titles() == ["anna needs somebody"], within=20)
    world.content.is_away = False
    await until(lambda: "anna" in str(world.content.shared), within=20)
    await manager.notifier.close()


@in_made_up_time
async def test_a_leader_that_cannot_read_what_was_told_begins_anew(tmp_path: Path) -> None:
    """Rather told twice than never."""
    world = World(tmp_path)
    world.content.is_away = True
    manager = Manager(world, _follower("anna")).begin()
    manager.happens(rejected("anna", 0))
    await until(lambda: world.titles() == ["anna needs somebody"], within=120)
    await manager.notifier.close()


@in_made_up_time
async def test_who_hands_over_ends_what_is_on_its_way_and_begins_nothing_more(tmp_path: Path) -> None:
    """A message takes three seconds; the next manager, who leads right after, does not send it again."""
    world = World(tmp_path, hanging={"channel 1": 3.0})
    one, two = Manager(world).begin(), Manager(world).begin(leads=False)
    one.happens(rejected("anna", 0))
    two.happens(rejected("anna", 0))
    await until(lambda: one.notifier._sending)
    one.happens(*awaits_phone("ben", 4))
    two.happens(*awaits_phone("ben", 4))
    await one.notifier.drain()
    world.leader = two
    await asyncio.sleep(120)
    assert sorted(world.titles()) == ["anna needs somebody", "ben: approve the login on the phone"]
    for manager in (one, two):
        await manager.notifier.close()


@in_made_up_time
async def test_a_manager_that_keeps_the_lease_goes_on_after_a_handover_that_nobody_took(tmp_path: Path) -> None:
    """What came meanwhile is told then."""
    world = World(tmp_path)
    manager = Manager(world).begin()
    await manager.notifier.drain()
    manager.happens(rejected("anna", 0))
    await asyncio.sleep(60)
    assert world.titles() == []
    manager.notifier.resume()
    await until(lambda: world.titles() == ["anna needs somebody"], within=10)
    await manager.notifier.close()


@in_made_up_time
async def test_a_followers_own_channel_and_least_severity_count(tmp_path: Path) -> None:
    """The storm is one message to the fleet's channel and one to the trader's, who owns two of the three."""
    world = World(tmp_path)
    people = [
        _follower("anna", "json://trader"),
        _follower("ben", "json://trader"),
        _follower("carl", least=Severity.ERROR),
    ]
    manager = Manager(world, *people).begin()
    for name in ("anna", "ben", "carl"):
        manager.happens(ready(name, 0), lost_ibkr(name, 1))
    await until(lambda: len(world.arrived) == 2)
    await asyncio.sleep(60)
    assert sorted(world.arrived) == [
        ("channel 1", "2 gateways are out of service"),
        ("channel 1 of anna", "2 gateways are out of service"),
    ]
    await manager.notifier.close()


@in_made_up_time
async def test_what_waits_goes_to_nobody_whom_it_does_not_concern(tmp_path: Path) -> None:
    """An address that two shared failed, and one of them has a new one: there nothing is told of the other."""
    world = World(tmp_path, away={"channel 1 of anna"})
    both = [_follower("anna", "json://shared"), _follower("ben", "json://shared")]
    one = Manager(world, *both, channels=0).begin()
    one.happens(rejected("ben", 0))
    await asyncio.sleep(120)
    await one.notifier.close()
    world.away.clear()
    two = Manager(world, _follower("anna", "json://hers"), _follower("ben", "json://shared"), channels=0).begin()
    await asyncio.sleep(120)
    await two.notifier.close()
    assert world.titles("channel 1 of anna") == []


@in_made_up_time
async def test_notices_and_broken_records_are_told(tmp_path: Path) -> None:
    """The store is away for a minute; a record can't be used."""
    world = World(tmp_path)
    manager = Manager(world)
    manager.broken["anna"] = "account is 7."
    manager.begin()
    manager.notices.tell("record store", "The record store is away.")
    await until(lambda: len(world.titles()) == 2)
    assert sorted(world.titles()) == ["The gateway manager has trouble", "anna needs somebody"]
    manager.notices.tell("record store", None)
    await until(lambda: len(world.titles()) == 3)
    assert world.titles()[2] == "Resolved: the gateway manager's trouble"
    await manager.notifier.close()


@in_made_up_time
async def test_without_a_channel_nothing_is_written(tmp_path: Path) -> None:
    """Nobody pays for what nobody wants."""
    world = World(tmp_path)
    manager = Manager(world, channels=0).begin()
    manager.happens(rejected("anna", 0))
    await asyncio.sleep(7200)
    assert (world.arrived, world.content.shared) == ([], {})
    await manager.notifier.close()


@in_made_up_time
async def test_one_document_holds_what_was_told_and_what_waits(tmp_path: Path) -> None:
    """Under the kind that commands and managers know, and without an address."""
    world = World(tmp_path, away={"channel 1"})
    manager = Manager(world, _follower("anna", "json://trader/secret")).begin()
    manager.happens(rejected("anna", 0))
    await until(lambda: world.titles("channel 1 of anna"))
    await until(lambda: manager.notices.sentences)
    ((kind, _), text), *others = world.content.shared.items()
    assert kind == DOCUMENT_KIND
    assert others == []
    assert "json://" not in text
    assert "secret version" in text
    await manager.notifier.close()


def test_a_followers_channels_are_not_kept_with_the_records() -> None:
    """They stay where their owner wrote them."""
    record = Record(follower_id=FollowerId("anna"), last_good=_follower("anna", "json://trader/geheim", Severity.ERROR))
    kept = RECORDS.dump(record)
    assert "geheim" not in str(kept)
    again = RECORDS.read(kept, where="here").last_good
    assert again is not None
    assert again.notify_min_severity is Severity.ERROR
    assert _follower("anna").differences(_follower("anna", "json://trader/geheim")) == []
    assert at(0) == START
