"""What concerns the whole manager and stands until it is over: one sentence for each cause.

Shown by `status`, told once as an event and a log line. Whoever gives a notice clears it: an outage of the record store,
a hash of the audit trail that can't be kept, background work that fails and begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime

from spreadpilot_core.ibkr.model.events import EventBus, NoticeGiven
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

LONGEST_NOTICE = 500
"""Characters of one sentence: an error may quote what came from outside."""


class Notices:
    """The notices of one manager."""

    def __init__(self, bus: EventBus, clock: Callable[[], datetime]) -> None:
        self._bus = bus
        self._clock = clock
        self._leadership: dict[str, str] = {}
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever those that stand have changed; it must not raise or block."""
        self._listeners.append(listener)

    @property
    def by_cause(self) -> Mapping[str, str]:
        """Those that stand, by cause."""
        return dict(self._leadership)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Those that stand, oldest cause first."""
        return tuple(self._leadership.values())

    def tell(self, cause: str, sentence: str | None) -> None:
        """Give the notice of this cause, in place of the one before; None: it is over."""
        if sentence is None:
            if self._leadership.pop(cause, None) is not None:
                self._changed()
            return
        sentence = sentence if len(sentence) <= LONGEST_NOTICE else f"{sentence[: LONGEST_NOTICE - 1]}…"
        if self._leadership.get(cause) == sentence:
            return
        self._leadership[cause] = sentence
        with suppress(OSError):  # a log that nobody reads any more
            log.warning("NoticeGiven", cause=cause, sentence=sentence)
        self._bus.publish(NoticeGiven(at=self._clock(), sentence=sentence))
        self._changed()

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()
