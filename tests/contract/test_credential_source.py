"""What every source of credentials does, whatever is behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.credentials.sources.backoff import Pace, SharedBackoff
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.source import CredentialSource
from spreadpilot_core.ibkr.credentials.sources.vault.access import VaultAccess
from spreadpilot_core.ibkr.credentials.sources.vault.source import VaultCredentials
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialStoreError, CredentialsUnavailableError
from support.vault import BaoServer

PASSWORD = "pä\\ss {{x}} €𝄞"


@dataclass
class Trial:
    """A source, how a login is put into what is behind it and taken out, and how that is broken."""

    source: CredentialSource
    put: Callable[[str, str, str], object]
    remove: Callable[[str], object]
    broken: CredentialSource
    mount: str = "secret"


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    with BaoServer(tmp_path_factory.mktemp("bao")) as bao:
        yield bao


def encrypted(directory: Path) -> Trial:
    store = EncryptedCredentials.at(directory)
    store.set("some/other", "u", "p")
    wrong = directory / "wrong.key"
    EncryptedCredentials.at(directory / "other", key_file=wrong).set("a", "u", "p")
    broken = EncryptedCredentials.at(directory, key_file=wrong)
    return Trial(store, store.set, store.remove, broken)


def vault(directory: Path, bao: BaoServer, mount: str) -> Trial:
    store = EncryptedCredentials.at(directory)
    patience = SharedBackoff(Pace(first_wait=0.01, jitter=0.0))

    def source(token: str) -> VaultCredentials:
        access = VaultAccess(address=bao.address, mount=mount, token=token)
        return VaultCredentials(access, mark=store.mark, backoff=patience)

    if mount == "old":
        engine = bao.root.secrets.kv.v1
        return Trial(
            source(bao.root.token),
            lambda ref, user, password: bao.put_old(ref, IB_USER=user, IB_PASS=password),
            lambda ref: engine.delete_secret(ref, mount_point="old"),
            source("no-token"),
            mount,
        )
    return Trial(
        source(bao.root.token),
        lambda ref, user, password: bao.put(ref, IB_USER=user, IB_PASS=password),
        bao.root.secrets.kv.v2.delete_metadata_and_all_versions,
        source("no-token"),
    )


@pytest.fixture(
    params=[
        "encrypted",
        pytest.param("vault, version 2", marks=pytest.mark.real_part("vault")),
        pytest.param("vault, version 1", marks=pytest.mark.real_part("vault")),
    ]
)
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Trial]:
    if request.param == "encrypted":
        made = encrypted(tmp_path)
    else:
        bao = request.getfixturevalue("bao")
        made = vault(tmp_path, bao, "old" if request.param.endswith("1") else "secret")
    yield made
    made.source.close()
    made.source.close()


def test_the_login_is_read_as_it_was_written(trial: Trial) -> None:
    """User and password come back character for character, under every spelling, and the password shows in no repr."""
    trial.put("ibkr/f1", "edemo", PASSWORD)
    for ref in ("ibkr/f1", f"{trial.mount}/ibkr/f1", f"{trial.mount}/data/ibkr/f1"):
        found = trial.source.read(ref)
        assert (found.user, found.password) == ("edemo", PASSWORD)
    assert PASSWORD not in repr(found)
    assert not found.is_fallback


def test_the_version_told_is_the_version_read(trial: Trial) -> None:
    """Asking for the version gives the same as reading, again and again, with the same date."""
    trial.put("ibkr/f1", "edemo", PASSWORD)
    read = trial.source.read("ibkr/f1").version
    told = trial.source.version("ibkr/f1")
    assert (told.version, told.written_at) == (read.version, read.written_at)
    assert trial.source.read("ibkr/f1").version.version == told.version
    assert told.shown


def test_another_content_has_another_version(trial: Trial) -> None:
    """A new password, and the same secret made anew after a removal with another password, have versions of their own."""
    versions = []
    for password in ("one", "two"):
        trial.put("ibkr/f2", "edemo", password)
        versions.append(trial.source.version("ibkr/f2").version)
    trial.remove("ibkr/f2")
    trial.put("ibkr/f2", "edemo", "three")
    versions.append(trial.source.version("ibkr/f2").version)
    assert len(set(versions)) == 3


def test_what_is_not_there_is_refused(trial: Trial) -> None:
    """A missing, a removed and an impossible reference are a no, for reading and for the version."""
    trial.put("ibkr/f3", "edemo", PASSWORD)
    trial.remove("ibkr/f3")
    for ref in ("ibkr/f3", "ibkr/never", "../up", ""):
        with pytest.raises(CredentialsRefusedError):
            trial.source.read(ref)
        with pytest.raises(CredentialsRefusedError):
            trial.source.version(ref)


def test_many_threads_read_at_once(trial: Trial) -> None:
    """Fifty reads at once each get their own login."""
    for number in range(10):
        trial.put(f"ibkr/many{number}", f"user{number}", f"pass{number}")
    refs = [f"ibkr/many{number % 10}" for number in range(50)]
    with ThreadPoolExecutor(25) as pool:
        found = list(pool.map(trial.source.read, refs))
    assert [one.user for one in found] == [f"user{number % 10}" for number in range(50)]
    assert [one.password for one in found] == [f"pass{number % 10}" for number in range(50)]


def test_a_source_that_cannot_be_opened_says_so_without_a_password(trial: Trial) -> None:
    """With a wrong key or token the error is the package's own, and quotes nothing secret."""
    trial.put("ibkr/f1", "edemo", PASSWORD)
    with pytest.raises((CredentialStoreError, CredentialsUnavailableError)) as failed:
        trial.broken.read("ibkr/f1")
    assert PASSWORD not in str(failed.value)
    assert "no-token" not in str(failed.value)
