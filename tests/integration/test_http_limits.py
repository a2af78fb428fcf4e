"""`http_address` under those who mean no good: TLS and its renewal, slow ones, many, and what is no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from spreadpilot_core.ibkr.access.attempts import MOST_REMEMBERED, Allowance, WrongTokens
from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.http_api import gates, limits, server, tls
from spreadpilot_core.ibkr.http_api.connections import LimitedSocket
from spreadpilot_core.ibkr.http_api.peers import network_of
from support.address import Address
from support.certificates import Certificates, make_certificates


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[Address]:
    address = Address(tmp_path)
    async with address.served():
        yield address


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    place = tmp_path / "certificates"
    place.mkdir()
    return make_certificates(place)


def _trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))


async def _shown(port: int, authority: Path) -> bytes:
    """The certificate that is shown to a client that believes this authority."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=await asyncio.to_thread(_trusting, authority))
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    del reader
    assert isinstance(shown, bytes)
    return shown


async def test_tls_is_spoken_and_a_renewed_certificate_is_read_again(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a real authority; the renewal needs no restart, a broken one changes nothing and is told, and cookies are for https."""
    monkeypatch.setattr(tls, "CHECK_EVERY", 0.05)
    cert, key = certificates.server, certificates.server_key
    address = Address(tmp_path, http_cert_file=cert, http_key_file=key)
    async with address.served():
        token = await address.token("viewer")
        url = f"https://127.0.0.1:{address.port}/v1"
        trusting = await asyncio.to_thread(_trusting, certificates.authority)
        async with address.http(token, base_url=url, verify=trusting) as http:
            assert (await http.get("/gateways")).status_code == 200
            signed_in = await http.post("/session", json={"token": token})
            assert signed_in.headers["set-cookie"].startswith("__Host-session=")
        with pytest.raises(httpx.TransportError):
            await address.ask("GET", "/gateways", token)
        first = await _shown(address.port, certificates.authority)
        await asyncio.to_thread(cert.write_bytes, b"nothing")
        async with asyncio.timeout(60):
            while not address.notices.get("http_cert_file"):
                await asyncio.sleep(0.02)
        assert await _shown(address.port, certificates.authority) == first
        renewed = tmp_path / "renewed"
        renewed.mkdir()
        others = await asyncio.to_thread(make_certificates, renewed)
        await asyncio.to_thread(shutil.copy, others.server_key, key)
        await asyncio.to_thread(shutil.copy, others.server, cert)
        async with asyncio.timeout(60):
            while address.notices["http_cert_file"] is not None:
                await asyncio.sleep(0.02)
        assert await _shown(address.port, others.authority) != first


async def test_files_that_are_no_certificate_stop_the_start(tmp_path: Path, certificates: Certificates) -> None:
    """With the setting, the file and why; also where the key is another one's."""
    for cert, key in (
        (certificates.server_key, certificates.server_key),
        (certificates.server, certificates.client_key),
        (tmp_path / "none.pem", certificates.server_key),
    ):
        address = Address(tmp_path, http_cert_file=cert, http_key_file=key)
        with pytest.raises(SettingsError, match="http_cert_file"):
            await asyncio.to_thread(tls.Certificate, cert, key)
        with pytest.raises(SettingsError, match="http_cert_file"):
            async with address.served():
                pass


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"G",
        b"GET /v1/gateways HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ",
        b"POST /v1/session HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{",
    ],
)
async def test_who_is_slow_is_not_waited_for(address: Address, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """A head, or a body, that comes byte by byte has its time altogether, however often something comes."""
    monkeypatch.setattr(server, "IDLE", 0.5)
    monkeypatch.setattr(limits, "BODY_WITHIN", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)

    async def drip() -> None:
        writer.write(said)
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"a" if said else b"")
                await writer.drain()
                await asyncio.sleep(0.05)

    dripping = asyncio.ensure_future(drip())
    try:
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                assert answer == b"" or answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400"))
    finally:
        dripping.cancel()
        await asyncio.wait({dripping})
        writer.close()


async def test_a_handshake_that_does_not_end_is_not_waited_for(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever connects and says nothing in TLS is closed, and counts among the connections meanwhile."""
    monkeypatch.setattr(server, "IDLE", 1.0)
    monkeypatch.setattr(server, "MOST_AT_AN_ADDRESS", 4)
    monkeypatch.setattr(server, "_ANSWERED_BEYOND", 0)
    address = Address(tmp_path, http_cert_file=certificates.server, http_key_file=certificates.server_key)
    async with address.served():
        silent = [await asyncio.open_connection("127.0.0.1", address.port) for _ in range(4)]
        with pytest.raises(OSError):  # noqa: PT011  # reset, or closed in the middle of the handshake
            await asyncio.wait_for(_shown(address.port, certificates.authority), 60)
        async with asyncio.timeout(60):
            for reader, writer in silent:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
            while True:
                with contextlib.suppress(OSError):
                    await _shown(address.port, certificates.authority)
                    break
                await asyncio.sleep(0.05)


async def test_connections_are_counted(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is answered so and closed, and served once there is room again."""
    monkeypatch.setattr(server, "MOST_AT_AN_ADDRESS", 3)
    idle = [await asyncio.open_connection("127.0.0.1", address.port) for _ in range(3)]
    assert b"503" in (await _raw(address, b"")).partition(b"\r\n")[0]
    for _, writer in idle:
        writer.close()
    async with asyncio.timeout(60):
        while b"401" not in await _raw(address, _GET):
            await asyncio.sleep(0.05)


_GET = b"GET /v1/gateways HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"x: y\r\n" * 10_000, 400),
        (b"GET /" + b"x" * 70_000, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400),
        (b"GET /v1/gateways HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/gateways HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n", 400),
        (b"GET /v1/gateways HTTP/1.0\r\n\r\n", 421),
        (b"POST /v1/session HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 400000000\r\n\r\n", 413),
    ],
)
async def test_what_is_no_request_of_ours_is_refused(address: Address, said: bytes, code: int) -> None:
    """In the form of every refusal, with what browsers are told, and nothing of a library's."""
    head, _, body = (await _raw(address, said)).partition(b"\r\n\r\n")
    assert f"HTTP/1.1 {code}".encode() == head[: len("HTTP/1.1 ") + 3]
    assert set(json.loads(body)) == {"error", "sentence", "hint"}
    assert b"content-security-policy" in head.lower()
    assert b"server:" not in head.lower()


async def _raw(address: Address, said: bytes) -> bytes:
    """What comes until the other side closes, or a whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    try:
        writer.write(said)
        answer = b""
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                while (came := await reader.read(65536)) != b"":
                    answer += came
                    if b"\r\n\r\n" in answer and answer.endswith(b"}"):
                        break
        return answer
    finally:
        writer.close()


async def test_who_asks_too_often_is_told_when_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token soon, with one much later; one caller takes nothing from another."""

    def ungrowing(*, burst: float, per_second: float, clock: Callable[[], float]) -> Allowance:
        return Allowance(burst=burst / 10, per_second=per_second / 100_000, clock=clock)

    monkeypatch.setattr(gates, "Allowance", ungrowing)
    address = Address(tmp_path)
    async with address.served():
        tokens = [await address.token("viewer") for _ in range(2)]
        async with address.http() as http:
            codes = [(await http.get("/gateways")).status_code for _ in range(8)]
        assert codes == [401] * 6 + [429] * 2
        async with address.http(tokens[0]) as http:
            codes = [(await http.get("/session")).status_code for _ in range(52)]
        assert codes == [200] * 50 + [429] * 2
        assert (await address.ask("GET", "/session", tokens[1])).status_code == 200


# ---------------------------------------------------------------------------------------------- in made-up time


def test_an_allowance_grows_back_and_forgets() -> None:
    """At its own pace, never beyond its burst, and of a bounded number of names."""
    now = 0.0
    allowance = Allowance(burst=2, per_second=0.5, clock=lambda: now)
    assert [allowance.take("a") for _ in range(3)] == [0.0, 0.0, 2.0]
    now = 2.0
    assert [allowance.take("a"), allowance.take("b")] == [0.0, 0.0]
    now = 1000.0
    assert [allowance.take("a") for _ in range(3)] == [0.0, 0.0, 2.0]
    for number in range(10 * MOST_REMEMBERED):
        allowance.take(str(number))
    assert len(allowance) == MOST_REMEMBERED


def test_wrong_tokens_are_reported_once_a_minute() -> None:
    """With how many there were since; each answer waits longer than the one before, to a cap."""
    now = 0.0
    wrong = WrongTokens(lambda: now)
    found = [wrong.count("peer") for _ in range(5)]
    assert [each.unreported for each in found] == [1, 0, 0, 0, 0]
    assert [each.pause for each in found] == sorted(each.pause for each in found)
    now = 61.0
    assert wrong.count("peer").unreported == 5
    assert not wrong.is_quiet()
    now = 200.0
    assert wrong.is_quiet()


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.9", "10.0.0.9"),
        ("::ffff:10.0.0.9", "10.0.0.9"),
        ("::1", "::1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("\x1b[2Jx", "[2Jx"),
        ("", "somewhere"),
    ],
)
def test_a_peer_is_what_one_customer_has(host: str, network: str) -> None:
    """Whoever has one address of an IPv6 network has all of them; what is no address is printable."""
    assert network_of(host) == network


def test_one_peer_takes_not_all_connections() -> None:
    """What is beyond its share is closed at once, and the others are served."""
    listening = socket.create_server(("127.0.0.1", 0))
    with LimitedSocket.of(listening, most=3, most_of_a_peer=2) as limited:
        at = limited.getsockname()
        held = [(socket.create_connection(at), limited.accept()[0]) for _ in range(2)]
        beyond = socket.create_connection(at)
        with pytest.raises(ConnectionAbortedError):
            limited.accept()
        assert beyond.recv(1) == b""
        held[0][1].close()
        again = socket.create_connection(at)
        accepted, _ = limited.accept()
        for each in (beyond, again, accepted, *held[0], *held[1]):
            each.close()


async def test_an_answer_is_sent_at_once() -> None:
    """Each connection is known to be TCP, so that asyncio does not let an answer's body wait for its head's acknowledgement."""
    made = socket.create_server(("127.0.0.1", 0))
    with (
        LimitedSocket.of(made, most=1, most_of_a_peer=1) as listening,
        socket.create_connection(listening.getsockname()),
    ):
        connection, _ = await asyncio.to_thread(listening.accept)
        _, writer = await asyncio.open_connection(sock=connection)
        assert writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        await writer.wait_closed()
