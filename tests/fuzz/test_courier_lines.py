"""The lines between manager and courier: whatever one side says, the other goes on, and no password is in any of them."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.broker import CourierBroker
from spreadpilot_core.ibkr.credentials.courier.held_secrets import HeldSecrets
from spreadpilot_core.ibkr.credentials.courier.process import Courier, LineWriter
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Login
from support.fuzzing import for_a_while, fuzzed, odd_bytes, odd_scalars, odd_values, some

PASSWORD = "planted-password"

requests = st.fixed_dictionaries(
    {
        "id": st.integers(1, 9) | odd_scalars,
        "do": st.sampled_from(["read", "version", "deliver", "forget"]) | odd_scalars,
    },
    optional={
        "ref": st.just("a") | odd_values,
        "controller": st.sampled_from(["ibc", "ibcontroller"]) | odd_scalars,
        "follower": odd_values,
        "ticket": odd_values,
        "delivery_target": odd_values,
    },
).map(lambda request: json.dumps(request).encode())


@fuzzed
def test_a_courier_answers_whatever_it_is_asked(seconds: float, tmp_path: Path) -> None:
    """Every line is answered or called nonsense, a good question after them is answered, and no answer holds a password."""
    EncryptedCredentials.at(tmp_path).set("a", "user-a", PASSWORD)

    @some
    @given(st.lists(requests | odd_bytes, max_size=6))
    def check(lines: list[bytes]) -> None:
        told = io.BytesIO()
        held_secrets = HeldSecrets(EncryptedCredentials.at(tmp_path), AuditTrail(tmp_path), who="tester")
        courier = Courier(held_secrets, LineWriter(told).answer)
        asked = b"\n".join([*lines, json.dumps({"id": 99, "do": "version", "ref": "a", "follower": "f"}).encode(), b""])
        assert courier.serve(io.BytesIO(asked)) is False
        for pool in (courier._readers, courier._deliverers):
            pool.shutdown(wait=True)
        answers: list[dict[str, Any]] = [json.loads(line) for line in told.getvalue().splitlines()]
        assert [
            each["version"].partition("-")[0] for each in answers if each.get("id") == 99 and "version" in each
        ] == ["1"]
        assert PASSWORD.encode() not in told.getvalue()
        assert all(len(line) < 2**18 for line in told.getvalue().splitlines())

    for_a_while(seconds, check)
    assert AuditTrail(tmp_path).verify().is_whole


answers = st.one_of(
    odd_bytes,
    st.fixed_dictionaries(
        {"id": st.integers(1, 3) | odd_scalars},
        optional={
            "error": st.fixed_dictionaries({}, optional={"kind": odd_values, "what": odd_values, "hint": odd_values})
            | odd_values,
            **dict.fromkeys(
                ("user", "version", "source", "written_at", "ticket", "notice", "renew_within"), odd_values
            ),
            "said": odd_values,
        },
    ).map(lambda answer: json.dumps(answer).encode()),
)


@fuzzed
def test_a_manager_takes_whatever_a_courier_says(seconds: float, tmp_path: Path) -> None:
    """Who asked gets a login or our error, and the next question starts another courier."""
    path = tmp_path / "said"

    @settings(some, max_examples=12)
    @given(st.lists(answers, max_size=5))
    def check(lines: list[bytes]) -> None:
        path.write_bytes(b"\n".join([*lines, b""]))
        asyncio.run(ask())

    async def ask() -> None:
        couriers = CourierBroker({}, command=("/bin/cat", str(path)), environment={}, silence=20.0)
        try:
            for _ in range(2):
                with suppress(GatewayManagerError):
                    login = await couriers.read("a", "ibc", follower_id=FollowerId("f"))
                    assert isinstance(login, Login)
                    assert all(isinstance(each, str) for each in (login.user, login.version, login.ticket))
        finally:
            await couriers.close()

    for_a_while(seconds, check)
