from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.courier.held_secrets import HeldSecrets
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, SecretVersion
from spreadpilot_core.ibkr.errors import (
    AuditError,
    CredentialsRefusedError,
    CredentialsUnavailableError,
    DeliveryError,
    DeliveryExpiredError,
    GatewayManagerError,
)
from support.stdin_delivery import Doorway

PASSWORD = "pass{{word"


class OneSecret:
    """A source with one secret, or with one error."""

    def __init__(self, *, is_fallback: bool = False, error: GatewayManagerError | None = None) -> None:
        self.error = error
        self.reads = 0
        self.renew_within: float | None = None
        self.secret = Credentials(
            user="edemo",
            password=PASSWORD,
            version=SecretVersion("4-aa", datetime(2026, 11, 20, tzinfo=UTC)),
            source="stored" if is_fallback else "vault",
            notice="Vault is away" if is_fallback else None,
            is_fallback=is_fallback,
        )

    def read(self, ref: str) -> Credentials:  # noqa: ARG002  # there is one
        """The secret, or the error."""
        self.reads += 1
        if self.error:
            raise self.error
        return self.secret

    def version(self, ref: str) -> SecretVersion:  # noqa: ARG002  # there is one
        """The secret's version."""
        return self.secret.version

    def close(self) -> None:
        """Nothing to close."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        """The time that the test set."""
        return self.now


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    return AuditTrail(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def held_secrets(trail: AuditTrail, clock: Clock, source: OneSecret | None = None) -> HeldSecrets:
    return HeldSecrets(source or OneSecret(), trail, who="tester", clock=clock)


def audited(trail: AuditTrail) -> list[tuple[str, str]]:
    return [(entry["act"], entry["outcome"]) for entry in trail.entries()]


def test_an_answer_holds_everything_but_the_password(trail: AuditTrail, clock: Clock) -> None:
    """User, version, source, date and a ticket are told; the password is in neither answer nor trail."""
    answer = held_secrets(trail, clock).read("ibkr/f1", "ibc", "f1")
    assert answer.pop("ticket")
    assert answer == {
        "written_user": None,
        "user": "edemo",
        "version": "4-aa",
        "source": "vault",
        "written_at": "2026-11-20T00:00:00+00:00",
        "notice": None,
        "renew_within": None,
    }
    [entry] = trail.entries()
    assert {name: entry[name] for name in ("act", "follower", "ref", "version", "source", "outcome", "who")} == {
        "act": "read",
        "follower": "f1",
        "ref": "ibkr/f1",
        "version": "4-aa",
        "source": "vault",
        "outcome": "done",
        "who": "tester",
    }
    assert PASSWORD not in json.dumps(answer) + trail.path.read_text()


def test_a_fallback_is_audited_as_one(trail: AuditTrail, clock: Clock) -> None:
    """Credentials that stand in for Vault are a fallback in the trail, with the reason, and told as a notice."""
    answer = held_secrets(trail, clock, OneSecret(is_fallback=True)).read("ibkr/f1", "ibc", "f1")
    assert answer["notice"] == "Vault is away"
    [entry] = trail.entries()
    assert (entry["act"], entry["detail"]) == ("fallback", "Vault is away")


@pytest.mark.parametrize("error", [CredentialsUnavailableError("Vault is away."), CredentialsRefusedError("No.")])
def test_a_failed_read_is_audited_with_its_reason(trail: AuditTrail, clock: Clock, error: GatewayManagerError) -> None:
    """What the source says goes to the caller and to the trail."""
    with pytest.raises(type(error)):
        held_secrets(trail, clock, OneSecret(error=error)).read("ibkr/f1", "ibc", "f1")
    assert audited(trail) == [("read", error.what)]


def test_what_the_controller_cannot_take_is_refused(trail: AuditTrail, clock: Clock) -> None:
    """A password that this controller would change is refused before anything is created; the other controller's isn't."""
    held = held_secrets(trail, clock)
    with pytest.raises(CredentialsRefusedError, match=r"ibkr/f1 \(version 4\) can't be used: its password holds {{"):
        held.read("ibkr/f1", "ibcontroller", "f1")
    assert held.is_empty
    assert held.read("ibkr/f1", "ibc", "f1")["ticket"]
    assert not held.is_empty


def test_a_ticket_delivers_once(trail: AuditTrail, clock: Clock, tmp_path: Path) -> None:
    """The password reaches its container, the delivery is audited, and the ticket is spent."""
    held = held_secrets(trail, clock)
    ticket = held.read("ibkr/f1", "ibc", "f1")["ticket"]
    with Doorway(tmp_path / "s", "simulated") as doorway:
        held.deliver(ticket, doorway.delivery_target("c1"))
        assert doorway.wait_for("c1") == PASSWORD.encode()
        assert held.is_empty
        with pytest.raises(DeliveryExpiredError):
            held.deliver(ticket, doorway.delivery_target("c2"))
    assert audited(trail) == [("read", "done"), ("deliver", "done")]
    assert list(trail.entries())[-1]["detail"] == "to container c1"


def test_a_failed_delivery_spends_the_ticket(trail: AuditTrail, clock: Clock, tmp_path: Path) -> None:
    """After a delivery that failed nothing is held that could be sent a second time."""
    held = held_secrets(trail, clock)
    ticket = held.read("ibkr/f1", "ibc", "f1")["ticket"]
    with Doorway(tmp_path / "s", "simulated", refuse="it is gone") as doorway:
        with pytest.raises(DeliveryError, match="it is gone"):
            held.deliver(ticket, doorway.delivery_target("c1"))
        with pytest.raises(DeliveryExpiredError):
            held.deliver(ticket, doorway.delivery_target("c1"))
    assert [act for act, _ in audited(trail)] == ["read", "deliver"]
    assert "it is gone" in audited(trail)[1][1]


def test_a_password_is_kept_for_thirty_seconds(trail: AuditTrail, clock: Clock, tmp_path: Path) -> None:
    """A ticket 30 s old is expired: nothing is sent, and nothing is held."""
    held = held_secrets(trail, clock)
    ticket = held.read("ibkr/f1", "ibc", "f1")["ticket"]
    clock.now = 29.9
    assert not held.is_empty
    clock.now = 30.0
    with Doorway(tmp_path / "s", "simulated") as doorway:
        with pytest.raises(DeliveryExpiredError, match="30 s"):
            held.deliver(ticket, doorway.delivery_target("c1"))
        assert doorway.requests == []
    held.read("ibkr/f1", "ibc", "f1")
    clock.now = 60.0
    assert held.is_empty


def test_what_is_forgotten_is_not_held(trail: AuditTrail, clock: Clock) -> None:
    """A ticket that nobody will use is let go of at once, and forgetting twice does no harm."""
    held = held_secrets(trail, clock)
    ticket = held.read("ibkr/f1", "ibc", "f1")["ticket"]
    held.forget(ticket)
    held.forget(ticket)
    assert held.is_empty


def test_a_full_disk_stops_reads_before_they_begin(tmp_path: Path, clock: Clock) -> None:
    """Where the trail can't be written, the source isn't even asked."""
    (tmp_path / "audit.jsonl").mkdir()
    source = OneSecret()
    with pytest.raises(AuditError):
        held_secrets(AuditTrail(tmp_path), clock, source).read("ibkr/f1", "ibc", "f1")
    assert source.reads == 0


def test_a_read_that_can_no_longer_be_audited_is_not_held(trail: AuditTrail, clock: Clock, tmp_path: Path) -> None:
    """When the disk fills up between the question and the line, the secret is dropped with the error."""

    class Filling(OneSecret):
        def read(self, ref: str) -> Credentials:
            """Fill the disk, then read."""
            (tmp_path / "audit.jsonl").unlink()
            (tmp_path / "audit.jsonl").symlink_to("/dev/full")
            return super().read(ref)

    held = held_secrets(trail, clock, Filling())
    with pytest.raises(AuditError, match="No space left"):
        held.read("ibkr/f1", "ibc", "f1")
    assert held.is_empty
