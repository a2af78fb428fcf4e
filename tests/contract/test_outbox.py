"""The outbox above every record store: an absence loses nothing, doubles nothing, and lets nobody log in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import RecordsLostError, StoreDamagedError, StoreUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import ContainerId, HistoryQuery, LoginOutcome
from spreadpilot_core.ibkr.store.outbox import Outbox
from spreadpilot_core.ibkr.store.outboxed_records import OutboxedRecords
from spreadpilot_core.ibkr.supervision.ledger import Ledger
from support.mongo import mongo_database, mongo_server  # noqa: F401  # fixtures
from support.stores import (
    ADAPTERS,
    BUDGET,
    NOON,
    Breakable,
    RecordsUnderTest,
    a_mapping,
    a_record,
    an_attempt,
    an_entry,
    noon,
    records_under_test,
)
from support.waiting import until

pytestmark = pytest.mark.parametrize("store_adapter", ADAPTERS)
AWAY = StoreUnavailableError("It is away.")


@pytest.fixture
def under_test(store_adapter: str, tmp_path: Path, request: pytest.FixtureRequest) -> RecordsUnderTest:
    return records_under_test(store_adapter, tmp_path, request)


class Manager:
    """One manager's way to the records, and what can break in it."""

    def __init__(self, under_test: RecordsUnderTest, outbox: Path) -> None:
        self.way = Breakable(under_test.store())
        self.told: dict[str, str | None] = {}
        self.records = OutboxedRecords(self.way, Outbox(outbox), tell=self.told.__setitem__)  # type: ignore[arg-type]  # by __getattr__


@pytest.fixture
async def manager(under_test: RecordsUnderTest, tmp_path: Path) -> AsyncIterator[Manager]:
    manager = Manager(under_test, tmp_path / "outbox.sqlite3")
    await manager.records.open()
    yield manager
    await manager.records.close()


async def test_what_waited_is_written_in_order(under_test: RecordsUnderTest, manager: Manager) -> None:
    """Records, settlements, history and mappings of an absence are there after it, each once; of mappings the newest."""
    records = manager.records
    assert await records.reserve_login(an_attempt(), BUDGET) is None
    await records.append_history([an_entry(0)])
    manager.way.error = AWAY
    for number in range(1, 5):
        await records.save(a_record(client_id=number, updated_at=NOON + timedelta(seconds=number)))
        await records.report([a_mapping(client_id=number)])
        await records.append_history([an_entry(number)])
    await records.settle_login(an_attempt().id, LoginOutcome.REJECTED, NOON)
    assert records.waiting
    manager.way.error = None
    await until(lambda: not records.waiting)
    assert await under_test.history() == [f"Sentence {number}." for number in range(5)]
    assert [(each["follower_id"], each["client_id"]) for each in await under_test.mappings()] == [("anna", 4)]
    assert [each.client_id for each in (await records.load()).usable.values()] == [4]
    assert [each.outcome for each in await records.full_logins("anna01", NOON)] == [LoginOutcome.REJECTED]
    assert not any(manager.told.values())


async def test_what_is_read_first_waits_for_what_was_written(manager: Manager) -> None:
    """Nobody reads past their own writes, and with the store away nobody reads at all."""
    manager.way.error = AWAY
    await manager.records.append_history([an_entry(1)])
    with pytest.raises(StoreUnavailableError):
        await manager.records.unsettled_logins()
    manager.way.error = None
    await manager.records.save(a_record())  # behind what waits
    assert list((await manager.records.load()).usable) == ["anna"]


async def test_what_waits_survives_the_manager(under_test: RecordsUnderTest, tmp_path: Path) -> None:
    """The next manager with the same state directory writes it, unless another has written something newer meanwhile."""
    first, second = (Manager(under_test, tmp_path / "shared.sqlite3") for _ in range(2))
    await first.records.open()
    await first.records.save(a_record("cleo"))
    first.way.error = AWAY
    await first.records.save(a_record(client_id=1, updated_at=NOON))
    await first.records.save(a_record("bert", client_id=1, updated_at=NOON))
    await first.records.close()
    other = under_test.store()
    await other.open()
    await other.save(a_record(client_id=2, updated_at=NOON + timedelta(seconds=1)))
    await other.close()
    await second.records.open()
    try:
        kept = (await second.records.load()).usable
        assert {name: each.client_id for name, each in kept.items() if name != "cleo"} == {"anna": 2, "bert": 1}
    finally:
        await second.records.close()


async def test_nobody_logs_in_while_it_is_away(manager: Manager) -> None:
    """A reservation is refused at once, and one whose answer was lost is taken back; so is no mark of a start."""
    manager.way.error, manager.way.loses_answers = AWAY, True
    with pytest.raises(StoreUnavailableError):
        await manager.records.reserve_login(an_attempt(1), BUDGET)
    manager.way.error = None
    assert await manager.records.reserve_login(an_attempt(2), BUDGET) is None, "the one without an answer is gone"
    manager.way.error, manager.way.loses_answers = AWAY, False
    with pytest.raises(StoreUnavailableError):
        await manager.records.mark_started(an_attempt(2).id, ContainerId("c"), NOON)


async def test_a_store_that_is_all_damaged_costs_nothing_that_waits(
    under_test: RecordsUnderTest, manager: Manager
) -> None:
    """Only what the store alone does not take is given up, and told."""
    manager.way.error = AWAY
    await manager.records.append_history([an_entry(1)])
    manager.way.error = StoreDamagedError("It can't be read at all.")
    with pytest.raises(StoreDamagedError):
        await manager.records.unsettled_logins()
    assert manager.records.waiting == 1
    assert not any(manager.told.values())
    manager.way.error = None
    await until(lambda: not manager.records.waiting)
    assert await under_test.history() == ["Sentence 1."]


async def test_an_emptied_store_is_not_taken_for_a_first_start(under_test: RecordsUnderTest, tmp_path: Path) -> None:
    """What waited for it proves nothing of what it held: an operator is asked, again and again, until one has said so."""
    first = Manager(under_test, tmp_path / "shared.sqlite3")
    await first.records.open()
    first.way.error = AWAY
    await first.records.save(a_record(client_id=7))
    await first.records.close()
    accepted = False

    async def must_be_first_start() -> None:
        if not accepted:
            raise RecordsLostError

    records = OutboxedRecords(
        under_test.store(), Outbox(tmp_path / "shared.sqlite3"), must_be_first_start=must_be_first_start
    )
    ledger = Ledger(records, clock=noon)
    for number in range(2):
        with pytest.raises(RecordsLostError):
            await ledger.open()
        await records.append_history([an_entry(number)])  # that nobody logs in is history too
        with pytest.raises(RecordsLostError):
            await records.read_history(HistoryQuery())
        await asyncio.sleep(1)  # in which what waits is tried again
    accepted = True
    try:
        assert (await ledger.open()).usable[FollowerId("anna")].client_id == 7
        assert list(await ledger.unsettled()) == []
        assert records.waiting == 0
    finally:
        await ledger.close()
