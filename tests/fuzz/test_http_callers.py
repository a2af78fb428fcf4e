"""What callers of each role, and none, may send to `http_address`: by its own description, and what no description allows."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.generation.case import Case
from schemathesis.specs.openapi.checks import ignored_auth, missing_required_header

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.http_api import gates
from support.address import Address
from support.fuzzing import for_a_while, fuzzed, some

ENDLESS = "/v1/events"
"""It has tests of its own."""
AWAY = 503
CHANGES_NOTHING = {
    "list_gateways",
    "get_gateway",
    "availability",
    "read_history",
    "missing_followers",
    "left_alone",
    "list_notices",
}
"""Calls that change nothing."""


@contextmanager
def served(address: Address) -> Iterator[asyncio.AbstractEventLoop]:
    """On a loop of its own, in another thread."""
    loop, ready, end = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with address.served():
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield loop
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(60)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def on(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
    """What this comes to, on that loop."""
    return asyncio.run_coroutine_threadsafe(work, loop).result(60)


@pytest.fixture(autouse=True)
def without_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody may ask as often as they like; how wrong tokens are slowed down has tests of its own."""
    monkeypatch.setattr(gates.Allowance, "take", lambda *_: 0.0)


@fuzzed
@pytest.mark.parametrize("role", [None, *Role])
def test_every_role_has_answers_as_they_are_described(tmp_path: Path, seconds: float, role: Role | None) -> None:
    """Those that fit the description and those that don't; what the role does not cover is refused, and nothing is done."""
    address = Address(tmp_path)
    with served(address) as loop, httpx.Client(base_url=f"http://127.0.0.1:{address.port}", timeout=60) as http:
        operator = on(loop, address.token("operator"))
        token = on(loop, address.token(role)) if role is not None else None
        described = http.get("/v1/openapi.json", headers={"Authorization": f"Bearer {operator}"}).json()
        schema = schemathesis.openapi.from_dict(described)
        schema.config.update(base_url=f"http://127.0.0.1:{address.port}")
        load_all_checks()
        operations = [each.ok() for each in schema.get_all_operations() if each.ok().path != ENDLESS]
        modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

        @settings(some, max_examples=25)
        @given(st.one_of(each.as_strategy(generation_mode=mode) for each in operations for mode in modes))
        def answered(case: Case) -> None:
            address.manager.calls.clear()
            asked = case.as_transport_kwargs(base_url=f"http://127.0.0.1:{address.port}")
            request = {name: asked[name] for name in ("params", "json", "data") if asked.get(name) is not None}
            if "data" in request:
                request["content"] = request.pop("data")
            headers = {name: value for name, value in asked["headers"].items() if name.lower() not in _OUR_OWN}
            shown = {"Authorization": f"Bearer {token}"} if token is not None else {}
            response = http.request(asked["method"], asked["url"], headers=headers | shown, **request)
            case.validate_response(
                response, excluded_checks=[not_a_server_error, ignored_auth, missing_required_header]
            )
            assert response.status_code < 500 or response.status_code == AWAY, response.text
            needed = described["paths"][case.path][case.method.lower()]["x-role"]
            if needed is not None and (role is None or not role.covers(Role(needed))):
                assert response.status_code in (401, 403, 404, 405), response.text
                assert address.manager.calls == []

        for_a_while(seconds / (1 + len(Role)), answered)
        assert http.get("/v1/gateways", headers={"Authorization": f"Bearer {operator}"}).status_code == 200


_OUR_OWN = {"authorization", "cookie", "host", "content-length", "transfer-encoding"}
"""Of these the test says what is sent."""


# ---------------------------------------------------------------------------------------------- headers and cookies

_TOKEN_CHARACTERS = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=300)
_NAMES = st.sampled_from(
    [
        *("authorization", "cookie", "host", "origin", "x-csrf-token", "x-forwarded-for", "last-event-id", "accept"),
        *(
            "content-type",
            "content-length",
            "transfer-encoding",
            "expect",
            "operator",
            "sec-fetch-site",
            "upgrade",
            "connection",
        ),
    ]
)
_VALUES = st.one_of(
    _TOKEN_CHARACTERS,
    st.sampled_from(
        ["Bearer gm_", "session=", "session=;session=x", "__Host-session=x", "chunked", "0", "-1", "websocket"]
    ),
    _TOKEN_CHARACTERS.map(lambda text: f"Bearer {text}"),
    _TOKEN_CHARACTERS.map(lambda text: f"session={text}"),
)
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=6)
_LINES = st.tuples(
    st.sampled_from(["GET", "POST", "DELETE", "OPTIONS", "TRACE", "HEAD"]),
    st.sampled_from(
        ["/v1/gateways", "/v1/session", "/v1/gateways/alice/stop", "/v1/%00", "//v1/gateways", "/v1/gateways/..%2f"]
    ),
)


@fuzzed
def test_no_headers_or_cookies_let_anybody_in(tmp_path: Path, seconds: float) -> None:
    """Whatever is sent: a refusal in our form or a closed connection, nothing done, and the server serves on."""
    address = Address(tmp_path)
    with served(address) as loop:
        token = on(loop, address.token("operator"))

        @some
        @given(_LINES, _HEADERS)
        def refused(line: tuple[str, str], headers: list[tuple[str, str]]) -> None:
            sent = [f"{line[0]} {line[1]} HTTP/1.1", "connection: close"]
            if not any(name == "host" for name, _ in headers):
                sent.append("host: 127.0.0.1")
            sent += [f"{name}: {value}" for name, value in headers]
            answer = on(loop, _answered(address, "\r\n".join(sent).encode("latin-1") + b"\r\n\r\n"))
            if answer:
                code = int(answer[9:12])
                assert code in (400, 401, 403, 404, 405, 408, 413, 421, 422, 429), answer
            assert {call[0] for call in address.manager.calls} <= CHANGES_NOTHING

        for_a_while(seconds, refused)
        assert on(loop, address.ask("GET", "/gateways", token)).status_code == 200


async def _answered(address: Address, said: bytes) -> bytes:
    """The first line; whoever promises a body and sends none need not be waited for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    try:
        writer.write(said)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(reader.readline(), 60)
        return b""
    finally:
        writer.close()
