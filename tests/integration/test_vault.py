"""`VaultCredentials` against a real Vault-compatible server: who we are, what we may, and what the answers mean."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.credentials.sources.backoff import AwayError, Pace, SharedBackoff
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.source import SecretGoneError
from spreadpilot_core.ibkr.credentials.sources.vault.access import VaultAccess
from spreadpilot_core.ibkr.credentials.sources.vault.source import VaultCredentials
from spreadpilot_core.ibkr.errors import CredentialsRefusedError
from support.certificates import make_certificates
from support.tcp_proxy import TcpProxy
from support.vault import BaoServer
from support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.real_part("vault")

Connect = Callable[..., VaultCredentials]


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    with BaoServer(tmp_path_factory.mktemp("bao")) as bao:
        bao.put("ibkr/f1", IB_USER="edemo", IB_PASS="secret-password")
        bao.allow("reader", "secret/data/ibkr/*", "secret/metadata/ibkr/*")
        yield bao


@pytest.fixture
def proxy(bao: BaoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """A path to it on which requests are counted: none is repeated because the server was held up for a while."""
    monkeypatch.setattr("spreadpilot_core.ibkr.credentials.sources.vault.source.ANSWER_TIME", PATIENCE)
    monkeypatch.setattr("spreadpilot_core.ibkr.credentials.sources.vault.source.TRY_TIME", PATIENCE)
    with TcpProxy(bao.port) as proxy:
        yield proxy


@pytest.fixture
def connect(bao: BaoServer, tmp_path: Path) -> Iterator[Connect]:
    """Credentials as one courier has them, from keyword arguments of `VaultAccess`."""
    made: list[VaultCredentials] = []

    def connect(*, shared_for: float = 0.0, **access: Any) -> VaultCredentials:
        vault = VaultCredentials(
            VaultAccess(**{"address": bao.address, **access}),
            mark=EncryptedCredentials.at(tmp_path).mark,
            backoff=SharedBackoff(Pace(first_wait=0.05, jitter=0.0, shared_for=shared_for)),
        )
        made.append(vault)
        return vault

    yield connect
    for vault in made:
        vault.close()


# ---------------------------------------------------------------------------------------------- who we are


def test_a_session_begins_with_a_look_at_the_token(bao: BaoServer, proxy: TcpProxy, connect: Connect) -> None:
    """The first request is `lookup-self`, the read itself is one request, and the second read is that one alone."""
    vault = connect(address=proxy.address, token=bao.token("reader"))
    vault.read("ibkr/f1")
    assert proxy.requests[0] == "GET /v1/auth/token/lookup-self HTTP/1.1"
    before = len(proxy.requests)
    vault.read("ibkr/f1")
    assert proxy.requests[before:] == ["GET /v1/secret/data/ibkr/f1 HTTP/1.1"]


def test_a_token_file_is_read_when_it_is_needed(bao: BaoServer, tmp_path: Path, connect: Connect) -> None:
    """A token from a file works, and one that an agent has put there since replaces one that was revoked."""
    file = tmp_path / "token"
    first = bao.token("reader")
    file.write_text(f"{first}\n")
    vault = connect(token_file=file)
    assert vault.read("ibkr/f1").user == "edemo"
    bao.root.auth.token.revoke(first)
    file.write_text(bao.token("reader"))
    assert vault.read("ibkr/f1").user == "edemo"


@pytest.mark.parametrize(
    ("access", "told"),
    [
        ({}, "no token is given. Set VAULT_TOKEN"),
        ({"token": "no-such-token"}, "our token is no longer good, or never was. Put a good one into VAULT_TOKEN;"),
        ({"token_file": Path("/no/such/file")}, "no token is given, and /no/such/file has none. Set VAULT_TOKEN"),
        ({"secret_id": "s"}, "a secret id is given without a role id. Set VAULT_ROLE_ID"),
    ],
)
def test_without_a_good_token_vault_is_unavailable(
    access: dict[str, Any], told: str, connect: Connect, proxy: TcpProxy
) -> None:
    """No token, a wrong one, a missing file: that says nothing about the secret, and no retry would help."""
    vault = connect(address=proxy.address, **access)
    with pytest.raises(AwayError, match=told):
        vault.read("ibkr/f1")
    assert len([request for request in proxy.requests if "/data/" in request]) == 2


def test_a_token_revoked_in_the_middle_makes_vault_unavailable(bao: BaoServer, connect: Connect) -> None:
    """After a good read the token is revoked: not a denial, since the token is what is wrong."""
    token = bao.token("reader")
    vault = connect(token=token)
    vault.read("ibkr/f1")
    bao.root.auth.token.revoke(token)
    with pytest.raises(AwayError):
        vault.read("ibkr/f1")


def test_a_token_past_a_third_of_its_life_is_renewed(bao: BaoServer, connect: Connect) -> None:
    """A renewable token with two thirds or less left gets its whole life back, and a fresher one is left alone."""
    token = bao.token("reader", ttl="1h", renewable=True)
    bao.root.auth.token.renew(token, increment="20m")
    vault = connect(token=token)
    vault.read("ibkr/f1")
    assert bao.root.auth.token.lookup(token)["data"]["ttl"] > 3500
    assert vault.renew_within is not None
    assert 1100 < vault.renew_within <= 1200
    bao.root.auth.token.renew(token, increment="50m")
    connect(token=token).read("ibkr/f1")
    assert bao.root.auth.token.lookup(token)["data"]["ttl"] <= 3000


def test_a_token_that_may_not_look_at_itself_is_used(bao: BaoServer, connect: Connect) -> None:
    """A token without the default policy, and one that lives for ever, read all the same and want no renewal."""
    for token in (bao.token("reader", no_default_policy=True), bao.root.token):
        vault = connect(token=token)
        assert vault.read("ibkr/f1").user == "edemo"
        assert vault.renew_within is None


def test_approle_logs_in_and_revokes_at_the_end(bao: BaoServer, tmp_path: Path, connect: Connect) -> None:
    """Each session logs in for itself, with a secret id from variable or file, and its token is dead after its end."""
    role, secret = bao.approle("couriers", "reader")
    (tmp_path / "secret-id").write_text(f"{secret}\n")
    for access in ({"secret_id": secret}, {"secret_id_file": tmp_path / "secret-id"}):
        vault = connect(role_id=role, **access)
        assert vault.read("ibkr/f1").user == "edemo"
        token = vault._session.client().token
        assert bao.is_known(token)
        vault.close()
        assert not bao.is_known(token)


def test_approle_logs_in_again_when_its_token_is_gone(bao: BaoServer, connect: Connect) -> None:
    """A session whose token was revoked takes a new one by itself."""
    role, secret = bao.approle("couriers", "reader")
    vault = connect(role_id=role, secret_id=secret)
    vault.read("ibkr/f1")
    bao.root.auth.token.revoke(vault._session.client().token)
    assert vault.read("ibkr/f1").user == "edemo"


def test_a_wrong_approle_makes_vault_unavailable(bao: BaoServer, connect: Connect) -> None:
    """Vault's own words are told, and what to correct; the secret id isn't."""
    role, _ = bao.approle("couriers", "reader")
    with pytest.raises(AwayError, match=r"invalid role or secret ID\. Correct VAULT_ROLE_ID") as away:
        connect(role_id=role, secret_id="wrong-secret-id").read("ibkr/f1")
    assert "wrong-secret-id" not in str(away.value)
    with pytest.raises(AwayError, match="No secret id is given: set VAULT_SECRET_ID"):
        connect(role_id=role).read("ibkr/f1")
    with pytest.raises(AwayError, match="No secret id is in /no/such, which VAULT_SECRET_ID_FILE names"):
        connect(role_id=role, secret_id_file=Path("/no/such")).read("ibkr/f1")


def test_a_sealed_vault_says_how_to_unseal_it(tmp_path: Path, connect: Connect) -> None:
    """What is wrong is the seal, and no address or token."""
    with BaoServer(tmp_path / "sealed") as bao:
        bao.seal()
        with pytest.raises(AwayError, match=r"it is sealed\. Unseal it") as away:
            connect(address=bao.address, token=bao.root.token).read("ibkr/f1")
    assert "VAULT_ADDR" not in str(away.value)


def test_a_namespace_is_entered(bao: BaoServer, connect: Connect) -> None:
    """The same path in a namespace is another secret."""
    bao.root.adapter.post("/v1/sys/namespaces/team", json={})
    bao.root.adapter.namespace = "team"
    try:
        bao.keep_versions()
        bao.put("ibkr/f1", IB_USER="team-user", IB_PASS="p")
    finally:
        bao.root.adapter.namespace = None
    assert connect(token=bao.root.token, namespace="team").read("ibkr/f1").user == "team-user"
    assert connect(token=bao.root.token).read("ibkr/f1").user == "edemo"


def test_certificates_are_checked_and_shown(tmp_path: Path, connect: Connect) -> None:
    """Over TLS: with the right authority and our certificate it reads; a wrong authority, or no certificate, is unavailable."""
    certificates = make_certificates(tmp_path)
    ours = (str(certificates.client), str(certificates.client_key))
    with BaoServer(tmp_path / "tls", tls=certificates) as bao:
        bao.put("ibkr/f1", IB_USER="edemo", IB_PASS="p")
        good = {"address": bao.address, "token": bao.root.token, "verify": str(certificates.authority)}
        assert connect(**good, certificate=ours).read("ibkr/f1").user == "edemo"
        stranger, missing = str(certificates.stranger), str(tmp_path / "none.pem")
        for wrong, told in (
            ({**good, "certificate": ours, "verify": stranger}, r"VAULT_CACERT vouches for\. Set VAULT_CACERT"),
            ({**good, "certificate": ours, "verify": True}, r"VAULT_CACERT vouches for\. Set VAULT_CACERT"),
            ({**good, "certificate": ours, "verify": missing}, f"{missing}, can't be read. VAULT_CACERT"),
            ({**good, "certificate": (missing, ours[1])}, f"{missing}, which VAULT_CLIENT_CERT names, can't be read"),
            (
                {**good, "certificate": ours, "address": bao.address.replace("https", "http")},
                "with https:// where it has",
            ),
            (good, "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY"),
        ):
            with pytest.raises(AwayError, match=told):
                connect(**wrong).read("ibkr/f1")


# ---------------------------------------------------------------------------------------------- what the answers mean


def test_denied_by_policy_is_a_no(bao: BaoServer, proxy: TcpProxy, connect: Connect) -> None:
    """A good token whose policies don't allow the path gets a no, proven by `lookup-self` and never retried."""
    bao.put("private/f1", IB_USER="u", IB_PASS="p")
    vault = connect(address=proxy.address, token=bao.token("reader"))
    with pytest.raises(SecretGoneError, match="our token is good, but its policies"):
        vault.read("private/f1")
    assert len([request for request in proxy.requests if "/data/" in request]) == 1
    assert vault.read("ibkr/f1").user == "edemo"


def test_a_policy_taken_back_is_a_no(bao: BaoServer, connect: Connect) -> None:
    """A denial in the middle of a session is one as well."""
    bao.allow("passing", "secret/data/ibkr/*")
    vault = connect(token=bao.token("passing"))
    vault.read("ibkr/f1")
    bao.allow("passing", "secret/data/elsewhere")
    with pytest.raises(SecretGoneError, match="denies us secret/ibkr/f1"):
        vault.read("ibkr/f1")


def test_missing_deleted_undeleted_destroyed(bao: BaoServer, connect: Connect) -> None:
    """A secret's whole life: each stage is told apart, by a read and by its version alike, and undeleting brings it back."""
    engine = bao.root.secrets.kv.v2
    vault = connect(token=bao.token("reader"))

    def both_say(sentence: str) -> None:
        for ask in (vault.read, vault.version):
            with pytest.raises(SecretGoneError, match=sentence):
                ask("ibkr/life")

    both_say(r"Vault has no secret secret/ibkr/life\. Write it")
    bao.put("ibkr/life", username="u", password="one")
    bao.put("ibkr/life", username="u", password="two")
    assert vault.read("ibkr/life").version.shown == "2"
    engine.delete_latest_version_of_secret("ibkr/life")
    both_say("Version 2 of secret/ibkr/life, the newest, is deleted")
    engine.undelete_secret_versions("ibkr/life", [2])
    assert vault.read("ibkr/life").password == "two"
    assert vault.version("ibkr/life").shown == "2"
    engine.destroy_secret_versions("ibkr/life", [2])
    both_say("Version 2 of secret/ibkr/life, the newest, is deleted")
    engine.delete_metadata_and_all_versions("ibkr/life")
    both_say("Vault has no secret secret/ibkr/life")


def test_half_a_pair_is_bad_data_and_not_retried(bao: BaoServer, proxy: TcpProxy, connect: Connect) -> None:
    """A secret without a whole pair is refused with its keys, is not "gone", and costs one request."""
    bao.put("ibkr/half", IB_USER="u", TWS_PASSWORD="the-password")
    vault = connect(address=proxy.address, token=bao.token("reader"))
    with pytest.raises(CredentialsRefusedError, match="has IB_USER, TWS_PASSWORD") as refused:
        vault.read("ibkr/half")
    assert not isinstance(refused.value, SecretGoneError)
    assert "the-password" not in str(refused.value)
    assert len([request for request in proxy.requests if "/data/" in request]) == 1


def test_versions_come_from_metadata_alone(bao: BaoServer, proxy: TcpProxy, connect: Connect) -> None:
    """Asking for a version never asks for the secret."""
    vault = connect(address=proxy.address, token=bao.token("reader"))
    assert not vault.version("ibkr/f1").needed_reading
    assert not [request for request in proxy.requests if "/data/" in request]


def test_metadata_that_is_denied_takes_nothing_away(bao: BaoServer, connect: Connect) -> None:
    """Policies that allow the secret but not its metadata leave reading alone; the version says what to allow."""
    bao.allow("data-only", "secret/data/ibkr/*")
    vault = connect(token=bao.token("data-only"))
    assert vault.read("ibkr/f1").user == "edemo"
    with pytest.raises(AwayError, match=r'Allow "read" on secret/metadata/ibkr/f1'):
        vault.version("ibkr/f1")


def test_version_1_of_the_engine(bao: BaoServer, connect: Connect) -> None:
    """Without versions of its own the content names itself, told only by reading, and that is said."""
    bao.put_old("ibkr/f1", IB_USER="u", IB_PASS="one")
    vault = connect(token=bao.root.token, mount="old")
    first = vault.read("old/ibkr/f1").version
    assert (first, vault.version("ibkr/f1")) == (first, first)
    assert first.needed_reading
    bao.put_old("ibkr/f1", IB_USER="u", IB_PASS="two")
    assert vault.version("ibkr/f1").version != first.version
    bao.root.secrets.kv.v1.delete_secret("ibkr/f1", mount_point="old")
    with pytest.raises(SecretGoneError, match="no secret old/ibkr/f1"):
        vault.version("ibkr/f1")


def test_a_mount_that_is_none_is_a_matter_of_settings(bao: BaoServer, connect: Connect) -> None:
    """Nothing mounted there is a no that names the setting, and doesn't count as deleted."""
    with pytest.raises(CredentialsRefusedError, match="vault_mount is 'nowhere'") as refused:
        connect(token=bao.root.token, mount="nowhere").read("ibkr/f1")
    assert not isinstance(refused.value, SecretGoneError)


class _Page(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:  # http.server's name
        """Answer as a load balancer does whose Vault is gone."""
        body = b"<html>nothing here</html>"
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.mark.parametrize("status", [200, 400, 404, 500, 502, 504])
def test_a_page_of_somebody_else_is_no_word_of_vaults(
    status: int, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a proxy answers in Vault's place, 404 included, means unavailable and never deleted or denied."""
    monkeypatch.setattr(_Page, "status", status)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        vault = connect(address=f"http://127.0.0.1:{server.server_address[1]}", token="t")
        with pytest.raises(AwayError, match="unavailable"):
            vault.read("ibkr/f1")
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "cure"),
    [
        ("nonsense", "begins with https://"),
        ("vault.example:8200", "begins with https://"),
        ("http://", "begins with https://"),
        ("http://127.0.0.1:1", "See that Vault runs"),
        ("https://no-such-host.invalid", r"its host name does not resolve\. Correct the name"),
    ],
)
def test_an_address_where_nothing_is(address: str, cure: str, connect: Connect) -> None:
    """A wrong, closed or unknown address is unavailable, in a sentence of ours that names it and its own cure."""
    with pytest.raises(AwayError, match=f"Vault at {address} is unavailable: .*{cure}"):
        connect(address=address, token="t").read("ibkr/f1")


def test_an_address_without_tls(bao: BaoServer, connect: Connect) -> None:
    """https:// to a Vault that speaks http:// is told from a certificate that nobody knows."""
    with pytest.raises(AwayError, match=r"does not speak TLS\. Set VAULT_ADDR to http://"):
        connect(address=bao.address.replace("http", "https"), token="t").read("ibkr/f1")


def test_a_token_that_no_header_takes_is_not_quoted(connect: Connect) -> None:
    """A token with a line break in it fails without showing up in the error."""
    with pytest.raises(AwayError) as away:
        connect(token="half-a-token\nhalf").read("ibkr/f1")
    assert "half" not in str(away.value)


# ---------------------------------------------------------------------------------------------- bad paths


def test_a_slow_vault_is_waited_for(bao: BaoServer, proxy: TcpProxy, connect: Connect) -> None:
    """An answer that takes a second is an answer."""
    vault = connect(address=proxy.address, token=bao.token("reader"))
    vault.read("ibkr/f1")
    proxy.mode, proxy.delay = "late", 1.0
    assert vault.read("ibkr/f1").user == "edemo"


@pytest.mark.parametrize("mode", ["half_open", "reset"])
def test_a_bad_path_is_given_up_and_recovers(
    mode: Any, bao: BaoServer, proxy: TcpProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that never answer or are reset end as unavailable after four tries; a mended path serves again."""
    with monkeypatch.context() as patched:
        patched.setattr("spreadpilot_core.ibkr.credentials.sources.vault.source.ANSWER_TIME", 1.5)
        vault = connect(address=proxy.address, token=bao.token("reader"))
        vault.read("ibkr/f1")
    proxy.mode = mode
    before = len(proxy.requests)
    with pytest.raises(AwayError, match="unavailable"):
        vault.read("ibkr/f1")
    assert len(proxy.requests) - before >= 4
    proxy.mode = "pass"
    proxy.cut()
    vault._session.drop(vault._session.client())  # what follows is no longer hurried
    assert vault.read("ibkr/f1").user == "edemo"


def test_a_dribbling_path_is_given_up(
    bao: BaoServer, proxy: TcpProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then is no answer: while we find out whether Vault is there, each try has its end."""
    monkeypatch.setattr("spreadpilot_core.ibkr.credentials.sources.vault.source.TRY_TIME", 0.4)
    proxy.mode = "dribble"
    with pytest.raises(AwayError, match="did not answer within"):
        connect(address=proxy.address, token=bao.token("reader")).read("ibkr/f1")


def test_a_hundred_on_a_half_open_path_share_four_tries(
    bao: BaoServer, proxy: TcpProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers, a hundred wait: the server is asked as often as one follower would ask it."""
    monkeypatch.setattr("spreadpilot_core.ibkr.credentials.sources.vault.source.ANSWER_TIME", 0.3)
    vault = connect(address=proxy.address, token=bao.token("reader"), shared_for=60.0)
    proxy.mode = "half_open"

    def read(_: int) -> str:
        with pytest.raises(AwayError) as away:
            vault.read("ibkr/f1")
        return away.value.what

    with ThreadPoolExecutor(100) as pool:
        told = set(pool.map(read, range(100)))
    assert len(told) == 1
    wait_until(lambda: len(proxy.requests) >= 4)  # the last one was given up perhaps before the proxy had read it
    assert len(proxy.requests) == 4


def test_a_cut_in_the_middle_is_mended_by_a_retry(bao: BaoServer, proxy: TcpProxy, connect: Connect) -> None:
    """Idle connections that were cut cost a retry and no error."""
    vault = connect(address=proxy.address, token=bao.token("reader"))
    vault.read("ibkr/f1")
    proxy.cut()
    assert vault.read("ibkr/f1").user == "edemo"
