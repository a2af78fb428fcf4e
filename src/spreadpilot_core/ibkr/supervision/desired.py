"""What each follower should have: the newest reading of its record, as far as that may be taken at its word.

    reading --take--> weigh (who is gone?) --> desired: RUN, KEEP, STOP, DISABLED or INVALID, by which reading, and why

An explicit `enabled = false` counts at once, for however many. What takes a gateway away by a slip or an accident does not:

    gone          a record that is not there counts once nothing further has gone for `removal_delay`
    gone by many  more than half of them, or all: nobody is let go before an operator says so, for as long as it takes
    broken        a record that can't be used, or that no longer says whether it is enabled: what was last read of it
                  stays in force, where it has a gateway
    live          paper does not become live before an operator confirms it: the reading before it stays in force

Whom an operator removed by command is let go at once. The last good reading is in the follower's record, so all of this
holds over a restart of the manager as well. Pure: no clock, no I/O; time comes from the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.decision import LONG_AGO
from spreadpilot_core.ibkr.deciding.observation import Wanted
from spreadpilot_core.ibkr.model.followers import FaultyRecord, Follower, FollowerId, Roster, TradingMode
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.system.wording import counted

STOPPED = Reason(ReasonCode.STOPPED_BY_OPERATOR, "An operator stopped it.")
CONFIRM = "`gateway-manager followers confirm-removals`"
DELETED = Reason(ReasonCode.NOT_ENABLED, "Its record was deleted.")


@dataclass(frozen=True, slots=True)
class Holding:
    """What one follower has now."""

    record: Record
    has_gateway: bool = False
    """A gateway is there, being started, or may be there."""
    trading_mode: TradingMode | None = None
    """Of the gateway that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What one follower should have."""

    wanted: Wanted
    why: Reason | None = None
    """None: nothing speaks against it."""
    follower: Follower | None = None
    """The reading in force; None: there is none, so that nothing can be started."""
    record: Record
    """As it is to be kept."""
    notices: tuple[str, ...] = ()
    """What a human should know of its own record."""
    loss: str | None = None
    """About a loss of records that it shares with others."""


class DesiredState:
    """The newest reading, and what of the ones before it stays in force."""

    def __init__(self, *, removal_delay: float) -> None:
        self._delay = timedelta(seconds=removal_delay)
        self._reading = Roster({}, {})
        self._read_at = LONG_AGO
        self._has_nameless = False
        """A record without a usable id is there: whose is gone may only have lost its name."""
        self._known: set[FollowerId] = set()
        """Whose records were there, and have not been let go since."""
        self._gone_since: dict[FollowerId, datetime] = {}
        """Whose records are gone while they have a gateway, and from when the delay runs."""
        self._held: set[FollowerId] = set()
        """Of those: whom only an operator lets go."""
        self._let_go: set[FollowerId] = set()
        self._retained: set[FollowerId] = set()
        """Whom an older reading keeps in force; a crash of the gateway does not change that."""
        self._share = (0, 0)
        """How many lost their record without anybody's word, and how many have something to lose."""

    # ------------------------------------------------------------------ the whole

    def take(self, reading: Roster, now: datetime) -> None:
        """This is what the store says now."""
        self._reading, self._read_at = reading, now
        self._has_nameless = any(each.is_nameless for each in reading.faulty.values())

    def weigh(self, holdings: Mapping[FollowerId, Holding], now: datetime) -> None:
        """Find whose records are gone, and whether so many are that it looks like an accident."""
        present = {*self._reading.usable, *map(FollowerId, self._reading.faulty)}
        self._let_go = self._let_go & holdings.keys() - present
        self._known |= self._reading.usable.keys() | (present & holdings.keys())
        everybody = self._known | holdings.keys()
        dismissed = everybody - present & (self._reading.removed | self._let_go)
        gone = everybody - present - dismissed
        at_stake = {each for each in everybody - dismissed if self._is_at_stake(each, holdings.get(each))}
        waiting = gone & at_stake
        self._count_gone(waiting, now)
        self._held = self._held & waiting | {each for each in waiting if holdings[each].record.removal_held}
        if 2 * len(waiting) > len(at_stake) or (waiting and 2 * len(gone) > len(everybody - dismissed)):
            self._held |= waiting
        self._share = (len(waiting), len(at_stake))
        if (due := self.due) is not None and self._read_at >= due and not self._has_nameless:
            self._let_go |= waiting - self._held
        self._known -= gone - waiting

    def _count_gone(self, waiting: set[FollowerId], now: datetime) -> None:
        """The delay runs anew for everybody whenever a further record goes: a store that empties slowly is one loss."""
        has_grown = not waiting <= self._gone_since.keys() or self._has_nameless
        self._gone_since = {each: now if has_grown else self._gone_since[each] for each in waiting}

    @property
    def due(self) -> datetime | None:
        """When a further reading lets somebody go; None: nobody waits for that."""
        return min((at + self._delay for each, at in self._gone_since.items() if each not in self._held), default=None)

    @property
    def missing(self) -> tuple[FollowerId, ...]:
        """Whose records are gone while they have gateways, and nobody has said that they should be."""
        return tuple(sorted(self._gone_since.keys() - self._let_go))

    @property
    def is_asking(self) -> bool:
        """Whether an operator must say what became of some of them."""
        return bool(self._held)

    def confirm(self, names: Iterable[FollowerId]) -> None:
        """An operator has said that these records are gone on purpose; of others it changes nothing."""
        self._let_go |= set(names) & self._gone_since.keys()

    def reading_of(self, follower_id: FollowerId) -> Follower | None:
        """What the store says of this follower, in force or not."""
        return self._reading.usable.get(follower_id)

    def is_gone(self, follower_id: FollowerId) -> bool:
        """Whether the store has no record of this follower, usable or not, and nobody is asked what became of the records."""
        is_there = follower_id in self._reading.usable or follower_id in self._reading.faulty
        return not is_there and (not self.is_asking or follower_id in self._let_go)

    def is_retained(self, follower_id: FollowerId) -> bool:
        """Whether a reading before the newest one is in force for this follower, whose record can't be used."""
        return follower_id in self._retained

    def _is_at_stake(self, follower_id: FollowerId, holding: Holding | None) -> bool:
        """Whether it would lose something that it should have: a gateway, or the one that follows it after a crash."""
        if holding is None or holding.record.stopped_by_operator:
            return False
        good = holding.record.last_good
        if good is not None and not good.is_wanted:
            return False
        return holding.has_gateway or (good is not None and follower_id in self._retained)

    # ------------------------------------------------------------------ one follower

    def desired(self, follower_id: FollowerId, holding: Holding) -> Desired:
        """What this follower should have, by the last weighing."""
        at_stake = self._is_at_stake(follower_id, holding)
        follower, fault = self._reading.usable.get(follower_id), self._reading.faulty.get(follower_id)
        if follower is not None:
            found, is_retained = self._by_reading(follower, holding, at_stake=at_stake)
        elif fault is not None:
            found, is_retained = self._broken(fault, holding, at_stake=at_stake)
        else:
            found, is_retained = self._gone(follower_id, holding, at_stake=at_stake)
        (self._retained.add if is_retained else self._retained.discard)(follower_id)
        return found

    def _by_reading(self, follower: Follower, holding: Holding, *, at_stake: bool) -> tuple[Desired, bool]:
        record = replace(holding.record, removal_held=False)
        notices = self._reading.notices.get(follower.id, ())
        if record.trading_mode is None and holding.trading_mode is not None:
            record = replace(record, trading_mode=holding.trading_mode)
        if (
            TradingMode.PAPER is follower.trading_mode is holding.trading_mode
        ):  # a word for live that brought nothing is over
            record = replace(record, trading_mode=TradingMode.PAPER)
        unsaid = not follower.says_enabled and at_stake
        if unsaid:
            follower = replace(follower, enabled=True)
            notices = (*notices, "enabled is missing in its record, so it stays as it was; `enabled = false` stops it.")
        if follower.trading_mode is TradingMode.LIVE and record.trading_mode is TradingMode.PAPER:
            return self._stays_paper(follower, record, notices), unsaid
        if holding.has_gateway or record.last_good is not None:
            record = replace(record, last_good=follower)
        return _by_words(follower, record, notices), unsaid

    def _stays_paper(self, newer: Follower, record: Record, notices: tuple[str, ...]) -> Desired:
        """Everything as last confirmed but `enabled` and `state`, which count at once."""
        good = record.last_good
        word = f"`gateway-manager launch {newer.id} --live`"
        if good is None or good.trading_mode is not TradingMode.PAPER:
            why = f"Its record asks for live trading, its gateway is paper, and no operator has confirmed that yet: {word}."
            as_it_was = replace(_by_words(newer, record, (*notices, why)), follower=None)
            unconfirmed = Reason(ReasonCode.LIVE_TRADING_UNCONFIRMED, why)
            return (
                replace(as_it_was, wanted=Wanted.KEEP, why=unconfirmed) if as_it_was.wanted is Wanted.RUN else as_it_was
            )
        differences = "; ".join(good.differences(newer))
        notice = f"Its record asks for live trading; until an operator confirms that ({word}) it goes on in paper: {differences}."
        good = replace(good, enabled=newer.enabled, state=newer.state, says_enabled=newer.says_enabled)
        return _by_words(good, replace(record, last_good=good), (*notices, notice))

    def _broken(self, fault: FaultyRecord, holding: Holding, *, at_stake: bool) -> tuple[Desired, bool]:
        record, good = holding.record, holding.record.last_good
        if fault.is_disabled or not at_stake:
            invalid = Reason(ReasonCode.RECORD_INVALID, fault.fault)
            return Desired(wanted=Wanted.INVALID, why=invalid, record=record), False
        why = f"Its record can't be used: {fault.fault}"
        if good is None:
            invalid = Reason(ReasonCode.RECORD_INVALID, why)
            return Desired(wanted=Wanted.KEEP, why=invalid, record=record, notices=(why,)), True
        return _by_words(good, record, (f"{why} What was last read of it stays in force.",)), True

    def _loss(self) -> str:
        """Why those wait whom only an operator lets go, as their loss is now."""
        lost, of = self._share
        if 2 * lost <= of:
            one = lost == 1
            return (
                f"The {'record' if one else 'records'} of {counted(lost, 'follower')} went together with most others, which are"
                f" back: {'it is' if one else 'they are'} not stopped before {'it is' if one else 'they are'} back, too, or an"
                f" operator says so ({CONFIRM})."
            )
        return (
            f"Of {counted(of, 'follower')} with a gateway {lost} {'has lost its record' if lost == 1 else 'have lost their records'},"
            " which looks like an accident: nobody is"
            f" stopped for it before they are back, or an operator says so ({CONFIRM})."
        )

    def _gone(self, follower_id: FollowerId, holding: Holding, *, at_stake: bool) -> tuple[Desired, bool]:
        record, good = holding.record, holding.record.last_good
        if follower_id in self._reading.removed:
            removed = Reason(ReasonCode.NOT_ENABLED, "An operator removed its record.")
            return Desired(wanted=Wanted.DISABLED, why=removed, record=record), False
        if not at_stake or follower_id in self._let_go:
            return Desired(wanted=Wanted.DISABLED, why=DELETED, record=replace(record, removal_held=False)), False
        if (since := self._gone_since.get(follower_id)) is None:  # the next weighing says more
            return Desired(wanted=Wanted.KEEP, why=_missing("Its record is gone."), follower=good, record=record), True
        if follower_id not in self._held:
            until = since + self._delay
            why = (
                f"Its record is gone; its gateway is stopped at {until:%H:%M:%S} UTC unless the record is back by then."
            )
            if self._has_nameless:
                why = "Its record is gone, and one without a usable id is there, which may be its own: correct that id first."
            return Desired(wanted=Wanted.KEEP, why=_missing(why), follower=good, record=record, notices=(why,)), True
        record, why = replace(record, removal_held=True), self._loss()
        if good is None:
            return Desired(wanted=Wanted.KEEP, why=_missing(why), record=record, loss=why), True
        return replace(_by_words(good, record, ()), loss=why), True


def _missing(why: str) -> Reason:
    return Reason(ReasonCode.RECORD_MISSING, why)


def _by_words(follower: Follower, record: Record, notices: tuple[str, ...]) -> Desired:
    """What this reading and the operator ask for."""
    wanted: Wanted = Wanted.RUN
    why: Reason | None = None
    if not follower.enabled:
        wanted, why = Wanted.DISABLED, Reason(ReasonCode.NOT_ENABLED, "Its record is not enabled.")
    elif not follower.is_wanted:
        wanted, why = Wanted.DISABLED, Reason(ReasonCode.NOT_ENABLED, f"Its record has the state {follower.state}.")
    elif record.stopped_by_operator:
        wanted, why = Wanted.STOP, STOPPED
    return Desired(wanted=wanted, why=why, follower=follower, record=record, notices=notices)
