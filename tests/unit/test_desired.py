"""What followers should have, by readings in made-up time; records are kept as the manager would keep them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.deciding.observation import Wanted
from spreadpilot_core.ibkr.model.followers import FollowerId, Roster, TradingMode
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.store.rosters import parse_roster
from spreadpilot_core.ibkr.supervision.desired import Desired, DesiredState, Holding

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
TWELVE = [f"f{number:02}" for number in range(12)]
STAYS = (Wanted.RUN, Wanted.KEEP)


def a_document(name: str, **fields: Any) -> dict[str, Any]:
    given = {"id": name, "vault_secret_ref": f"ibkr/{name}", "enabled": True, **fields}
    return {field: value for field, value in given.items() if value is not None}


class World:
    """A store, gateways and records, and a manager that may begin anew; a gateway goes when nobody wants it."""

    def __init__(self, *names: str, delay: float = 30) -> None:
        self.documents = {name: a_document(name) for name in names}
        self.removed: set[str] = set()
        self.delay = delay
        self.now = START
        self.records: dict[FollowerId, Record] = {}
        self.gateways: dict[FollowerId, TradingMode] = {}
        self.begin()

    def begin(self) -> None:
        """Another manager, with what the last one kept."""
        self.state = DesiredState(removal_delay=self.delay)
        self.read()

    def reading(self) -> Roster:
        """What a store would answer now."""
        roster = parse_roster(list(self.documents.values()))
        return replace(roster, removed=frozenset(map(FollowerId, self.removed - self.documents.keys())))

    def read(self, after: float = 0.0) -> dict[str, Desired]:
        """Read the store `after` seconds from now, and do what is desired."""
        self.now += timedelta(seconds=after)
        self.state.take(self.reading(), self.now)
        return self.apply()

    def apply(self) -> dict[str, Desired]:
        """Do what is desired by the last reading."""
        names = {*self.reading().usable, *map(FollowerId, self.reading().faulty), *self.gateways}
        self.state.weigh({each: self._holding(each) for each in names}, self.now)
        found = {each: self.state.desired(each, self._holding(each)) for each in names}
        for name, desired in found.items():
            self.records[name] = desired.record
            if desired.wanted is Wanted.RUN and name not in self.gateways:
                self._launch(name, desired)
            elif desired.wanted not in STAYS:
                self.gateways.pop(name, None)
        return dict(found)

    def _launch(self, name: FollowerId, desired: Desired) -> None:
        assert desired.follower is not None
        mode = self.gateways[name] = desired.follower.trading_mode
        self.records[name] = replace(self.records[name], trading_mode=mode, last_good=desired.follower)

    def _holding(self, name: FollowerId) -> Holding:
        record = self.records.get(name) or Record(follower_id=name)
        return Holding(record=record, has_gateway=name in self.gateways, trading_mode=self.gateways.get(name))

    def lose(self, names: Iterable[str]) -> None:
        """These records are gone."""
        for name in names:
            del self.documents[name]

    def pass_time(self, seconds: float, *, step: float = 5.0) -> None:
        """Read the store every few seconds, for so long."""
        for _ in range(int(seconds / step)):
            self.read(step)

    @property
    def running(self) -> list[str]:
        """Whose gateways run."""
        return sorted(self.gateways)


def test_a_single_loss_counts_after_its_delay() -> None:
    """One of twelve is gone: it runs for 30 s, and is stopped by the reading after that, by no other call."""
    world = World(*TWELVE)
    world.lose(["f03"])
    found = world.read()
    assert (found["f03"].wanted, found["f03"].notices) == (
        Wanted.KEEP,
        ("Its record is gone; its gateway is stopped at 12:00:30 UTC unless the record is back by then.",),
    )
    world.read(29)
    world.now += timedelta(seconds=60)
    world.apply()
    assert len(world.running) == 12
    world.read()
    assert world.running == [name for name in TWELVE if name != "f03"]


@pytest.mark.parametrize("lost", [7, 11, 12])
def test_more_than_half_stop_nobody_for_as_long_as_it_takes(lost: int) -> None:
    """A day later, and under two more managers, everybody runs; who comes back is as before, the rest still waits."""
    world = World(*TWELVE)
    kept = dict(world.documents)
    world.lose(TWELVE[:lost])
    world.read()
    for _ in range(3):
        world.pass_time(86_400, step=600)
        assert world.running == TWELVE
        assert world.state.missing == tuple(TWELVE[:lost])
        world.begin()
    world.documents |= {name: kept[name] for name in TWELVE[: lost - 2]}
    world.pass_time(86_400, step=600)
    assert world.running == TWELVE
    assert world.state.missing == tuple(TWELVE[lost - 2 : lost])
    world.begin()
    world.pass_time(600)
    assert world.running == TWELVE
    world.state.confirm(world.state.missing)
    world.apply()
    assert len(world.running) == 10


@pytest.mark.parametrize("names", [TWELVE[:1], TWELVE[:2], TWELVE])
def test_an_emptied_store_is_an_accident_in_a_fleet_of_any_size(names: list[str]) -> None:
    """Also of one, also where it was emptied while no manager ran, and where the records were lost with it."""
    world = World(*names)
    world.lose(names)
    world.pass_time(600)
    assert world.running == names
    world.records.clear()
    world.begin()
    world.pass_time(600)
    assert world.running == names
    assert world.state.is_asking


@pytest.mark.parametrize("pause", [0.5, 8.0, 25.0])
def test_a_store_that_empties_slowly_is_one_loss(pause: float) -> None:
    """Deleted one by one, each before the delay of the last is over: nobody is stopped, and in the end a human is asked."""
    world = World(*TWELVE)
    for name in TWELVE:
        world.lose([name])
        world.read(pause)
    world.pass_time(3600)
    assert world.running == TWELVE
    assert world.state.is_asking


@pytest.mark.parametrize("slip", [{"id": None}, {"id": "f03 "}, {"id": 3}])
def test_a_record_that_lost_its_name_lets_nobody_go(slip: dict[str, Any]) -> None:
    """One of twelve is gone, and a record without a usable id is there: it waits until that is mended, then as ever."""
    world = World(*TWELVE, delay=0)
    world.documents["f03"] = {name: value for name, value in {**a_document("f03"), **slip}.items() if value is not None}
    world.read()
    world.pass_time(600)
    assert world.running == TWELVE
    world.documents["f03"] = a_document("f03")
    world.read()
    world.lose(["f03"])
    world.pass_time(60)
    assert "f03" not in world.running


def test_renaming_everybody_is_a_loss_of_everybody() -> None:
    """New ids are no proof that the old ones were meant to go."""
    world = World(*TWELVE)
    world.lose(TWELVE)
    world.documents = {f"new-{name}": a_document(f"new-{name}") for name in TWELVE}
    world.pass_time(600)
    assert set(TWELVE) <= set(world.running)


def test_an_operators_words_count_at_once() -> None:
    """Disabled by twelve records at once, or removed by command: no delay, and no question."""
    world = World(*TWELVE)
    for name in TWELVE[:8]:
        world.documents[name] = a_document(name, enabled=False)
    world.read()
    assert world.running == TWELVE[8:]
    world.lose(TWELVE[:8])
    world.read()
    assert not world.state.missing
    world.removed |= set(TWELVE[8:11])
    world.lose(TWELVE[8:11])
    world.read()
    assert world.running == TWELVE[11:]


def test_a_disabled_record_that_goes_while_its_gateway_closes_is_let_go() -> None:
    """Disabled, and then deleted before the gateway is gone: it is not kept for that."""
    world = World(*TWELVE)
    name = FollowerId("f03")
    world.documents[name] = a_document(name, enabled=False)
    world.read()
    world.gateways[name] = TradingMode.PAPER
    world.lose([name])
    assert world.read(1)[name].wanted is Wanted.DISABLED


def test_who_is_stopped_by_an_operator_is_no_loss() -> None:
    """A stop is never held, also of one whose record is gone."""
    world = World("anna")
    world.lose(["anna"])
    world.read()
    anna = FollowerId("anna")
    world.records[anna] = replace(world.records[anna], stopped_by_operator=True)
    world.apply()
    assert world.running == []


SLIPS: dict[str, dict[str, Any]] = {
    "a name that nobody knows": {"enbled": True},
    "an option outside its table": {"read_only_api": True},
    "enabled left out": {"enabled": None},
    "a wrong value": {"trading_mode": "LIVE"},
    "no secret": {"vault_secret_ref": None},
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS.keys())
def test_a_slip_changes_nothing_but_is_named(slip: dict[str, Any]) -> None:
    """What was last read stays in force, over a crash and another manager; an explicit `enabled = false` counts all the same."""
    world = World("anna", "bert")
    anna = FollowerId("anna")
    world.documents["anna"] = a_document("anna", **slip)
    found = world.read()["anna"]
    assert (found.wanted, len(found.notices)) == (Wanted.RUN, 1)
    del world.gateways[anna]
    assert world.read(60)["anna"].wanted is Wanted.RUN
    world.begin()
    assert world.read(60)["anna"].notices == found.notices
    assert world.running == ["anna", "bert"]
    world.documents["anna"] |= {"enabled": False}
    world.read()
    assert world.running == ["bert"]


def test_a_slip_starts_nobody() -> None:
    """Who has no gateway gets none by a record that can't be used, nor by one that does not say `enabled`."""
    world = World("anna")
    world.documents["bert"] = a_document("bert", colour=1)
    world.documents["cleo"] = a_document("cleo", enabled=None)
    found = world.read()
    assert (found["bert"].wanted, found["cleo"].wanted) == (Wanted.INVALID, Wanted.DISABLED)
    assert world.running == ["anna"]


def test_a_second_record_of_the_same_id_leaves_the_first_reading_in_force() -> None:
    """Nobody can say which is meant, so what was read before goes on."""
    world = World("anna")
    world.documents["again"] = a_document("anna", account="U1")
    found = world.read()["anna"]
    assert found.wanted is Wanted.RUN
    assert "in 2 records" in found.notices[0]


def test_paper_becomes_live_by_an_operators_word_alone() -> None:
    """The whole reading is held, over a crash and another manager; enabled and the word itself count at once."""
    world = World("anna", "bert")
    anna = FollowerId("anna")
    world.documents["anna"] = a_document("anna", trading_mode="live", account="U1", vault_secret_ref="ibkr/real")
    for _ in range(2):
        del world.gateways[anna]
        found = world.read(60)["anna"]
        assert world.gateways[anna] is TradingMode.PAPER
        assert found.follower is not None
        assert (found.follower.account, found.follower.vault_secret_ref) == (None, "ibkr/anna")
        assert (
            "vault_secret_ref is 'ibkr/real' instead of 'ibkr/anna'; trading_mode is 'live' instead of 'paper';"
            " account is 'U1' (it was not set)."
        ) in found.notices[0]
        world.begin()
    world.documents["anna"] |= {"enabled": False}
    world.read()
    assert world.running == ["bert"]
    world.documents["anna"] |= {"enabled": True}
    world.records[anna] = replace(world.records[anna], trading_mode=TradingMode.LIVE)
    assert world.read()["anna"].notices == ()
    assert world.gateways[anna] is TradingMode.LIVE


def test_a_new_follower_may_be_live_at_once_and_a_live_one_paper() -> None:
    """Nothing is held that did not run in paper; back to live takes a word again once it has run in paper."""
    world = World()
    world.documents["anna"] = a_document("anna", trading_mode="live")
    anna = FollowerId("anna")
    world.read()
    assert world.gateways[anna] is TradingMode.LIVE
    world.documents["anna"] = a_document("anna")
    world.read()
    del world.gateways[anna]
    world.read()
    assert world.gateways[anna] is TradingMode.PAPER
    world.documents["anna"] = a_document("anna", trading_mode="live")
    world.read()
    del world.gateways[anna]
    world.read()
    assert world.gateways[anna] is TradingMode.PAPER


def test_a_record_that_says_paper_takes_a_word_for_live_back() -> None:
    """It brought no live gateway, and is no word for what somebody writes into the record much later."""
    world, anna = World("anna"), FollowerId("anna")
    world.records[anna] = replace(world.records[anna], trading_mode=TradingMode.LIVE)
    world.read()
    world.documents["anna"] = a_document("anna", trading_mode="live")
    world.read()
    del world.gateways[anna]
    world.read()
    assert world.gateways[anna] is TradingMode.PAPER


def test_a_paper_gateway_whose_record_was_lost_is_not_made_live() -> None:
    """Adopted by its labels alone under a live record: it is kept, nothing is started, and the word is asked for."""
    world = World("anna")
    world.records.clear()
    world.documents["anna"] = a_document("anna", trading_mode="live")
    world.begin()
    found = world.read()["anna"]
    assert (found.wanted, found.follower) == (Wanted.KEEP, None)
    assert "--live" in str(found.why)
    assert found.why is not None
    assert found.why.code is ReasonCode.LIVE_TRADING_UNCONFIRMED


KINDS = ["delete", "restore", "restore all", "empty", "slip", "unsay", "live", "crash", "new manager", "wait"]


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 4)), max_size=40))
def test_no_accident_lets_a_majority_go_and_none_makes_anybody_live(steps: list[tuple[str, int]]) -> None:
    """Whatever happens to the store and the gateways: without an operator's word at most half go, and nobody goes live."""
    world = World(*TWELVE[:5])
    for kind, number in steps:
        before = set(world.running)
        _happen(world, kind, TWELVE[number])
        world.read(1)
        lost_at_once = before - set(world.running)
        assert 2 * len(lost_at_once) <= len(before) or not lost_at_once
        assert TradingMode.LIVE not in world.gateways.values()
        assert set(TWELVE[:5]) & world.documents.keys() <= {*world.running, *_broken(world)}


def _broken(world: World) -> set[str]:
    return {name for name, document in world.documents.items() if "enbled" in document or "enabled" not in document}


def _happen(world: World, kind: str, name: str) -> None:
    document = world.documents.get(name)
    if kind == "delete":
        world.documents.pop(name, None)
    elif kind == "restore":
        world.documents[name] = a_document(name)
    elif kind == "restore all":
        world.documents = {each: a_document(each) for each in TWELVE[:5]}
    elif kind == "empty":
        world.documents.clear()
    elif kind == "crash":
        world.gateways.pop(FollowerId(name), None)
    elif kind == "new manager":
        world.begin()
    elif kind == "wait":
        world.read(40)
    elif document is not None:
        change = {"slip": {"enbled": True}, "unsay": {"enabled": None}, "live": {"trading_mode": "live"}}[kind]
        world.documents[name] = a_document(name, **change)
