from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from spreadpilot_core.ibkr.credentials.sources import backoff as module
from spreadpilot_core.ibkr.credentials.sources.backoff import AwayError, Pace, SharedBackoff
from spreadpilot_core.ibkr.errors import CredentialsRefusedError

FAST = Pace(first_wait=0.01, jitter=0.0, shared_for=60.0)


class Server:
    """Answers, or fails as it is told; counts how often it is asked."""

    def __init__(self, failures: int = 0, *, may_pass: bool = True) -> None:
        self.failures = failures
        self.may_pass = may_pass
        self.asked = 0
        self._lock = threading.Lock()

    def ask(self) -> str:
        """The answer, or a failure."""
        with self._lock:
            self.asked += 1
            if self.asked <= self.failures:
                raise AwayError(f"away {self.asked}.", may_pass=self.may_pass)
            return "answer"


def all_at_once(work: Callable[[], str], callers: int = 100) -> list[str]:
    def outcome(_: int) -> str:
        try:
            return work()
        except (AwayError, CredentialsRefusedError) as error:
            return error.what

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(outcome, range(callers)))


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_one_try_and_three_retries(failures: int) -> None:
    """What passes within three retries is never seen by the caller."""
    server = Server(failures)
    assert SharedBackoff(FAST).run(server.ask) == "answer"
    assert server.asked == failures + 1


def test_the_fourth_failure_is_told() -> None:
    """After one try and three retries the last failure is raised."""
    server = Server(failures=100)
    with pytest.raises(AwayError, match="away 4"):
        SharedBackoff(FAST).run(server.ask)
    assert server.asked == 4


def test_what_will_not_pass_is_not_retried() -> None:
    """An outage that no waiting cures is told at once."""
    server = Server(failures=100, may_pass=False)
    with pytest.raises(AwayError, match="away 1"):
        SharedBackoff(FAST).run(server.ask)


def test_an_outage_at_the_start_is_one_backoff_for_a_hundred() -> None:
    """A hundred callers of a server that is away ask it four times in all, and all hear the same."""
    server = Server(failures=1000)
    backoff = SharedBackoff(FAST)
    assert set(all_at_once(lambda: backoff.run(server.ask))) == {"away 4."}
    assert server.asked == 4


def test_an_outage_in_the_middle_is_one_backoff_for_a_hundred() -> None:
    """When it goes away while everybody asks, those on their way fail once each, and one of them tries on for all."""
    server = Server(failures=1)
    backoff = SharedBackoff(FAST)
    backoff.run(server.ask)
    server.asked, server.failures = 0, 1000
    together = threading.Barrier(100)

    def ask() -> str:
        if not together.broken and server.asked == 0:
            together.wait(timeout=20)
        return server.ask()

    assert all(outcome.startswith("away") for outcome in all_at_once(lambda: backoff.run(ask)))
    assert server.asked <= 100 + 3


def test_recovery_in_a_retry_serves_everybody() -> None:
    """When a retry is answered, everybody who waited is answered too."""
    server = Server(failures=2)
    backoff = SharedBackoff(FAST)
    assert set(all_at_once(lambda: backoff.run(server.ask))) == {"answer"}
    assert server.asked == 100 + 2


def test_a_failure_is_shared_for_a_while_and_then_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the time for which it holds nobody asks again; after it somebody does, and recovery is found."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(module, "time", clock)
    server = Server(failures=4)
    backoff = SharedBackoff(FAST)
    for clock.now in (0.0, 0.1, 30.0, 59.9):
        with pytest.raises(AwayError, match="away 4"):
            backoff.run(server.ask)
    assert server.asked == 4
    clock.now = 60.0
    assert backoff.run(server.ask) == "answer"


def test_a_refusal_is_an_answer() -> None:
    """A no is passed on without a retry, and says that the server is there: others need not queue behind it."""
    backoff = SharedBackoff(FAST)

    def no() -> str:
        raise CredentialsRefusedError("no.")

    with pytest.raises(CredentialsRefusedError):
        backoff.run(no)
    together = threading.Barrier(10)

    def ask() -> str:
        together.wait(timeout=20)
        return "answer"

    assert set(all_at_once(lambda: backoff.run(ask), callers=10)) == {"answer"}
