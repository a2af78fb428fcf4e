from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.sources.backoff import AwayError
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.remembered import RememberingCredentials
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, SecretGoneError, SecretVersion
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialsUnavailableError, GatewayManagerError

DATED = datetime(2026, 11, 20, tzinfo=UTC)
AWAY = AwayError("Vault at https://v is unavailable: it is sealed.", may_pass=True)
GONE = SecretGoneError("Vault has no secret.")


class FakeVault:
    """Gives version `number` of one login for every path, or an error."""

    def __init__(self) -> None:
        self.number = 4
        self.error: GatewayManagerError | None = None
        self.renew_within = 1200.0

    def read(self, ref: str) -> Credentials:
        """The login, or the error."""
        version = self.version(ref)
        return Credentials(user="edemo", password=f"password {self.number}", version=version, source="vault")

    def version(self, ref: str) -> SecretVersion:  # noqa: ARG002  # all are the same
        """The version, or the error."""
        if self.error:
            raise self.error
        return SecretVersion(f"{self.number}-aa", DATED)

    def close(self) -> None:
        """Nothing to close."""


class Services:
    """Vault, store and what came of them, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.vault = FakeVault()
        self.store = EncryptedCredentials.at(directory)
        self.trail = AuditTrail(directory)
        self.said: list[str] = []

    def courier(self, *, remember: bool = True) -> RememberingCredentials:
        """As the next courier would have it."""
        return RememberingCredentials(
            self.vault,
            self.store,
            remember=remember,
            trail=self.trail,
            who="tester",
            say=self.said.append,
            mount="secret",
        )

    def read(self, ref: str = "ibkr/f1", *, remember: bool = True) -> Credentials:
        """One read by a courier of its own."""
        courier = self.courier(remember=remember)
        try:
            return courier.read(ref)
        finally:
            courier.close()

    @property
    def acts(self) -> list[str]:
        """What was audited."""
        return [entry["act"] for entry in self.trail.entries()]


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return Services(tmp_path)


def test_vaults_answer_is_given_and_remembered(services: Services) -> None:
    """The answer is Vault's; the store holds it afterwards, audited, and that it does is said once."""
    found = services.read("secret/data/ibkr/f1")
    assert (found.password, found.source, found.is_fallback) == ("password 4", "vault", False)
    [entry] = services.store.list()
    assert (entry.ref, entry.version, entry.origin) == ("ibkr/f1", "4-aa", "vault")
    assert services.acts == ["remember"]
    services.read("ibkr/f2")
    services.read("ibkr/f2")
    assert services.acts == ["remember", "remember"]
    assert len([said for said in services.said if "remember_credentials=false" in said]) == 1


def test_a_burst_is_remembered_in_few_writes(services: Services) -> None:
    """A hundred answers don't wait for a hundred writes."""
    courier = services.courier()
    for number in range(100):
        courier.read(f"ibkr/f{number}")
    courier.close()
    assert len(services.store.list()) == 100


def test_while_vault_is_away_the_stored_ones_are_used(services: Services) -> None:
    """The stand-in says why, of when and which version; the version is the one Vault gave."""
    services.read()
    services.vault.error = AWAY
    found = services.read()
    assert (found.password, found.source, found.is_fallback) == ("password 4", "stored", True)
    assert found.version == SecretVersion("4-aa", DATED)
    assert found.notice == (
        "Vault at https://v is unavailable: it is sealed. Using stored credentials of 2026-11-20, version 4."
    )


def test_vault_wins_as_soon_as_it_is_back(services: Services) -> None:
    """After an outage the newest version comes from Vault and is remembered over the old one."""
    services.read()
    services.vault.error = AWAY
    services.read()
    services.vault.error, services.vault.number = None, 5
    assert services.read().password == "password 5"
    services.vault.error = AWAY
    assert services.read().password == "password 5"


def test_away_and_nothing_stored_may_pass(services: Services) -> None:
    """Without anything to fall back on, both facts are told, and it is no refusal."""
    services.vault.error = AWAY
    with pytest.raises(
        CredentialsUnavailableError, match=r"it is sealed\. There are no stored credentials for ibkr/f1"
    ):
        services.read()


def test_away_and_the_store_broken_may_pass(services: Services) -> None:
    """A store that can't be opened while Vault is away is no refusal either: Vault may come back."""
    services.read()
    services.store.path.write_text("rubbish")
    services.vault.error = AWAY
    with pytest.raises(CredentialsUnavailableError, match=r"it is sealed\..*damaged"):
        services.read()


@pytest.mark.parametrize("ask", ["read", "version"])
def test_a_no_is_never_answered_from_memory_and_revokes_it(services: Services, ask: str) -> None:
    """A confirmed denial or deletion is passed on, and what was remembered is gone, also for the next outage."""
    services.read()
    services.vault.error = GONE
    courier = services.courier()
    with pytest.raises(SecretGoneError):
        getattr(courier, ask)("ibkr/f1")
    courier.close()
    assert services.store.list() == ()
    assert services.acts == ["remember", "revoke"]
    services.vault.error = AWAY
    with pytest.raises(CredentialsUnavailableError):
        services.read()


def test_a_no_right_after_an_answer_revokes_it(services: Services) -> None:
    """Also what the same courier has only just been given, and not yet written, is revoked."""
    courier = services.courier()
    courier.read("ibkr/f1")
    services.vault.error = GONE
    with pytest.raises(SecretGoneError):
        courier.read("ibkr/f1")
    courier.close()
    assert services.store.list() == ()


def test_bad_content_is_no_and_keeps_the_memory(services: Services) -> None:
    """A secret without a usable pair is refused, not answered from memory; it was neither denied nor deleted."""
    services.read()
    services.vault.error = CredentialsRefusedError("The secret has IB_USER.")
    with pytest.raises(CredentialsRefusedError, match="has IB_USER"):
        services.read()
    assert len(services.store.list()) == 1


def test_an_operators_entry_stands_in_and_is_never_revoked(services: Services) -> None:
    """What an operator stored is used while Vault is away, and outlives Vault's no."""
    services.store.set("ibkr/f1", "edemo", "by hand")
    services.vault.error = AWAY
    assert services.read().password == "by hand"
    services.vault.error = GONE
    with pytest.raises(SecretGoneError):
        services.read()
    assert [entry.origin for entry in services.store.list()] == ["operator"]


def test_where_remembering_is_forbidden_nothing_is_kept(services: Services) -> None:
    """With `remember_credentials` off Vault's answers are not written, older memories go, and none of them is used."""
    services.read("ibkr/f1")
    services.read("ibkr/f2")
    services.read("ibkr/f1", remember=False)
    assert [entry.ref for entry in services.store.list()] == ["ibkr/f2"]
    services.vault.error = AWAY
    with pytest.raises(CredentialsUnavailableError, match="Remembering is forbidden"):
        services.read("ibkr/f2", remember=False)


def test_an_operators_entry_stands_in_where_remembering_is_forbidden(services: Services) -> None:
    """Forbidding memory doesn't forbid what an operator stored on purpose."""
    services.store.set("ibkr/f1", "edemo", "by hand")
    services.vault.error = AWAY
    assert services.read(remember=False).password == "by hand"


def test_a_broken_store_keeps_nobody_from_vaults_answer(services: Services) -> None:
    """When remembering fails, the login is given all the same, and the trouble is said."""
    services.read()
    services.store.path.write_text("rubbish")
    services.vault.number = 5
    assert services.read().password == "password 5"
    assert "damaged" in services.said[-1]


def test_versions_are_vaults_alone(services: Services) -> None:
    """While Vault is away no version is made up from the store."""
    services.read()
    services.vault.error = AWAY
    courier = services.courier()
    with pytest.raises(CredentialsUnavailableError):
        courier.version("ibkr/f1")
    assert courier.renew_within == 1200.0
    courier.close()
