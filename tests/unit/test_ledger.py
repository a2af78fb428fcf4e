"""The ledger: what can't be written now is kept and written later, in order, and nobody logs in meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from spreadpilot_core.ibkr.errors import StoreDamagedError, StoreUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import (
    AttemptId,
    ContainerId,
    LoadedRecords,
    LoginAttempt,
    LoginLimits,
    LoginOutcome,
    LoginRefusal,
    Record,
)
from spreadpilot_core.ibkr.supervision import ledger as module
from spreadpilot_core.ibkr.supervision.ledger import Ledger, refusal_sentence
from support.home import PATIENCE, eventually

ANNA, BEN, CLEO = (FollowerId(each) for each in ("anna", "ben", "cleo"))
NOW = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)


class Store:
    """A record store in memory that can be away; it notes every write that it was asked for."""

    def __init__(self) -> None:
        self.away = False
        self.writes: list[str] = []
        self.records: dict[FollowerId, Record] = {}
        self.refuse: LoginRefusal | None = None
        self.closed = False
        self.details: list[object] = []

    def _reach(self, what: str, *details: object) -> None:
        self.details += details
        if self.away:
            msg = "The store is away."
            raise StoreUnavailableError(msg)
        self.writes.append(what)

    async def open(self) -> None:
        """There, or not."""
        self._reach("open")

    async def close(self) -> None:
        """Let go."""
        self.closed = True

    async def load(self) -> LoadedRecords:
        """All records."""
        self._reach("load")
        return LoadedRecords(self.records)

    async def save(self, *records: Record, unless_newer: bool = False) -> None:
        """Write them."""
        saved = ", ".join(f"{each.follower_id} {each.last_reason}" for each in records)
        if any(each.last_reason == "bad" for each in records):
            raise StoreDamagedError(f"The store can't take {saved}.")
        self._reach(f"save {saved}{' unless newer' if unless_newer else ''}")
        self.records |= {each.follower_id: each for each in records}

    async def reserve_login(self, attempt: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
        """Reserve."""
        self._reach(f"reserve {attempt.user} {limits.counted}")
        return self.refuse

    async def mark_started(self, attempt_id: AttemptId, container_id: ContainerId, at: datetime) -> bool:
        """Mark."""
        self._reach(f"started {container_id}", attempt_id, at)
        return True

    async def settle_login(
        self, attempt_id: AttemptId, outcome: LoginOutcome, at: datetime, *, not_before: datetime | None = None
    ) -> None:
        """Settle."""
        self._reach(f"settle {outcome.value}", attempt_id, at, not_before)

    async def full_logins(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """None counts."""
        self._reach(f"counted {user} since {since:%d %H:%M}")
        return []


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def ledger(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    monkeypatch.setattr(module, "RETRY_AFTER", 0.01)
    one = Ledger(store, clock=lambda: NOW)  # type: ignore[arg-type]  # the ledger asks for no more than this
    await one.open()
    store.writes.clear()
    yield one
    store.away = False
    await one.close()


def attempt_of(ledger: Ledger) -> LoginAttempt:
    return ledger.new_attempt(ANNA, user="user", secret_version="1", by_operator=False)


def record(follower_id: FollowerId, reason: str) -> Record:
    return Record(follower_id=follower_id, last_reason=reason)


async def test_of_several_records_of_one_follower_only_the_newest_is_written(store: Store, ledger: Ledger) -> None:
    """Kept together, written once each, in the order in which they were first kept."""
    for reason in ("one", "two", "three"):
        ledger.keep(record(ANNA, reason))
    ledger.keep(record(BEN, "one"))
    await ledger.flush()

    assert store.writes == ["save anna three, ben one"]


async def test_what_another_manager_has_written_is_not_written_over(store: Store, ledger: Ledger) -> None:
    """What was kept before it took over is written where that is newer; what is kept until the records are read again is not."""
    store.away = True
    ledger.keep(record(ANNA, "before"))
    ledger.lay_down()
    ledger.keep(record(ANNA, "since"))
    ledger.keep(record(BEN, "since"))
    store.away = False
    await ledger.open()
    ledger.keep(record(BEN, "not taken up yet"))
    ledger.take_up()
    ledger.keep(record(BEN, "after"))
    await ledger.flush()

    assert store.writes == ["open", "save anna before unless newer", "load", "save ben after"]


async def test_a_record_that_no_store_takes_holds_none_of_the_others_up(
    store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are written with it are written, then and later; it is tried again alone, as it is by then."""
    monkeypatch.setattr(module, "RETRY_AFTER", 0.01)
    for follower_id, reason in ((ANNA, "one"), (CLEO, "bad"), (BEN, "one")):
        ledger.keep(record(follower_id, reason))
    await eventually(lambda: len(store.records) == 2, lambda: store.writes)
    for reason in ("bad", "bad", "good"):
        ledger.keep(record(CLEO, reason))
        ledger.keep(record(ANNA, f"beside {reason}"))
        await ledger.flush()
        assert store.records[ANNA].last_reason == f"beside {reason}"

    await eventually(lambda: CLEO in store.records, lambda: store.writes)
    assert store.records[CLEO].last_reason == "good"
    ledger.keep(record(CLEO, "with others again"))
    ledger.keep(record(BEN, "two"))
    await ledger.flush()
    assert store.writes[-1] == "save cleo with others again, ben two"


async def test_a_record_kept_the_moment_the_writer_ends_is_written_too(store: Store, ledger: Ledger) -> None:
    """The writer has just found nothing left, and its task is still being counted out: the record must not wait for ever."""
    save = store.save

    async def save_and_keep_another(*first: Record, unless_newer: bool = False) -> None:
        await save(*first, unless_newer=unless_newer)
        store.save = save  # type: ignore[method-assign]
        asyncio.get_running_loop().call_soon(ledger.keep, record(BEN, "late"))

    store.save = save_and_keep_another  # type: ignore[method-assign]
    ledger.keep(record(ANNA, "first"))

    await eventually(lambda: store.writes == ["save anna first", "save ben late"], lambda: store.writes)


async def test_while_the_store_is_away_everything_is_kept_in_order_and_nobody_logs_in(
    store: Store, ledger: Ledger
) -> None:
    """A settlement waits until it is durable; a reservation is refused at once; on return all is written in order."""
    store.away = True
    attempt = attempt_of(ledger)
    ledger.keep(record(ANNA, "before"))
    settling = asyncio.create_task(ledger.settle(attempt, LoginOutcome.FAILED))
    booking = asyncio.create_task(ledger.book(attempt, ContainerId("c1")))
    await asyncio.sleep(0.05)
    assert not settling.done()
    for refused in (
        ledger.reserve(attempt, LoginLimits(counted=3)),
        ledger.save(record(BEN, "x")),
        ledger.full_logins("user"),
    ):
        with pytest.raises(StoreUnavailableError, match="away"):
            await refused
    assert ledger.fault == Reason(ReasonCode.STORE_UNAVAILABLE, "The store is away.")

    store.away = False
    async with asyncio.timeout(PATIENCE):
        await settling
        await booking
    await ledger.flush()

    assert store.writes == ["save anna before, ben x", "settle failed", "reserve user None", "started c1"]
    assert ledger.fault is None


async def test_a_cancelled_caller_leaves_what_it_kept_to_be_written(store: Store, ledger: Ledger) -> None:
    """Nobody waits any more, and the login is settled all the same."""
    store.away = True
    settling = asyncio.create_task(ledger.settle(attempt_of(ledger), LoginOutcome.SUCCEEDED))
    await asyncio.sleep(0.03)
    settling.cancel()
    store.away = False

    await eventually(lambda: store.writes == ["settle succeeded"], lambda: store.writes)


async def test_closing_writes_what_is_kept(store: Store, ledger: Ledger) -> None:
    """The last word of a manager that ends is not lost."""
    ledger.keep(record(ANNA, "last"))
    await ledger.close()

    assert store.writes == ["save anna last"]
    assert store.closed


async def test_a_store_that_stays_away_holds_up_no_ending(store: Store, ledger: Ledger) -> None:
    """Closing gives up what it can't write, and says so in the log."""
    store.away = True
    ledger.keep(record(ANNA, "last"))
    async with asyncio.timeout(PATIENCE):
        await ledger.close()

    assert store.closed


async def test_before_the_records_were_read_none_is_written(store: Store) -> None:
    """What is known here would overwrite what is not."""
    unread = Ledger(store, clock=lambda: NOW)  # type: ignore[arg-type]  # as above
    unread.keep(record(ANNA, "blank"))
    await unread.close()

    assert store.writes == []


async def test_why_the_records_were_not_read_stays_said_whatever_else_is_written(store: Store) -> None:
    """Nobody who asks a second time is told less."""
    unread = Ledger(store, clock=lambda: NOW)  # type: ignore[arg-type]  # as above
    store.away = True
    with pytest.raises(StoreUnavailableError):
        await unread.open()
    told = unread.fault
    store.away = False
    await unread.flush()
    assert unread.fault == told
    await unread.open()
    assert unread.fault is None
    await unread.close()


async def test_logins_of_the_last_24_hours_are_asked_for(store: Store, ledger: Ledger) -> None:
    """The day runs back from now."""
    await ledger.full_logins("user")

    assert store.writes == ["counted user since 23 14:00"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("budget", "2 logins of user failed within 24 h"),
        ("in_progress", "under way"),
        ("throttled", "asked for a pause"),
    ],
)
def test_a_refusal_is_a_sentence_with_its_evidence(reason: str, words: str) -> None:
    """What speaks against the login, when it was, and when a place is free again."""
    one = LoginAttempt(
        id=AttemptId("1"), user="user", follower_id=ANNA, secret_version="1", reserved_at=NOW, by_operator=False
    )
    attempts = [one, replace(one, id=AttemptId("2"), reserved_at=NOW + timedelta(hours=1))]
    sentence = refusal_sentence(LoginRefusal(reason, attempts, NOW + timedelta(hours=24)), "user")  # type: ignore[arg-type]  # by parameter

    assert words in sentence
    assert "2026-11-25 14:00:00 UTC" in sentence
