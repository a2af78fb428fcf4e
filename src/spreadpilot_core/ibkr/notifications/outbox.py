"""What waits for its channel, in order; what is tried again and when, and what was given up. Pure: the time is an argument.

A channel that fails pauses, longer each time, and what waits for it waits in order. What is older than `GIVEN_UP_AFTER` is
given up, and so is the oldest where more than `MOST_WAITING` wait for one channel.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from spreadpilot_core.ibkr.model.reasons import Severity
from spreadpilot_core.ibkr.notifications.troubles import OWN_CAUSE

GIVEN_UP_AFTER = timedelta(hours=24)
MOST_WAITING = 200
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to one channel."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    channel: str
    at: datetime
    severity: Severity
    is_end: bool = False
    """Something is over: no cause for worry, whatever it was."""
    about: tuple[str, ...] = ()
    """The followers that it names."""
    title: str
    body: str

    def as_document(self) -> dict[str, Any]:
        """For the store."""
        return {
            "id": self.id,
            "channel": self.channel,
            "at": self.at.isoformat(),
            "severity": self.severity.value,
            "is_end": self.is_end,
            "about": list(self.about),
            "title": self.title,
            "body": self.body,
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Message:
        """Raises `KeyError`, `TypeError` or `ValueError` for what is none."""
        return cls(
            id=str(document["id"]),
            channel=str(document["channel"]),
            at=datetime.fromisoformat(document["at"]),
            severity=Severity(document["severity"]),
            is_end=bool(document["is_end"]),
            about=tuple(map(str, document["about"])),
            title=str(document["title"]),
            body=str(document["body"]),
        )


@dataclass(slots=True)
class _Queue:
    messages: deque[Message] = field(default_factory=deque)
    failing_since: datetime | None = None
    why: str = ""
    pause: timedelta = FIRST_PAUSE
    not_before: datetime | None = None
    given_up: int = 0
    """Since it began to fail."""


class Outbox:
    """Of all channels."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self.changes = 0
        """Grows whenever what must outlive the manager has changed."""

    def add(self, messages: Iterable[Message]) -> None:
        """Have them sent, each after those that wait for its channel."""
        for message in messages:
            queue = self._queues.setdefault(message.channel, _Queue())
            queue.messages.append(message)
            self.changes += 1
            if len(queue.messages) > MOST_WAITING:
                queue.messages.popleft()
                queue.given_up += 1

    def next_for(self, channel: str, now: datetime) -> Message | None:
        """The one to send now; what became too old is given up."""
        queue = self._queues.get(channel)
        if queue is None:
            return None
        while queue.messages and queue.messages[0].at <= now - GIVEN_UP_AFTER:
            queue.messages.popleft()
            queue.given_up += 1
            self.changes += 1
        paused = queue.not_before is not None and now < queue.not_before
        return queue.messages[0] if queue.messages and not paused else None

    def sent(self, message: Message) -> None:
        """It arrived, and the channel works."""
        queue = self._queues[message.channel]
        if queue.messages and queue.messages[0].id == message.id:
            queue.messages.popleft()
        self._queues[message.channel] = _Queue(queue.messages)
        self.changes += 1

    def failed(self, message: Message, why: str, now: datetime) -> None:
        """It did not; it is tried again after a pause."""
        queue = self._queues[message.channel]
        queue.failing_since = queue.failing_since or now
        queue.why, queue.not_before = why, now + queue.pause
        queue.pause = min(LONGEST_PAUSE, 2 * queue.pause)

    def next_due(self, now: datetime) -> datetime | None:
        """When something is worth trying; None: nothing waits."""
        due = [max(now, queue.not_before or now) for queue in self._queues.values() if queue.messages]
        return min(due) if due else None

    def keep_only(self, channels: Mapping[str, Collection[str] | None]) -> int:
        """Forget what waits for channels that there are no more, or that hear of these followers alone and of its own no more.

        Returns how many messages that were. A channel is known by its place, and so may have got another address meanwhile:
        what is about somebody else's gateway does not go there.
        """
        gone = [name for name in self._queues if name not in channels]
        lost = sum(len(self._queues.pop(name).messages) for name in gone)
        for name, queue in self._queues.items():
            covers = channels[name]
            staying = [each for each in queue.messages if covers is None or set(each.about) <= set(covers)]
            lost += len(queue.messages) - len(staying)
            queue.messages = deque(staying)
        self.changes += bool(lost)
        return lost

    def waiting(self, channel: str) -> int:
        """How many wait for it."""
        return len(self._queues[channel].messages) if channel in self._queues else 0

    def notices(self) -> dict[str, str]:
        """A sentence for each channel that fails, by the cause of its notice."""
        return {
            f"{OWN_CAUSE}: {name}": _sentence(name, queue)
            for name, queue in self._queues.items()
            if queue.failing_since is not None
        }

    # ------------------------------------------------------------------ what outlives the manager

    def as_documents(self) -> list[dict[str, Any]]:
        """What waits, oldest first for each channel."""
        return [message.as_document() for queue in self._queues.values() for message in queue.messages]

    def load(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Go on with what waited for an earlier leader; what can't be understood is left out."""
        self._queues.clear()
        for document in documents:
            try:
                self.add([Message.read(document)])
            except (KeyError, TypeError, ValueError):
                continue


def _sentence(name: str, queue: _Queue) -> str:
    assert queue.failing_since is not None
    lost = f" {queue.given_up} were given up." if queue.given_up else ""
    hours = GIVEN_UP_AFTER.total_seconds() / 3600
    return (
        f"Notifications by {name} have failed since {queue.failing_since:%Y-%m-%d %H:%M:%S} UTC: {queue.why} They are tried"
        f" again, each for {hours:g} hours.{lost} `gateway-manager notify test` tries every channel."
    )
