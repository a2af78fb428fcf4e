"""One backoff for everybody: a hundred followers that wait for the same server try it as often as one would.

While the server is not known to answer, one caller at a time asks it, with three retries; the others wait for what that
one finds, and share a failure for a few seconds. Once it answers, everybody asks at once. Knows no server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import stamina

from spreadpilot_core.ibkr.errors import CredentialsUnavailableError

stamina.instrumentation.set_on_retry_hooks([])  # it would print, and the courier's output belongs to the manager

T = TypeVar("T")


class AwayError(CredentialsUnavailableError):
    """The server can't be used now. `may_pass`: perhaps in a second, so that a retry makes sense."""

    def __init__(self, what: str, *, may_pass: bool, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How one failed try is repeated. Three retries within some 4 s, so that the manager never waits 30 s in silence."""

    retries: int = 3
    first_wait: float = 0.5
    """Seconds; each wait is twice the one before."""
    jitter: float = 0.25
    shared_for: float = 2.0
    """Seconds for which a failure holds for everybody who asks."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    error: AwayError
    until: float


class SharedBackoff:
    """Asks one server on behalf of many threads."""

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self.answers = False
        """Whether the server answered when it was last asked."""
        self._finding_out = threading.Lock()
        self._verdict: _Verdict | None = None

    def run(self, ask: Callable[[], T]) -> T:
        """What `ask` returns; an `AwayError` that may pass is retried, by one caller for all.

        Raises:
            AwayError: the server is away for everybody; other errors are answers, and raised as they are.
        """
        failed: AwayError | None = None
        for _ in range(self._pace.retries):
            if self.answers:
                try:
                    return ask()
                except AwayError as error:
                    failed, self.answers = error, False
            with self._finding_out:
                if not self.answers:
                    return self._find_out(ask, failed)
        assert failed is not None  # it answered others each time, and never this caller
        raise failed

    def _find_out(self, ask: Callable[[], T], failed: AwayError | None) -> T:
        """Ask until there is an answer or no try is left, while everybody else waits."""
        if self._verdict is not None and time.monotonic() < self._verdict.until:
            raise self._verdict.error
        known = [failed] if failed else []
        try:
            for attempt in stamina.retry_context(
                on=_may_pass,
                attempts=1 + self._pace.retries,
                timeout=None,
                wait_initial=self._pace.first_wait,
                wait_jitter=self._pace.jitter,
            ):
                with attempt:
                    if known:
                        raise known.pop()
                    return self._heard(ask)
        except AwayError as error:
            self._verdict = _Verdict(error, time.monotonic() + self._pace.shared_for)
            raise
        raise AssertionError  # the last attempt returned or raised

    def _heard(self, ask: Callable[[], T]) -> T:
        try:
            answer = ask()
        except AwayError:
            raise
        except BaseException:
            self.answers = True  # a refusal is an answer too
            raise
        self.answers = True
        return answer


def _may_pass(error: Exception) -> bool:
    return isinstance(error, AwayError) and error.may_pass
