"""Runs the notifications of one manager: hears what happens, decides what is told, keeps it, sends it.

    this manager becomes the leader  -> what the leader before it told, and what waited, is read from the shared documents
    something happens, or is due     -> plan, words, outbox; kept in the shared documents; then sent, each channel by itself
    it is the leader no more         -> nothing is sent, and what is known goes on being known

One document holds all of it, so that what was told and what waits are never kept the one without the other. A message is
kept before it is sent and taken out after it: a manager that is killed in between leaves it to the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.events import Event, EventBus, FollowersLoaded
from spreadpilot_core.ibkr.model.followers import Follower
from spreadpilot_core.ibkr.model.reasons import Severity
from spreadpilot_core.ibkr.notifications.audience import Channel, channels
from spreadpilot_core.ibkr.notifications.outbox import Message, Outbox
from spreadpilot_core.ibkr.notifications.planner import Phase, Plan, Planner
from spreadpilot_core.ibkr.notifications.sending import Sender
from spreadpilot_core.ibkr.notifications.troubles import OWN_CAUSE, Troubles, at_least
from spreadpilot_core.ibkr.notifications.wording import worded
from spreadpilot_core.ibkr.reporting.notices import Notices
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import Clock
from spreadpilot_core.ibkr.tasks import Tasks, keep_running, wait_for
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

DOCUMENT_KIND, DOCUMENT_NAME = "notification", "outbox"
GATHERED_WITHIN = 0.2
"""Seconds in which what happens at once is looked at together."""
RECHECK_EVERY = 60.0
SAVED_WITHIN = 3.0
"""Seconds that sending waits for the store; it goes on without it then, and keeps later what has changed."""
READ_WITHIN = 30.0
"""Seconds that a new leader tries to read what was told before; then it begins anew."""
DRAINED_WITHIN = 3.0
"""Seconds that the end waits for messages on their way."""


class FleetFacts(Protocol):
    """What is asked of the fleet."""

    def followers(self) -> Sequence[Follower]:
        """Every follower by the record that is in force."""

    def faulty(self) -> Mapping[str, str]:
        """Records that can't be used, and why."""

    def user_of(self, follower_id: str) -> str | None:
        """The follower's IBKR user, as far as it is known."""

    def quiet_until(self, follower_id: str, moment: datetime) -> datetime | None:
        """Until when an outage that began then is expected; None: it is not."""


class _NoFleet:
    """Before there is one."""

    def followers(self) -> Sequence[Follower]:
        return ()

    def faulty(self) -> Mapping[str, str]:
        return {}

    def user_of(self, _: str) -> str | None:
        return None

    def quiet_until(self, _: str, __: datetime) -> datetime | None:
        return None


class Notifier:
    """Of one manager."""

    def __init__(
        self,
        settings: Settings,
        *,
        urls: Sequence[SecretStr],
        bus: EventBus,
        notices: Notices,
        shared: SharedDocuments,
        may_act: Callable[[], bool],
        send: Sender,
        sender_name: str,
        clock: Clock,
    ) -> None:
        """`urls` are the fleet's channels; `may_act` says whether this manager is the leader now."""
        self._urls = tuple(urls)
        self._minimum = Severity(settings.notify_min_severity)
        self._bus = bus
        self._notices = notices
        self._shared = shared
        self._may_act = may_act
        self._send = send
        self._sender_name = sender_name
        self._clock = clock
        self._fleet: FleetFacts = _NoFleet()
        self._followers: Mapping[str, Follower] = {}
        self._channels: tuple[Channel, ...] = channels(self._urls, ())
        self._troubles = Troubles(outage_delay=settings.notify_outage_delay, phone_time=settings.phone_approval_time)
        self._planner = Planner(
            self._troubles,
            outage_delay=settings.notify_outage_delay,
            reminder=settings.notify_reminder,
            minimum=self._minimum_of,
            quiet_until=self._quiet_until,
        )
        self._outbox = Outbox()
        self._saved: object = None
        """Which state of planner and outbox the store has."""
        self._followers_known = False
        """They were read at all: before, nobody can be missed."""
        self._followers_read = False
        """They were read since they were looked at last."""
        self._leads = False
        self._is_held = False
        """Nothing more is begun to be sent: another manager may take over at any moment."""
        self._wake = asyncio.Event()
        self._keeping = asyncio.Lock()
        self._tasks = Tasks("notifier")
        self._sending: dict[str, asyncio.Task[None]] = {}

    def watch(self, fleet: FleetFacts) -> None:
        """From now on this is the fleet."""
        self._fleet = fleet

    def begin(self) -> None:
        """Listen, and start telling; nothing here waits."""
        self._bus.listen(self._heard)
        self._notices.listen(self._wake.set)
        self._tasks.begin("notify", keep_running("notify", self._run, tell=self._tell_notice))

    async def drain(self) -> None:
        """Begin to send nothing more, wait a little for what is on its way, and keep how it ended."""
        was_held, self._is_held = self._is_held, True
        if self._sending and not was_held:
            await asyncio.wait(list(self._sending.values()), timeout=DRAINED_WITHIN)
        await self._keep()

    def resume(self) -> None:
        """Go on: nobody has taken over."""
        self._is_held = False
        self._wake.set()

    async def close(self) -> None:
        """Drain, and end."""
        await self.drain()
        await self._tasks.cancel()

    # ------------------------------------------------------------------ what is heard

    def _heard(self, event: Event) -> None:
        if isinstance(event, FollowersLoaded):
            self._followers_known = self._followers_read = True
        self._troubles.see(event)
        self._wake.set()

    def _tell_notice(self, cause: str, sentence: str | None) -> None:
        self._notices.tell(f"{OWN_CAUSE}: {cause}", sentence)

    def _quiet_until(self, follower_id: str, moment: datetime) -> datetime | None:
        return self._fleet.quiet_until(follower_id, moment)

    def _minimum_of(self, follower_id: str | None) -> Severity:
        follower = self._followers.get(follower_id) if follower_id is not None else None
        return follower.notify_min_severity or self._minimum if follower is not None else self._minimum

    # ------------------------------------------------------------------ the loop

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._learn_followers()
            if self._channels and self._may_act() and not self._leads:
                await self._take_over()
                self._learn_followers()
            self._leads = self._leads and self._may_act()
            now = self._clock()
            self._troubles.see_notices(self._notices.by_cause, now)
            if self._leads and not self._is_held:
                self._plan(now)
                await self._keep()
                self._send_what_is_due()
            self._show_failures(self._outbox.notices() if self._leads else {})
            await wait_for(self._wake, within=self._idle_for(self._clock()))
            await asyncio.sleep(GATHERED_WITHIN)

    def _idle_for(self, now: datetime) -> float:
        due = [RECHECK_EVERY]
        if self._leads and not self._is_held:
            for moment in (self._planner.next_due(now) if self._channels else None, self._outbox.next_due(now)):
                due += [(moment - now).total_seconds()] if moment is not None else []
            if self._saved != self._changes:
                due.append(SAVED_WITHIN)
        return max(GATHERED_WITHIN, min(due))

    def _learn_followers(self) -> None:
        if not self._followers_read:
            return
        self._followers_read = False
        self._followers = {each.id: each for each in self._fleet.followers()}
        faulty = self._fleet.faulty()
        self._channels = channels(self._urls, self._followers.values())
        self._troubles.see_followers(self._followers, faulty, self._clock())
        if self._leads and (lost := self._outbox.keep_only({each.name: each.covers for each in self._channels})):
            log.warning(
                "notifications dropped",
                sentence="Their channel is not there any more, or hears of others now.",
                messages=lost,
            )

    def _plan(self, now: datetime) -> None:
        if not self._channels:
            return
        for plan in self._planner.plan(now):
            self._outbox.add(self._messages(plan, now))

    def _messages(self, plan: Plan, now: datetime) -> Iterable[Message]:
        for channel in self._channels:
            troubles = channel.concerns(plan)
            if troubles:
                text = worded(plan, troubles, now, sender=self._sender_name, user_of=self._fleet.user_of)
                severity = max(
                    (each.severity for each in troubles), key=lambda it: sum(at_least(it, s) for s in Severity)
                )
                yield Message(
                    channel=channel.name,
                    at=now,
                    severity=severity,
                    is_end=plan.phase is Phase.OVER,
                    about=tuple(sorted({each.follower_id for each in troubles if each.follower_id is not None})),
                    title=text.title,
                    body=text.body,
                )

    # ------------------------------------------------------------------ the shared documents

    @property
    def _changes(self) -> tuple[int, int]:
        return self._planner.changes, self._outbox.changes

    async def _take_over(self) -> None:
        """What the leader before told, and what waited for its channels."""
        document: Mapping[str, Any] | None = None
        deadline = asyncio.get_running_loop().time() + READ_WITHIN
        while self._may_act():
            try:
                await self._shared.open()
                document = await self._shared.get(DOCUMENT_KIND, DOCUMENT_NAME)
                break
            except GatewayManagerError as error:
                log.warning("notifications not read", sentence=str(error))
                if asyncio.get_running_loop().time() >= deadline:
                    break
                await asyncio.sleep(1.0)
        found = document or {}
        troubles, messages = found.get("troubles"), found.get("messages")
        self._planner.load([each for each in _listed(troubles) if isinstance(each, Mapping)])
        self._outbox.load([each for each in _listed(messages) if isinstance(each, Mapping)])
        self._saved = self._changes
        self._followers_read = self._followers_known
        self._leads = self._may_act()

    async def _keep(self) -> None:
        """One at a time, so that no older state is written over a newer one."""
        async with self._keeping:
            await self._keep_newest()

    async def _keep_newest(self) -> None:
        changes = self._changes
        if not self._leads or changes == self._saved or not self._may_act():
            return
        document = {"troubles": self._planner.as_documents(), "messages": self._outbox.as_documents()}
        with suppress(GatewayManagerError, TimeoutError):
            async with asyncio.timeout(SAVED_WITHIN):
                await self._shared.open()
                await self._shared.put(DOCUMENT_KIND, DOCUMENT_NAME, document)
                self._saved = changes

    # ------------------------------------------------------------------ sending

    def _send_what_is_due(self) -> None:
        now = self._clock()
        for channel in self._channels:
            if channel.name not in self._sending and self._outbox.next_for(channel.name, now) is not None:
                work = self._send_by(channel)
                then = partial(self._ended, channel.name)
                self._sending[channel.name] = self._tasks.begin(f"send by {channel.name}", work, then=then)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._sending.pop(name, None)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("notifying failed", channel=name, exc_info=error)

    async def _send_by(self, channel: Channel) -> None:
        """One after the other, until it fails or nothing waits."""
        while self._leads and self._may_act() and not self._is_held:
            message = self._outbox.next_for(channel.name, self._clock())
            if message is None:
                return
            why = await self._send(channel, message)
            if why is not None:
                self._outbox.failed(message, why, self._clock())
                return
            self._outbox.sent(message)
            await self._keep()

    def _show_failures(self, failures: Mapping[str, str]) -> None:
        for cause in self._notices.by_cause:
            if cause.startswith(f"{OWN_CAUSE}: channel ") and cause not in failures:
                self._notices.tell(cause, None)
        for cause, sentence in failures.items():
            self._notices.tell(cause, sentence)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
