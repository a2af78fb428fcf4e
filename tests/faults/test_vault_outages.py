"""Vault sealed, killed, cut off, its token revoked, while couriers read for a fleet: what each follower is told, and recovery."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.broker import SILENCE, CourierBroker, courier_environment
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialsUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Login
from support.couriers import couriers_in, is_alive, pids
from support.tcp_proxy import TcpProxy
from support.vault import BaoServer
from support.waiting import until

pytestmark = pytest.mark.real_part("vault")

FLEET = 100
HURRIED = (
    "from functools import partial\n"
    "from spreadpilot_core.ibkr.credentials.courier import process as courier\nfrom spreadpilot_core.ibkr.credentials.sources import backoff\n"
    "backoff.Pace = partial(backoff.Pace, first_wait=0.05, jitter=0.0, shared_for={shared_for})\n"
    "courier.main()\n"
)
"""The courier as it is, but with short waits between its tries, and a failure that holds for so many seconds."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    with BaoServer(tmp_path_factory.mktemp("bao")) as bao:
        for number in range(FLEET):
            bao.put(f"ibkr/f{number}", IB_USER=f"user{number}", IB_PASS=f"password {number}")
        yield bao


@pytest.fixture
def bao(server: BaoServer) -> BaoServer:
    """The server, with a policy that allows everything these tests read."""
    server.allow("reader", "secret/data/ibkr/*", "secret/metadata/ibkr/*")
    return server


@asynccontextmanager
async def fleet(
    bao: BaoServer, state_dir: Path, *, address: str | None = None, shared_for: float = 0.3, **vault: str
) -> AsyncIterator[CourierBroker]:
    """Couriers of one manager whose environment holds these variables of Vault's."""
    environment = courier_environment({**os.environ, **(vault or {"VAULT_TOKEN": bao.token("reader")})})
    async with couriers_in(
        state_dir,
        settings={"vault_enabled": True, "vault_addr": address or bao.address},
        command=(sys.executable, "-c", HURRIED.format(shared_for=shared_for)),
        environment=environment,
    ) as couriers:
        yield couriers


async def read(couriers: CourierBroker, number: int = 0) -> Login:
    return await couriers.read(f"ibkr/f{number}", "ibc", follower_id=FollowerId(f"f{number}"))


async def end_of(couriers: CourierBroker) -> None:
    """Let the courier go, so that what it remembers is written and the next one starts afresh."""
    for courier in list(couriers._live.values()):
        courier.dismiss()
    await until(lambda: not pids(couriers))


async def test_a_hundred_followers_read_at_once(bao: BaoServer, tmp_path: Path) -> None:
    """One courier reads for all of them, each gets its own user, and all are audited and remembered."""
    async with fleet(bao, tmp_path) as couriers:
        logins = await asyncio.gather(*(read(couriers, number) for number in range(FLEET)))
        assert couriers.renew_within is not None
        await end_of(couriers)
    assert [login.user for login in logins] == [f"user{number}" for number in range(FLEET)]
    assert {(login.source, login.notice) for login in logins} == {("vault", None)}
    await asyncio.to_thread(expect_audit_and_memory, tmp_path)


def expect_audit_and_memory(state_dir: Path) -> None:
    acts = [entry["act"] for entry in AuditTrail(state_dir).entries()]
    assert (acts.count("read"), acts.count("remember")) == (FLEET, FLEET)
    assert len(EncryptedCredentials.at(state_dir).list()) == FLEET


async def test_sealed_in_the_middle_and_unsealed(bao: BaoServer, tmp_path: Path) -> None:
    """Sealed: what was remembered is used and says so, what wasn't may pass. Unsealed: Vault's again, by itself."""
    async with fleet(bao, tmp_path) as couriers:
        before = await read(couriers, 1)
        await end_of(couriers)
        bao.seal()
        try:
            remembered, unknown = await asyncio.gather(read(couriers, 1), read(couriers, 2), return_exceptions=True)
            with pytest.raises(CredentialsUnavailableError, match="it is sealed"):
                await couriers.version("ibkr/f1")
        finally:
            await asyncio.to_thread(bao.unseal)
        assert isinstance(remembered, Login)
        assert (remembered.user, remembered.source, remembered.version) == ("user1", "stored", before.version)
        assert remembered.notice is not None
        assert f"it is sealed. Using stored credentials of {before.written_at:%Y-%m-%d}, version 1" in remembered.notice
        assert isinstance(unknown, CredentialsUnavailableError)
        assert "There are no stored credentials for ibkr/f2" in str(unknown)
        await end_of(couriers)
        assert (await read(couriers, 1)).source == "vault"
        assert (await read(couriers, 2)).source == "vault"
    acts = await asyncio.to_thread(lambda: [entry["act"] for entry in AuditTrail(tmp_path).entries()])
    assert acts.count("fallback") == 1


async def test_killed_and_started_again(bao: BaoServer, tmp_path: Path) -> None:
    """Down from the start: each read may pass. Up: read. Killed: from memory. Up again: read, without anybody's help."""
    bao.kill()
    async with fleet(bao, tmp_path, VAULT_TOKEN=bao.root.token) as couriers:
        with pytest.raises(CredentialsUnavailableError, match="refused or lost"):
            await read(couriers)
        await asyncio.to_thread(bao.restart)
        await end_of(couriers)
        assert (await read(couriers)).source == "vault"
        await end_of(couriers)
        bao.kill()
        try:
            assert (await read(couriers)).source == "stored"
        finally:
            await asyncio.to_thread(bao.restart)
        await end_of(couriers)
        assert (await read(couriers)).source == "vault"


async def test_one_outage_is_one_backoff_for_the_whole_fleet(bao: BaoServer, tmp_path: Path) -> None:
    """A hundred followers wait while Vault can't be reached: it is asked four times in all, and every one is told."""
    with TcpProxy(bao.port) as proxy:
        proxy.mode = "reset"
        async with fleet(
            bao, tmp_path, address=proxy.address, shared_for=SILENCE
        ) as couriers:  # till the last has heard
            told = await asyncio.gather(*(read(couriers, number) for number in range(FLEET)), return_exceptions=True)
            assert {type(outcome) for outcome in told} == {CredentialsUnavailableError}
            assert len(proxy.requests) == 4
            proxy.mode = "pass"
            await end_of(couriers)
            assert (await read(couriers)).source == "vault"


async def test_an_answer_that_never_ends_costs_one_courier(bao: BaoServer, tmp_path: Path) -> None:
    """Where Vault dribbles an answer for ever, the courier that waits for it is given up, and the next one reads."""
    with TcpProxy(bao.port) as proxy:
        async with fleet(bao, tmp_path, address=proxy.address) as couriers:
            await read(couriers, 0)
            [stuck] = pids(couriers)
            for courier in couriers._live.values():  # not before it runs: its start may take long
                courier._silence = 8.0
            proxy.mode = "dribble"
            with pytest.raises(CredentialsUnavailableError, match="owed an answer for 8 s"):
                await read(couriers, 1)
            await until(lambda: not is_alive(stuck))
            proxy.mode = "pass"
            assert (await read(couriers, 1)).source == "vault"


async def test_a_token_revoked_in_the_middle_is_an_outage(bao: BaoServer, tmp_path: Path) -> None:
    """Our own token's end says nothing about the secret: memory steps in, and is not revoked."""
    token = bao.token("reader")
    async with fleet(bao, tmp_path, VAULT_TOKEN=token) as couriers:
        await read(couriers)
        await end_of(couriers)
        bao.root.auth.token.revoke(token)
        login = await read(couriers)
        assert login.source == "stored"
        assert "our token is no longer good" in str(login.notice)


async def test_denied_in_the_middle_is_never_answered_from_memory(bao: BaoServer, tmp_path: Path) -> None:
    """A policy taken back is a no for this and every later read, also while Vault is away."""
    bao.allow("passing", "secret/data/ibkr/*")
    async with fleet(bao, tmp_path, VAULT_TOKEN=bao.token("passing")) as couriers:
        await read(couriers)
        await end_of(couriers)
        bao.allow("passing", "secret/data/elsewhere")
        with pytest.raises(CredentialsRefusedError, match="denies us secret/ibkr/f0"):
            await read(couriers)
        await end_of(couriers)
        bao.seal()
        try:
            with pytest.raises(CredentialsUnavailableError, match="no stored credentials"):
                await read(couriers)
        finally:
            await asyncio.to_thread(bao.unseal)


async def test_deleted_and_undeleted(bao: BaoServer, tmp_path: Path) -> None:
    """Deleted: a no that the version's look finds too. Undeleted: the same version again."""
    engine = bao.root.secrets.kv.v2
    async with fleet(bao, tmp_path) as couriers:
        before = await read(couriers, 7)
        await end_of(couriers)
        engine.delete_latest_version_of_secret("ibkr/f7")
        with pytest.raises(CredentialsRefusedError, match="is deleted in Vault"):
            await couriers.version("ibkr/f7")
        assert await asyncio.to_thread(EncryptedCredentials.at(tmp_path).list) == ()
        engine.undelete_secret_versions("ibkr/f7", [1])
        assert (await read(couriers, 7)).version == before.version


async def test_a_new_version_is_noticed_without_reading_it(bao: BaoServer, tmp_path: Path) -> None:
    """A rotated secret has a new version for who asks, and the next read gives it."""
    async with fleet(bao, tmp_path) as couriers:
        before = await couriers.version("ibkr/f8")
        bao.put("ibkr/f8", IB_USER="user8", IB_PASS="rotated")
        after = await couriers.version("ibkr/f8")
        assert after != before
        assert (await read(couriers, 8)).version == after
    acts = await asyncio.to_thread(lambda: [entry["act"] for entry in AuditTrail(tmp_path).entries()])
    assert acts.count("read") == 1


async def test_every_courier_has_an_approle_token_of_its_own(bao: BaoServer, tmp_path: Path) -> None:
    """Each courier logs in by AppRole, and its token is revoked when it ends, as all its kind are in the end."""
    role, secret = bao.approle("fleet", "reader")
    async with fleet(bao, tmp_path, VAULT_ROLE_ID=role, VAULT_SECRET_ID=secret) as couriers:
        for _ in range(2):
            assert (await read(couriers)).source == "vault"
            during = approle_tokens(bao)
            await end_of(couriers)
            assert len(during) == len(approle_tokens(bao)) + 1


def approle_tokens(bao: BaoServer) -> list[str]:
    accessors = bao.root.list("auth/token/accessors")["data"]["keys"]
    policies = [bao.root.auth.token.lookup_accessor(accessor)["data"] for accessor in accessors]
    return [token["accessor"] for token in policies if token["path"] == "auth/approle/login"]


async def test_a_full_disk_stops_reads_and_not_the_rest(bao: BaoServer, tmp_path: Path) -> None:
    """Where nothing can be audited Vault isn't even asked, and the error says why."""
    (tmp_path / "audit.jsonl").mkdir()
    with TcpProxy(bao.port) as proxy:
        async with fleet(bao, tmp_path, address=proxy.address) as couriers:
            with pytest.raises(Exception, match="No secret is read until it can be"):
                await read(couriers)
            assert proxy.requests == []
            assert await couriers.version("ibkr/f1")
