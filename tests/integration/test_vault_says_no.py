"""Vault's no is a no, whatever it looks like: stored logins are for the day it can't be asked, and for no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.sources.backoff import Pace, SharedBackoff
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.remembered import RememberingCredentials
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, SecretVersion
from spreadpilot_core.ibkr.credentials.sources.vault.access import VaultAccess
from spreadpilot_core.ibkr.credentials.sources.vault.source import VaultCredentials
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialsUnavailableError
from support.scripted_vault import SECRET, Said, ScriptedVault
from support.vault import BaoServer

REF = "ibkr/f1"
DENIED = {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
"""As a policy says it."""


@pytest.fixture
def vault() -> Iterator[ScriptedVault]:
    with ScriptedVault() as vault:
        yield vault


@pytest.fixture
def store(tmp_path: Path) -> EncryptedCredentials:
    """Holds what Vault gave once for one reference."""
    store = EncryptedCredentials.at(tmp_path)
    version = SecretVersion("1-aa", None)
    store.remember({REF: Credentials(user="edemo", password="stored-pw", version=version, source="vault")})
    return store


def read(store: EncryptedCredentials, tmp_path: Path, **access: Any) -> Credentials:
    """What a courier of its own gets."""
    source = RememberingCredentials(
        VaultCredentials(
            VaultAccess(**access), mark=store.mark, backoff=SharedBackoff(Pace(first_wait=0.01, jitter=0, shared_for=0))
        ),
        store,
        remember=True,
        trail=AuditTrail(tmp_path),
        who="tester",
        say=lambda _: None,
        mount="secret",
    )
    try:
        return source.read(REF)
    finally:
        source.close()


@pytest.mark.parametrize(
    "said",
    [
        Said(404, {"errors": []}, "application/json; charset=utf-8"),
        Said(404, {"errors": []}, "Application/JSON"),
        Said(404, {"errors": []}, "text/plain"),
        Said(404, {"errors": []}, None),
        Said(404, {"errors": ["no handler for route"]}),
        Said(400, {"errors": ["missing client token"]}),
        Said(400, {"errors": []}),
        Said(400, {"errors": [{"odd": 1}, 5, None]}),
        Said(400, {"errors": ["x" * 1_000_000]}),
        Said(400, {"errors": ["two\nlines \x1b[31m"]}, "application/json; charset=utf-8"),
        Said(401, {"errors": ["who are you"]}),
        Said(405, {"errors": ["unsupported operation"]}),
        Said(403, DENIED, "application/json; charset=utf-8"),
        Said(418, {"errors": ["a teapot"]}),
        Said(200, {"data": {"data": SECRET["data"]["data"], "metadata": {"version": 1, "created_time": 5}}}),
        Said(200, {"data": {"data": SECRET["data"]["data"], "metadata": {"version": "one"}}}),
        Said(200, {"data": {"data": SECRET["data"]["data"]}}),
        Said(200, {"data": {"data": ["IB_USER"], "metadata": {"version": 1}}}),
        Said(200, {"data": {"data": {"k" * 1_000_000: "v"}, "metadata": SECRET["data"]["metadata"]}}),
    ],
)
def test_every_other_answer_is_an_answer(
    said: Said, vault: ScriptedVault, store: EncryptedCredentials, tmp_path: Path
) -> None:
    """A refusal in one short sentence, one request, and what is stored is neither used nor removed."""
    vault.read = said
    with pytest.raises(CredentialsRefusedError) as refused:
        read(store, tmp_path, address=vault.address, token="t")
    assert len(str(refused.value)) < 600
    assert len([path for path in vault.asked if "/secret/" in path and "/data/" in path]) == 1
    assert [entry.ref for entry in store.list()] == [REF]


@pytest.mark.parametrize(
    "said",
    [
        Said(404, b"<html>gone</html>", "text/html"),
        Said(404, b"<html>gone</html>", "application/json"),
        Said(400, b"Client sent an HTTP request to an HTTPS server.\n", "text/plain"),
        Said(403, {"message": "Forbidden"}),
        Said(200, b"", "application/json"),
        Said(200, b"[" * 100_000),
        Said(200, {"hello": "world"}),
        Said(200, ["data"]),
        Said(200, {"data": {"data": {"IB_USER": "u", "IB_PASS": "p" * 5 * 2**20}}}),
        Said(429, {"errors": ["request path kv: rate limit quota exceeded"]}),
        Said(412, {"errors": ["required index state not present"]}),
        Said(472, {"errors": []}),
        Said(500, {"errors": ["internal error"]}),
        Said(503, {"errors": ["Vault is sealed"]}, "application/json; charset=utf-8"),
    ],
)
def test_what_could_not_be_asked_is_away(
    said: Said, vault: ScriptedVault, store: EncryptedCredentials, tmp_path: Path
) -> None:
    """A page that is not Vault's, one too long to be a secret, a server that isn't ready: the stored login steps in."""
    vault.read = said
    found = read(store, tmp_path, address=vault.address, token="t")
    assert (found.password, found.is_fallback) == ("stored-pw", True)
    assert len(str(found.notice)) < 400


@pytest.mark.parametrize("status", [400, 403, 404, 405])
def test_an_answer_about_the_token_alone_changes_nothing(
    status: int, vault: ScriptedVault, store: EncryptedCredentials, tmp_path: Path
) -> None:
    """Whatever Vault says to a look at our token or at the mount, a secret that it gives is the secret."""
    vault.token = vault.mount = Said(status, {"errors": ["no"]})
    assert read(store, tmp_path, address=vault.address, token="t").password == "planted-pw"


def test_odd_words_about_the_token_change_nothing(
    vault: ScriptedVault, store: EncryptedCredentials, tmp_path: Path
) -> None:
    """Times that are no numbers, options that are no mapping: read all the same."""
    for odd in (None, "soon", [], {}, 1e300, -5, True):
        vault.token = Said(body={"data": {"ttl": odd, "period": odd, "creation_ttl": odd, "renewable": True}})
        vault.mount = Said(body={"data": {"options": odd}})
        vault.read = Said(
            body={"data": {**SECRET["data"], "IB_USER": "edemo", "IB_PASS": "planted-pw"}}
        )  # either version
        assert read(store, tmp_path, address=vault.address, token="t").password == "planted-pw"


def test_a_remembered_login_goes_with_a_proven_no_alone(
    vault: ScriptedVault, store: EncryptedCredentials, tmp_path: Path
) -> None:
    """Vault's own 404, as it sends it, removes what was remembered; the test of the test above."""
    vault.read = Said(404, {"errors": []})
    with pytest.raises(CredentialsRefusedError, match="Vault has no secret secret/ibkr/f1"):
        read(store, tmp_path, address=vault.address, token="t")
    assert store.list() == ()


def test_a_local_store_in_trouble_is_not_vault_away(
    vault: ScriptedVault, store: EncryptedCredentials, tmp_path: Path
) -> None:
    """Version 1 of the engine needs the store's key to name a version: without it Vault's answer is not replaced by an old one."""
    vault.mount = Said(body={"data": {"options": {"version": "1"}}})
    vault.read = Said(body={"data": {"IB_USER": "edemo", "IB_PASS": "planted-pw"}})
    (tmp_path / "credentials.key").write_text("damaged")
    with pytest.raises((CredentialsRefusedError, CredentialsUnavailableError), match="holds no key"):
        read(store, tmp_path, address=vault.address, token="t")


@pytest.mark.real_part("vault")
def test_tokens_that_may_not_look_themselves_up(store: EncryptedCredentials, tmp_path: Path) -> None:
    """On a real server: denied is denied for them too, with rights on the mount and without any; a revoked one is an outage."""
    (tmp_path / "bao").mkdir()
    with BaoServer(tmp_path / "bao") as bao:
        bao.put(REF, IB_USER="edemo", IB_PASS="p")
        bao.allow("elsewhere", "secret/data/elsewhere")
        for policy in ("elsewhere", "nothing-of-it"):
            token = bao.token(policy, no_default_policy=True)
            with pytest.raises(CredentialsRefusedError, match="denies us secret/ibkr/f1"):
                read(store, tmp_path, address=bao.address, token=token)
            assert [entry.ref for entry in store.list()] == [REF]
            bao.root.auth.token.revoke(token)
            assert read(store, tmp_path, address=bao.address, token=token).is_fallback
