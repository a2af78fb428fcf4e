"""The courier's own loop, in this process: what it asks of its custody, how it answers, and when it leaves."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.courier import process as module
from spreadpilot_core.ibkr.credentials.courier.process import Courier, LineWriter
from spreadpilot_core.ibkr.credentials.sources.chosen import open_source
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.remembered import RememberingCredentials
from spreadpilot_core.ibkr.errors import (
    AuditError,
    CredentialsRefusedError,
    CredentialStoreError,
    CredentialsUnavailableError,
    DeliveryError,
    DeliveryExpiredError,
)
from support.waiting import PATIENCE, wait_until


class FakeCustody:
    """Answers at once, or raises; holds what was read until it is delivered or forgotten."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.held: set[str] = set()
        self.needed_reading = False
        self.release = threading.Event()
        self.release.set()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return not self.held

    def read(self, ref: str, controller: str, follower: str) -> dict[str, Any]:
        """Hold `ref`."""
        self.release.wait(PATIENCE)
        if self.error:
            raise self.error
        self.held.add(ref)
        return {"ticket": ref, "controller": controller, "follower": follower}

    def deliver(self, ticket: str, delivery_target: dict[str, str]) -> dict[str, Any]:
        """Let go of it."""
        self.held.discard(ticket)
        return {"delivery_target": delivery_target}

    def forget(self, ticket: str) -> dict[str, Any]:
        """Let go of it."""
        self.held.discard(ticket)
        return {"forgotten": True}

    def version(self, ref: str, _follower: str | None = None) -> dict[str, Any]:
        """Told without holding anything."""
        return {"version": f"1-{ref}", "needed_reading": self.needed_reading}


class Running:
    """A courier at work on a pipe."""

    def __init__(self, held_secrets: FakeCustody) -> None:
        self.answers: list[dict[str, Any]] = []
        self.left: list[bool] = []
        lines, self._asked = os.pipe()
        courier = Courier(held_secrets, self.answers.append, linger=0.05)  # type: ignore[arg-type]  # as good as one
        self._lines = os.fdopen(lines, "rb")
        self._thread = threading.Thread(target=lambda: self.left.append(courier.serve(self._lines)), daemon=True)
        self._thread.start()

    def ask(self, number: int, do: str, **facts: Any) -> None:
        """Write one question."""
        os.write(self._asked, json.dumps({"id": number, "do": do, **facts}).encode() + b"\n")

    def answer(self, number: int) -> dict[str, Any]:
        """The answer to that question."""
        return wait_until(lambda: next((one for one in self.answers if one["id"] == number), None)) or {}

    def hang_up(self) -> None:
        """End its input."""
        if self._asked >= 0:
            os.close(self._asked)
        self._asked = -1

    def put_away(self) -> None:
        """End it, and close what is open."""
        self.hang_up()
        self._thread.join(PATIENCE)
        self._lines.close()

    def end(self) -> bool:
        """Whether it left of itself; waits for its end."""
        self._thread.join(PATIENCE)
        [left] = self.left
        return left


@contextmanager
def running(held_secrets: FakeCustody) -> Iterator[Running]:
    courier = Running(held_secrets)
    try:
        yield courier
    finally:
        courier.put_away()


@pytest.fixture
def held_secrets() -> FakeCustody:
    return FakeCustody()


def test_it_leaves_after_its_last_delivery(held_secrets: FakeCustody) -> None:
    """It stays while something is held, and goes by itself once that is delivered."""
    with running(held_secrets) as courier:
        courier.ask(1, "read", ref="a", controller="ibc", follower="f")
        assert courier.answer(1) == {"id": 1, "ticket": "a", "controller": "ibc", "follower": "f"}
        threading.Event().wait(0.3)
        assert courier.left == []
        courier.ask(2, "deliver", ticket="a", delivery_target={"kind": "docker"})
        assert courier.answer(2) == {"id": 2, "delivery_target": {"kind": "docker"}}
        assert courier.end()


def test_it_leaves_when_what_it_held_is_forgotten(held_secrets: FakeCustody) -> None:
    """What nobody will ask for keeps it no longer."""
    with running(held_secrets) as courier:
        courier.ask(1, "read", ref="a", controller="ibc", follower="f")
        courier.ask(2, "forget", ticket=courier.answer(1)["ticket"])
        assert courier.end()


def test_it_stays_while_it_is_asked(held_secrets: FakeCustody) -> None:
    """A read that takes long is finished and answered before anything ends."""
    held_secrets.release.clear()
    with running(held_secrets) as courier:
        courier.ask(1, "read", ref="a", controller="ibc", follower="f")
        threading.Event().wait(0.3)
        assert courier.left == []
        held_secrets.error = CredentialsUnavailableError("away.")
        held_secrets.release.set()
        assert courier.answer(1)["error"]["kind"] == "unavailable"
        assert courier.end()


def test_the_end_of_input_is_told_apart(held_secrets: FakeCustody) -> None:
    """A manager that is gone ends it at once, whatever is held."""
    with running(held_secrets) as courier:
        courier.ask(1, "read", ref="a", controller="ibc", follower="f")
        courier.answer(1)
        courier.hang_up()
        assert not courier.end()


def test_one_that_told_versions_alone_waits_for_more(
    held_secrets: FakeCustody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a secret in it there is no hurry; a version that needed reading one makes it hurry like any other."""
    monkeypatch.setattr(module, "LINGER_UNTOUCHED", PATIENCE)
    with running(held_secrets) as courier:
        courier.ask(1, "version", ref="a")
        assert courier.answer(1)["version"] == "1-a"
        threading.Event().wait(0.3)
        assert courier.left == []
        held_secrets.needed_reading = True
        courier.ask(2, "version", ref="a")
        assert courier.end()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DeliveryExpiredError("a."), "expired"),
        (DeliveryError("a."), "delivery"),
        (CredentialStoreError("a."), "store"),
        (CredentialsRefusedError("a."), "refused"),
        (CredentialsUnavailableError("a."), "unavailable"),
        (AuditError("a."), "audit"),
    ],
)
def test_each_error_is_told_by_kind(held_secrets: FakeCustody, error: Exception, kind: str) -> None:
    """The manager can raise the same error again."""
    held_secrets.error = error
    with running(held_secrets) as courier:
        courier.ask(1, "read", ref="a", controller="ibc", follower="f")
        assert courier.answer(1)["error"] == {"kind": kind, "what": "a.", "hint": None}


def test_an_unexpected_error_tells_no_values(held_secrets: FakeCustody) -> None:
    """Its type and place are told, not its text."""
    held_secrets.error = ValueError("the-password")
    with running(held_secrets) as courier:
        courier.ask(1, "read", ref="a", controller="ibc", follower="f")
        told = courier.answer(1)["error"]
    assert told["kind"] == "failed"
    assert "ValueError at test_courier.py" in told["what"]
    assert "the-password" not in told["what"]


def test_an_unknown_question_is_refused(held_secrets: FakeCustody) -> None:
    """A manager of another version gets an answer, not silence."""
    with running(held_secrets) as courier:
        courier.ask(1, "sing")
        assert "does not know 'sing'" in courier.answer(1)["error"]["what"]


def test_lines_of_many_threads_stay_whole() -> None:
    """Answers and sentences are written one line at a time."""
    lines, told = os.pipe()
    stream = os.fdopen(told, "wb")
    writer = LineWriter(stream)
    threads = [threading.Thread(target=writer.say, args=(str(number) * 100,)) for number in range(50)]
    for thread in threads:
        thread.start()
    with stream, os.fdopen(lines, "rb") as heard:
        said = {json.loads(heard.readline())["said"] for _ in threads}
    assert said == {str(number) * 100 for number in range(50)}


@pytest.mark.parametrize(("vault", "kind"), [(None, EncryptedCredentials), ("http://v", RememberingCredentials)])
def test_the_settings_choose_the_source(tmp_path: Path, vault: str | None, kind: type) -> None:
    """With an address of Vault's it is Vault with a memory; without, the encrypted store alone. Nothing is connected."""
    settings = {
        "state_dir": str(tmp_path),
        "key_file": str(tmp_path / "key"),
        "passphrase_file": None,
        "vault": vault,
        "mount": "secret",
        "remember": True,
        "who": "tester",
    }
    source = open_source(settings, trail=AuditTrail(tmp_path), say=lambda _: None)
    assert isinstance(source, kind)
    source.close()
