from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.credentials.sources.source import SecretGoneError
from spreadpilot_core.ibkr.credentials.sources.vault import secrets
from spreadpilot_core.ibkr.credentials.sources.vault.access import VaultAccess
from spreadpilot_core.ibkr.errors import CredentialsRefusedError

CREATED = "2026-11-20T09:15:02.123456789Z"


@pytest.mark.parametrize("keys", [("IB_USER", "IB_PASS"), ("TWS_USERID", "TWS_PASSWORD"), ("username", "password")])
def test_each_pair_of_names_is_understood(keys: tuple[str, str]) -> None:
    """A secret may use any of the three pairs, with whatever else beside it."""
    values = {keys[0]: "edemo", keys[1]: "pw", "note": "mine", "IB_USER ": "no"}
    assert secrets.pair("secret/a", values) == ("edemo", "pw")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "has no keys at all"),
        ({"IB_USER": "edemo"}, "has IB_USER;"),
        ({"IB_PASS": "the-password", "username": "edemo"}, "has IB_PASS, username;"),
        ({"user": "edemo", "pass": "the-password"}, "has pass, user;"),
    ],
)
def test_no_whole_pair_names_the_keys_and_no_values(values: dict[str, str], told: str) -> None:
    """The error says which keys there are and which are needed, and never a value."""
    with pytest.raises(CredentialsRefusedError, match=told) as refused:
        secrets.pair("secret/a", values)
    assert "IB_USER and IB_PASS" in str(refused.value)
    assert "the-password" not in str(refused.value)
    assert "edemo" not in str(refused.value)


def test_a_value_that_is_no_text_is_refused() -> None:
    """A password that JSON made a number lost its zeros or its point: it must be written as text."""
    with pytest.raises(CredentialsRefusedError, match="IB_PASS in the secret secret/a is not text") as refused:
        secrets.pair("secret/a", {"IB_USER": "edemo", "IB_PASS": 1234567})
    assert "1234567" not in str(refused.value)


def metadata(**told: object) -> dict[str, object]:
    newest = {"created_time": CREATED, "deletion_time": "", "destroyed": False, **told}
    return {"current_version": 4, "versions": {"3": {}, "4": newest}}


def test_metadata_tells_the_version_that_a_read_tells() -> None:
    """Number, mark and date are the same from either place; a secret made anew has another mark."""
    version = secrets.newest("secret/a", metadata())
    assert version == secrets.version("secret/a", 4, CREATED)
    assert (version.shown, version.written_at) == ("4", datetime(2026, 11, 20, 9, 15, 2, 123456, tzinfo=UTC))
    assert secrets.version("secret/a", 4, CREATED.replace("9Z", "8Z")).version != version.version


@pytest.mark.parametrize("told", [{"destroyed": True}, {"deletion_time": CREATED}])
def test_a_deleted_newest_version_is_gone(told: dict[str, object]) -> None:
    """Deleted or destroyed, the newest version says that the secret is gone."""
    with pytest.raises(SecretGoneError, match="Version 4 of secret/a, the newest, is deleted"):
        secrets.newest("secret/a", metadata(**told))


def test_a_version_to_be_deleted_later_is_there() -> None:
    """A deletion that lies ahead (`delete_version_after`) has not happened."""
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert secrets.newest("secret/a", metadata(deletion_time=later)).shown == "4"


@pytest.mark.parametrize(
    "odd", [None, 5, 5.5, True, [], {}, "", "yesterday", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+14:00"]
)
@pytest.mark.parametrize(
    "name", ["created_time", "deletion_time", "current_version", "versions", "version", "metadata", "data"]
)
def test_whatever_stands_where_a_date_or_number_should_be_is_refused_in_words(name: str, odd: object) -> None:
    """Any kind of value anywhere in an answer is a refusal that names the place, or is as good as the right one."""
    told = {**metadata(), **({name: odd} if name in ("current_version", "versions") else {})}
    if name in ("created_time", "deletion_time"):
        told = metadata(**{name: odd})
    inner = {"version": 4, "created_time": CREATED, **({name: odd} if name in ("version", "created_time") else {})}
    read = {"data": {"IB_USER": "u"}, "metadata": inner, **({name: odd} if name in ("metadata", "data") else {})}
    for ask in (lambda: secrets.newest("secret/a", told), lambda: secrets.content("secret/a", read)):
        with contextlib.suppress(CredentialsRefusedError):
            ask()


def test_metadata_without_versions_is_gone() -> None:
    """Metadata may outlive, or come before, every version."""
    with pytest.raises(SecretGoneError, match="no version"):
        secrets.newest("secret/a", {"current_version": 0, "versions": {}})


def test_access_is_read_from_the_usual_names(tmp_path: Path) -> None:
    """Every documented variable has its effect; empty ones have none; no secret shows in the repr."""
    environ = {
        "VAULT_TOKEN": "the-token",
        "VAULT_TOKEN_FILE": "",
        "HOME": str(tmp_path),
        "VAULT_NAMESPACE": "team",
        "VAULT_CACERT": "/ca.pem",
        "VAULT_CLIENT_CERT": "/c.pem",
        "VAULT_CLIENT_KEY": "/k.pem",
        "VAULT_ROLE_ID": "role",
        "VAULT_SECRET_ID": "the-secret-id",
        "VAULT_SECRET_ID_FILE": "/sid",
        "VAULT_APPROLE_MOUNT": "machines/",
        "VAULT_AUTH_METHOD": "Kubernetes",
        "VAULT_AUTH_ROLE": "manager",
        "VAULT_AUTH_MOUNT": "/clusters/one/",
        "VAULT_JWT_FILE": "/jwt",
    }
    access = VaultAccess.from_environment(environ, address="https://v", mount="/kv/")
    assert access == VaultAccess(
        address="https://v",
        mount="kv",
        namespace="team",
        verify="/ca.pem",
        certificate=("/c.pem", "/k.pem"),
        token="the-token",
        token_file=tmp_path / ".vault-token",
        role_id="role",
        secret_id="the-secret-id",
        secret_id_file=Path("/sid"),
        approle_mount="machines",
        auth_method="kubernetes",
        auth_role="manager",
        auth_mount="clusters/one",
        jwt_file=Path("/jwt"),
    )
    assert "the-" not in repr(access)
    bare = VaultAccess.from_environment({"VAULT_SKIP_VERIFY": "true"}, address="http://v", mount="secret")
    assert bare == VaultAccess(address="http://v", verify=False)
