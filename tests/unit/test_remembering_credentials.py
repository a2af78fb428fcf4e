from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.audit import AuditTrail
from spreadpilot_core.ibkr.credentials.backoff import AwayError
from spreadpilot_core.ibkr.credentials.encrypted import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.fallback import RememberingCredentials
from spreadpilot_core.ibkr.credentials.source import Credentials, SecretGoneError, SecretVersion
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


class House:
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
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_vaults_answer_is_given_and_remembered(house: House) -> None:
    """The answer is Vault's; the store holds it afterwards, audited, and that it does is said once."""
    found = house.read("secret/data/ibkr/f1")
    assert (found.password, found.source, found.is_fallback) == ("password 4", "vault", False)
    [entry] = house.store.list()
    assert (entry.ref, entry.version, entry.origin) == ("ibkr/f1", "4-aa", "vault")
    assert house.acts == ["remember"]
    house.read("ibkr/f2")
    house.read("ibkr/f2")
    assert house.acts == ["remember", "remember"]
    assert len([said for said in house.said if "remember_credentials=false" in said]) == 1


def test_a_burst_is_remembered_in_few_writes(house: House) -> None:
    """A hundred answers don't wait for a hundred writes."""
    courier = house.courier()
    for number in range(100):
        courier.read(f"ibkr/f{number}")
    courier.close()
    assert len(house.store.list()) == 100


def test_while_vault_is_away_the_stored_ones_are_used(house: House) -> None:
    """The stand-in says why, of when and which version; the version is the one Vault gave."""
    house.read()
    house.vault.error = AWAY
    found = house.read()
    assert (found.password, found.source, found.is_fallback) == ("password 4", "stored", True)
    assert found.version == SecretVersion("4-aa", DATED)
    assert found.notice == (
        "Vault at https://v is unavailable: it is sealed. Using stored credentials of 2026-11-20, version 4."
    )


def test_vault_wins_as_soon_as_it_is_back(house: House) -> None:
    """After an outage the newest version comes from Vault and is remembered over the old one."""
    house.read()
    house.vault.error = AWAY
    house.read()
    house.vault.error, house.vault.number = None, 5
    assert house.read().password == "password 5"
    house.vault.error = AWAY
    assert house.read().password == "password 5"


def test_away_and_nothing_stored_may_pass(house: House) -> None:
    """Without anything to fall back on, both facts are told, and it is no refusal."""
    house.vault.error = AWAY
    with pytest.raises(
        CredentialsUnavailableError, match=r"it is sealed\. There are no stored credentials for ibkr/f1"
    ):
        house.read()


def test_away_and_the_store_broken_may_pass(house: House) -> None:
    """A store that can't be opened while Vault is away is no refusal either: Vault may come back."""
    house.read()
    house.store.path.write_text("rubbish")
    house.vault.error = AWAY
    with pytest.raises(CredentialsUnavailableError, match=r"it is sealed\..*damaged"):
        house.read()


@pytest.mark.parametrize("ask", ["read", "version"])
def test_a_no_is_never_answered_from_memory_and_revokes_it(house: House, ask: str) -> None:
    """A confirmed denial or deletion is passed on, and what was remembered is gone, also for the next outage."""
    house.read()
    house.vault.error = GONE
    courier = house.courier()
    with pytest.raises(SecretGoneError):
        getattr(courier, ask)("ibkr/f1")
    courier.close()
    assert house.store.list() == ()
    assert house.acts == ["remember", "revoke"]
    house.vault.error = AWAY
    with pytest.raises(CredentialsUnavailableError):
        house.read()


def test_a_no_right_after_an_answer_revokes_it(house: House) -> None:
    """Also what the same courier has only just been given, and not yet written, is revoked."""
    courier = house.courier()
    courier.read("ibkr/f1")
    house.vault.error = GONE
    with pytest.raises(SecretGoneError):
        courier.read("ibkr/f1")
    courier.close()
    assert house.store.list() == ()


def test_bad_content_is_no_and_keeps_the_memory(house: House) -> None:
    """A secret without a usable pair is refused, not answered from memory; it was neither denied nor deleted."""
    house.read()
    house.vault.error = CredentialsRefusedError("The secret has IB_USER.")
    with pytest.raises(CredentialsRefusedError, match="has IB_USER"):
        house.read()
    assert len(house.store.list()) == 1


def test_an_operators_entry_stands_in_and_is_never_revoked(house: House) -> None:
    """What an operator stored is used while Vault is away, and outlives Vault's no."""
    house.store.set("ibkr/f1", "edemo", "by hand")
    house.vault.error = AWAY
    assert house.read().password == "by hand"
    house.vault.error = GONE
    with pytest.raises(SecretGoneError):
        house.read()
    assert [entry.origin for entry in house.store.list()] == ["operator"]


def test_where_remembering_is_forbidden_nothing_is_kept(house: House) -> None:
    """With `remember_credentials` off Vault's answers are not written, older memories go, and none of them is used."""
    house.read("ibkr/f1")
    house.read("ibkr/f2")
    house.read("ibkr/f1", remember=False)
    assert [entry.ref for entry in house.store.list()] == ["ibkr/f2"]
    house.vault.error = AWAY
    with pytest.raises(CredentialsUnavailableError, match="Remembering is forbidden"):
        house.read("ibkr/f2", remember=False)


def test_an_operators_entry_stands_in_where_remembering_is_forbidden(house: House) -> None:
    """Forbidding memory doesn't forbid what an operator stored on purpose."""
    house.store.set("ibkr/f1", "edemo", "by hand")
    house.vault.error = AWAY
    assert house.read(remember=False).password == "by hand"


def test_a_broken_store_keeps_nobody_from_vaults_answer(house: House) -> None:
    """When remembering fails, the login is given all the same, and the trouble is said."""
    house.read()
    house.store.path.write_text("rubbish")
    house.vault.number = 5
    assert house.read().password == "password 5"
    assert "damaged" in house.said[-1]


def test_versions_are_vaults_alone(house: House) -> None:
    """While Vault is away no version is made up from the store."""
    house.read()
    house.vault.error = AWAY
    courier = house.courier()
    with pytest.raises(CredentialsUnavailableError):
        courier.version("ibkr/f1")
    assert courier.renew_within == 1200.0
    courier.close()
