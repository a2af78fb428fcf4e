"""Whatever stands in the encrypted store: refused in words, or the password that was put there; never another one."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.credentials.sources.encrypted import sealed_file
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.errors import GatewayManagerError
from support.fuzzing import for_a_while, fuzzed, odd_texts, odd_values, scratch, some, spoiled

KNOWN = {"a": "one", "b": "two"}


@fuzzed
def test_a_password_is_the_right_one_or_none(seconds: float, tmp_path: Path) -> None:
    """With bytes spoiled, or fields replaced under a checksum made anew, every call ends in an answer or in our error."""
    store = EncryptedCredentials.at(tmp_path)
    for ref, password in KNOWN.items():
        store.set(ref, f"user-{ref}", password)
    content, key = store.path.read_bytes(), (tmp_path / "credentials.key").read_bytes()
    body = json.loads(content)["body"]
    fields = st.sampled_from([*body, *body["entries"]["a"], "entry"])

    def forged(change: tuple[str, object, str]) -> bytes:
        name, odd, other = change
        forged = json.loads(json.dumps(body))
        if name in forged:
            forged[name] = odd
        elif name == "entry":
            forged["entries"] |= {"a": odd, other: forged["entries"]["b"]}
        else:
            forged["entries"]["a"][name] = odd
        return sealed_file.written(forged)

    @some
    @given(spoiled(content) | st.tuples(fields, odd_values, odd_texts).map(forged), st.just(key) | spoiled(key))
    def check(found: bytes, key: bytes) -> None:
        with scratch() as place:
            store = EncryptedCredentials.at(place)
            store.path.write_bytes(found)
            (place / "credentials.key").write_bytes(key)
            for ref, password in KNOWN.items():
                with suppress(GatewayManagerError):
                    assert store.read(ref).password == password
            for call in (store.list, lambda: store.version("a"), lambda: store.remove("b"), store.rotate_key):
                with suppress(GatewayManagerError):
                    call()
            with suppress(GatewayManagerError):
                store.set("a", "u", "anew")
                assert store.read("a").password == "anew"

    for_a_while(seconds, check)
