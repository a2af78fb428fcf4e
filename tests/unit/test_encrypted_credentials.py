from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from filelock import FileLock

from spreadpilot_core.ibkr.credentials.sources.encrypted import sealed_file
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, SecretVersion
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialStoreError, CredentialsUnavailableError

PASSWORD = "pä\\ss-{x} €"


@pytest.fixture
def store(tmp_path: Path) -> EncryptedCredentials:
    return EncryptedCredentials.at(tmp_path)


def from_vault(password: str = PASSWORD, version: str = "4-aaaaaaaa") -> Credentials:
    written_at = datetime(2026, 11, 20, tzinfo=UTC)
    return Credentials(user="edemo", password=password, version=SecretVersion(version, written_at), source="vault")


def test_what_was_set_is_read(store: EncryptedCredentials) -> None:
    """User, password and version come back under every spelling of the reference."""
    version = store.set("secret/data/ibkr/f1", "edemo", PASSWORD)
    found = store.read("ibkr/f1")
    assert (found.user, found.password, found.version, found.source) == ("edemo", PASSWORD, version, "stored")
    assert store.version("secret/ibkr/f1") == version
    assert version.shown == "1"
    assert PASSWORD not in repr(found)


def test_each_set_is_a_new_version(store: EncryptedCredentials) -> None:
    """Setting again, even the same password, and setting after a removal give versions never seen before."""
    versions = [store.set("a", "u", "one"), store.set("a", "u", "two"), store.set("a", "u", "two")]
    store.remove("a")
    versions.append(store.set("a", "u", "two"))
    assert [version.shown for version in versions] == ["1", "2", "3", "1"]
    assert len({version.version for version in versions}) == 4


def test_nothing_is_readable_without_the_key(store: EncryptedCredentials, tmp_path: Path) -> None:
    """The file shows references and users; no password, nor its exact length; file and key belong to their owner alone."""
    store.set("a", "edemo", "short")
    store.set("b", "edemo", "a good deal longer than short")
    content = json.loads((tmp_path / "credentials.json").read_text())
    sealed = [entry["sealed"] for entry in content["body"]["entries"].values()]
    assert len(sealed[0]) == len(sealed[1])
    assert "short" not in json.dumps(content)
    for name in ("credentials.json", "credentials.key", "credentials.lock"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_listing_and_removing_need_no_key(store: EncryptedCredentials, tmp_path: Path) -> None:
    """Who has lost the key can still see what was stored, ask versions, and remove it."""
    version = store.set("b", "user-b", PASSWORD)
    store.set("a", "user-a", PASSWORD)
    (tmp_path / "credentials.key").unlink()
    assert [(entry.ref, entry.user, entry.origin) for entry in store.list()] == [
        ("a", "user-a", "operator"),
        ("b", "user-b", "operator"),
    ]
    assert store.version("b") == version
    assert store.remove("a")
    assert not store.remove("a")
    assert [entry.ref for entry in store.list()] == ["b"]


def test_the_key_is_made_once_and_said_once(tmp_path: Path) -> None:
    """The first entry makes the key and says so; nothing before and nothing after does."""
    said: list[str] = []
    store = EncryptedCredentials.at(tmp_path, say=said.append)
    assert store.list() == ()
    assert not store.remove("a")
    with pytest.raises(CredentialsRefusedError, match="credentials set a"):
        store.read("a")
    assert list(tmp_path.iterdir()) == []
    store.set("a", "u", PASSWORD)
    store.set("b", "u", PASSWORD)
    assert len(said) == 1
    assert str(tmp_path / "credentials.key") in said[0]


def test_a_key_file_elsewhere(tmp_path: Path) -> None:
    """`credentials_key_file` says where the key is, and an existing one is used as it is."""
    key = tmp_path / "keys" / "mine"
    EncryptedCredentials.at(tmp_path / "one", key_file=key).set("a", "u", "one")
    before = key.read_bytes()
    EncryptedCredentials.at(tmp_path / "two", key_file=key).set("a", "u", "two")
    assert key.read_bytes() == before
    assert EncryptedCredentials.at(tmp_path / "one", key_file=key).read("a").password == "one"


def test_a_passphrase_instead_of_a_key(tmp_path: Path) -> None:
    """A passphrase file opens what it sealed, with or without a line break at its end; no key file is made."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse\n")
    EncryptedCredentials.at(tmp_path, passphrase_file=passphrase).set("a", "u", PASSWORD)
    passphrase.write_text("correct horse")
    assert EncryptedCredentials.at(tmp_path, passphrase_file=passphrase).read("a").password == PASSWORD
    assert not (tmp_path / "credentials.key").exists()


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [("", "p", "user name is empty"), ("u", "", "password is empty"), ("u", "p\n", "control"), ("u", " p", "blank")],
)
def test_what_no_gateway_takes_is_not_stored(
    store: EncryptedCredentials, user: str, password: str, reason: str
) -> None:
    """A login that could never be typed is refused when it is set, not when it is needed."""
    with pytest.raises(CredentialsRefusedError, match=reason):
        store.set("a", user, password)
    assert store.list() == ()


def test_remembering_keeps_versions_and_dates_of_vault(store: EncryptedCredentials) -> None:
    """What Vault gave is kept under Vault's version and date, and read back as stored."""
    store.remember({"secret/ibkr/f1": from_vault(), "ibkr/f2": from_vault("other")})
    found = store.read("ibkr/f1")
    assert (found.password, found.version, found.source) == (PASSWORD, from_vault().version, "stored")
    assert [entry.origin for entry in store.list()] == ["vault", "vault"]


def test_remembering_the_same_again_writes_nothing(store: EncryptedCredentials) -> None:
    """A version that is there already costs no write, also where Vault gives no date; a new version replaces it."""
    undated = replace(from_vault(), version=SecretVersion("0011aabb", None))
    store.remember({"a": from_vault(), "b": undated})
    before = store.path.stat().st_ino
    store.remember({"a": from_vault(), "b": undated})
    assert store.path.stat().st_ino == before
    store.remember({"a": from_vault("newer", "5-bbbbbbbb")})
    assert store.read("a").password == "newer"


def test_only_what_was_remembered_is_revoked(store: EncryptedCredentials) -> None:
    """Revoking what Vault gave leaves an operator's own entry."""
    store.set("mine", "u", PASSWORD)
    store.remember({"vaults": from_vault()})
    assert store.remove("vaults", only="vault")
    assert not store.remove("mine", only="vault")
    assert [entry.ref for entry in store.list()] == ["mine"]


def test_an_entry_can_be_neither_moved_nor_relabelled(store: EncryptedCredentials) -> None:
    """Whoever writes the file with a right checksum still can't give an entry another place, user, version or date."""
    store.set("a", "user-a", "one")
    store.set("b", "user-b", "two")
    body = json.loads(store.path.read_text())["body"]
    a, b = body["entries"]["a"], body["entries"]["b"]
    for forged in (
        {**a, "sealed": b["sealed"]},
        {**a, "user": "user-b"},
        {**a, "version": "9-x"},
        {**a, "written_at": "2030-01-01"},
    ):
        rewrite(store, {**body, "entries": {"a": forged, "b": b}})
        with pytest.raises(CredentialStoreError, match="entry a was altered"):
            store.read("a")
        assert store.read("b").password == "two"


def test_a_mark_names_content_and_tells_nothing(store: EncryptedCredentials, tmp_path: Path) -> None:
    """The same reference, user and password have the same mark under one key, anything else has another."""
    mark = store.mark(("a", "u", "p"))
    assert store.mark(("a", "u", "p")) == mark == EncryptedCredentials.at(tmp_path).mark(("a", "u", "p"))
    others = {store.mark(("a", "u", "q")), store.mark(("b", "u", "p")), store.mark(("a", "up", ""))}
    assert mark not in others
    assert EncryptedCredentials.at(tmp_path / "other").mark(("a", "u", "p")) != mark


def test_a_store_that_cannot_be_reached_may_pass(store: EncryptedCredentials, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that another program keeps, and a file that can't be read, are troubles that may pass."""
    store.set("a", "u", "p")
    monkeypatch.setattr("spreadpilot_core.ibkr.credentials.sources.encrypted.source._LOCK_PATIENCE", 0.1)
    with (
        FileLock(store.path.with_suffix(".lock")),
        pytest.raises(CredentialsUnavailableError, match="has been changing"),
    ):
        store.set("a", "u", "p")
    store.path.unlink()
    store.path.mkdir()
    with pytest.raises(CredentialsUnavailableError, match="can't be read"):
        store.read("a")


def rewrite(store: EncryptedCredentials, body: dict[str, object]) -> None:
    store.path.write_bytes(sealed_file.written(body))


ODD = [None, 5, 1e300, True, [], {}, [[]], "", "\ud800", "x" * 100_000, {"a": {"b": []}}]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
@pytest.mark.parametrize("field", ["format", "header", "check", "entries"])
def test_a_right_checksum_over_the_wrong_shape_is_damage(store: EncryptedCredentials, field: str, odd: object) -> None:
    """Whatever somebody put into a field of the file, with the checksum made anew, every call says that it is damaged."""
    store.set("a", "u", PASSWORD)
    body = json.loads(store.path.read_text())["body"]
    rewrite(store, {**body, field: odd})
    for call in (
        store.list,
        lambda: store.read("a"),
        lambda: store.version("a"),
        lambda: store.set("b", "u", PASSWORD),
        lambda: store.remember({"c": from_vault()}),
        lambda: store.remove("a"),
        store.rotate_key,
        lambda: store.mark(("a", "u", "p")),
    ):
        with suppress(CredentialStoreError, CredentialsRefusedError):
            call()
    with pytest.raises(CredentialsRefusedError):
        store.read("a")


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
@pytest.mark.parametrize("field", [None, "user", "version", "written_at", "origin", "sealed"])
def test_an_entry_of_the_wrong_shape_harms_no_other(
    store: EncryptedCredentials, field: str | None, odd: object
) -> None:
    """It alone can't be read, is listed as damaged, and can be removed or set anew."""
    store.set("a", "u", "one")
    store.set("b", "u", "two")
    body = json.loads(store.path.read_text())["body"]
    entry = odd if field is None else {**body["entries"]["a"], field: odd}
    rewrite(store, {**body, "entries": {**body["entries"], "a": entry}})
    with pytest.raises(CredentialStoreError, match="the entry a "):
        store.read("a")
    assert store.read("b").password == "two"
    assert [(each.ref, each.user) for each in store.list()] == [("a", "(damaged)"), ("b", "u")]
    assert not store.remove("a", only="vault")
    store.set("a", "u", "anew")
    assert store.read("a").password == "anew"


@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"null", b"[]", b'{"body": {}}', b"\xff", b'{"body": 1, "sha256": 1}']
)
def test_a_file_that_is_something_else_is_damage(store: EncryptedCredentials, content: bytes) -> None:
    """No JSON, too deep, or nothing like ours: one sentence."""
    store.path.write_bytes(content)
    with pytest.raises(CredentialStoreError, match="are damaged"):
        store.list()


def test_a_store_or_key_that_is_a_pipe_keeps_nobody_waiting(store: EncryptedCredentials, tmp_path: Path) -> None:
    """What is no file is said, instead of being waited for."""
    store.set("a", "u", PASSWORD)
    for path, error in (
        (tmp_path / "credentials.key", CredentialStoreError),
        (store.path, CredentialsUnavailableError),
    ):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(error, match="FIFO"):
            store.read("a")
