"""Logging in to a real Vault-compatible server by an identity that something else vouches for: a JWT, a service account."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from real_parts.kubernetes.parts import API, Parts
from spreadpilot_core.ibkr.credentials.broker import CourierBroker
from spreadpilot_core.ibkr.credentials.sources.backoff import AwayError, Pace, SharedBackoff
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.source import SecretGoneError
from spreadpilot_core.ibkr.credentials.sources.vault.access import VaultAccess
from spreadpilot_core.ibkr.credentials.sources.vault.source import VaultCredentials
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Login
from spreadpilot_core.ibkr.settings import Settings
from support.kubernetes_cluster import Cluster, may_build, own_cluster_fixture  # noqa: F401  # a fixture
from support.signed_tokens import ISSUER, Issuer
from support.vault import BaoServer

pytestmark = pytest.mark.real_part("vault")

Connect = Callable[..., VaultCredentials]
Attempt = tuple[dict[str, Any], dict[str, str], str]
"""Claims of a JWT, the environment, and what is said."""
ROLE = "couriers"


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[BaoServer]:
    with BaoServer(tmp_path_factory.mktemp("bao")) as bao:
        fill(bao)
        bao.root.sys.enable_auth_method("jwt", path="identities/ours")
        bao.root.write_data(
            "auth/identities/ours/config", data={"jwt_validation_pubkeys": [issuer.public_key], "bound_issuer": ISSUER}
        )
        role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": "manager"}
        bao.root.write_data(f"auth/identities/ours/role/{ROLE}", data={**role, "token_policies": ["reader"]})
        yield bao


def fill(bao: BaoServer) -> None:
    bao.put("ibkr/f1", IB_USER="edemo", IB_PASS="secret-password")
    bao.put("other/f1", IB_USER="edemo", IB_PASS="secret-password")
    bao.allow("reader", "secret/data/ibkr/*", "secret/metadata/ibkr/*")


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Credentials as one courier has them, from the environment that it would have."""
    made: list[VaultCredentials] = []

    def connect(bao: BaoServer, **environ: object) -> VaultCredentials:
        said = {name: str(value) for name, value in environ.items()}
        vault = VaultCredentials(
            VaultAccess.from_environment(said, address=bao.address, mount="secret"),
            mark=EncryptedCredentials.at(tmp_path).mark,
            backoff=SharedBackoff(Pace(first_wait=0.05, jitter=0.0, shared_for=0.0)),
        )
        made.append(vault)
        return vault

    yield connect
    for vault in made:
        vault.close()


def by_jwt(file: Path, **more: object) -> dict[str, object]:
    where = {"VAULT_AUTH_METHOD": "jwt", "VAULT_AUTH_MOUNT": "identities/ours/", "VAULT_AUTH_ROLE": ROLE}
    return {**where, "VAULT_JWT_FILE": file, **more}


def test_a_jwt_logs_in_and_its_token_is_revoked_at_the_end(
    bao: BaoServer, issuer: Issuer, tmp_path: Path, connect: Connect
) -> None:
    """It goes before a token that is there too; the token that it gave is dead after the courier's end."""
    (tmp_path / "jwt").write_text(issuer.token("manager") + "\n")
    vault = connect(bao, **by_jwt(tmp_path / "jwt", VAULT_TOKEN="no-token"))
    assert vault.read("ibkr/f1").user == "edemo"
    assert vault.version("ibkr/f1").shown == "1"
    token = vault._session.client().token
    assert bao.is_known(token)
    vault.close()
    assert not bao.is_known(token)


def test_the_file_is_read_again_at_each_login(bao: BaoServer, issuer: Issuer, tmp_path: Path, connect: Connect) -> None:
    """What the kubelet put in its place by swapping a link is used once the token that it gave is gone; the old one is not."""
    for number, seconds in ((1, 600), (2, 600)):
        (tmp_path / f"jwt.{number}").write_text(issuer.token("manager", seconds=seconds))
    link = tmp_path / "jwt"
    link.symlink_to(tmp_path / "jwt.1")
    vault = connect(bao, **by_jwt(link))
    vault.read("ibkr/f1")
    (tmp_path / "jwt.1").write_text(issuer.token("manager", seconds=-600))
    bao.root.auth.token.revoke(vault._session.client().token)
    (tmp_path / "next").symlink_to(tmp_path / "jwt.2")
    (tmp_path / "next").rename(link)
    assert vault.read("ibkr/f1").user == "edemo"


def test_a_secret_that_the_role_may_not_read_is_a_no(
    bao: BaoServer, issuer: Issuer, tmp_path: Path, connect: Connect
) -> None:
    """The login is good and the policy is not: that is Vault's answer, and no reason to use what is stored."""
    (tmp_path / "jwt").write_text(issuer.token("manager"))
    with pytest.raises(SecretGoneError, match="our token is good"):
        connect(bao, **by_jwt(tmp_path / "jwt")).read("other/f1")


@pytest.mark.parametrize(
    "attempt",
    [
        ({"subject": "stranger"}, {}, "it answered our login by a JWT with .*sub"),
        ({"seconds": -600}, {}, "it answered our login by a JWT with .*expired"),
        ({"audience": "somebody-else"}, {}, "it answered our login by a JWT with .*audience"),
        ({}, {"VAULT_AUTH_ROLE": "nobody"}, 'it answered our login by a JWT with .*role "nobody"'),
        ({}, {"VAULT_AUTH_MOUNT": "elsewhere"}, "it answered our login by a JWT with"),
        ({}, {"VAULT_JWT_FILE": "/nowhere/jwt"}, "there is no JWT in /nowhere/jwt"),
        ({}, {"VAULT_AUTH_METHOD": "kubernetes", "VAULT_AUTH_ROLE": ""}, "VAULT_AUTH_ROLE does not name the role"),
        (
            {},
            {"VAULT_AUTH_METHOD": "magic"},
            "VAULT_AUTH_METHOD is 'magic', and must be token, approle, jwt or kubernetes",
        ),
    ],
)
def test_who_is_not_let_in_is_told_why_and_shown_no_key(
    bao: BaoServer, issuer: Issuer, tmp_path: Path, connect: Connect, attempt: Attempt
) -> None:
    """Vault's own words, or what is missing here; the JWT itself is never repeated."""
    claims, environ, told = attempt
    jwt = issuer.token(**{"subject": "manager", **claims})
    (tmp_path / "jwt").write_text(jwt)
    with pytest.raises(AwayError, match=told) as away:
        connect(bao, **by_jwt(tmp_path / "jwt", **environ)).read("ibkr/f1")
    for part in jwt.split("."):
        assert part not in str(away.value)


# ---------------------------------------------------------------------------------------------- a service account


@pytest.fixture
def inside(own_cluster: Cluster, tmp_path: Path) -> Iterator[tuple[Parts, BaoServer]]:
    """A server in the cluster's network, which has the API server look at service accounts' tokens."""
    parts = own_cluster.parts
    assert parts is not None
    with own_cluster.inside(), BaoServer(tmp_path / "bao") as bao:
        for account in ("vault", "manager", "stranger"):
            parts.kubectl("create", "serviceaccount", account)
        reviewer = ["--clusterrole=system:auth-delegator", "--serviceaccount=default:vault"]
        parts.kubectl("create", "clusterrolebinding", "vault-reviews", *reviewer)
        try:
            fill(bao)
            bao.root.sys.enable_auth_method("kubernetes")
            config = {"kubernetes_host": API, "kubernetes_ca_cert": (parts.pki / "ca.crt").read_text()}
            config["token_reviewer_jwt"] = parts.kubectl("create", "token", "vault").strip()
            bao.root.write_data("auth/kubernetes/config", data={**config, "disable_local_ca_jwt": True})
            bound = {"bound_service_account_names": ["manager"], "bound_service_account_namespaces": ["default"]}
            role = {**bound, "audience": "vault", "token_policies": ["reader"]}
            bao.root.write_data(f"auth/kubernetes/role/{ROLE}", data=role)
            yield parts, bao
        finally:
            parts.kubectl("delete", "clusterrolebinding", "vault-reviews")
            parts.kubectl("delete", "serviceaccount", "vault", "manager", "stranger")


@pytest.mark.real_part("kubernetes")
@may_build
def test_a_service_account_logs_in_where_the_cluster_vouches_for_it(
    inside: tuple[Parts, BaoServer], tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real courier with the account's token reads; another account and another audience don't get in."""
    parts, bao = inside
    file = tmp_path / "token"
    environ: dict[str, object] = {
        "VAULT_AUTH_METHOD": "kubernetes",
        "VAULT_AUTH_ROLE": ROLE,
        "VAULT_JWT_FILE": file,
    }

    def become(account: str, audience: str = "vault") -> None:
        file.write_text(parts.kubectl("create", "token", account, f"--audience={audience}"))

    become("manager")
    for name, value in environ.items():
        monkeypatch.setenv(name, str(value))
    login = asyncio.run(read(Settings.read(state_dir=tmp_path, vault_addr=bao.address)))
    assert (login.user, login.source) == ("edemo", "vault")

    become("stranger")
    with pytest.raises(AwayError, match=r"our login by the service account with service account .*not authorized"):
        connect(bao, **environ).read("ibkr/f1")
    become("manager", audience="somebody-else")
    with pytest.raises(AwayError, match="our login by the service account with"):
        connect(bao, **environ).read("ibkr/f1")


async def read(settings: Settings) -> Login:
    couriers = CourierBroker.from_settings(settings)
    try:
        return await couriers.read("ibkr/f1", "ibc", follower_id=FollowerId("anna"))
    finally:
        await couriers.close()
