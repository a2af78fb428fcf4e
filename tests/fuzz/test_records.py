"""Followers' records as TOML and BSON, and the manager's own documents: what can't be used is named, and harms nobody else."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
from bson import Binary, Code, Decimal128, Int64, MaxKey, ObjectId, Regex, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.store.documents import HISTORY, LOGINS, MAPPINGS, RECORDS
from spreadpilot_core.ibkr.store.local.followers_file import parse_followers
from spreadpilot_core.ibkr.store.rosters import parse_roster
from support.fuzzing import for_a_while, fuzzed, odd_values, some, spoiled

FIELDS = [
    *("id", "vault_secret_ref", "ibkr_secret_ref", "enabled", "state", "trading_mode", "account"),
    *("phone_owner", "region", "gateway"),
]
GOOD = {"id": "good", "vault_secret_ref": "ibkr/good", "enabled": True}

mongo_values = st.sampled_from(
    [
        ObjectId(),
        Decimal128("1e30"),
        Int64(2**62),
        Binary(b"\x00" * 100),
        Regex("^x"),
        MaxKey(),
        Timestamp(1, 1),
        Code("function(){}"),
        datetime(9999, 12, 31, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
    ]
)
field_values = st.one_of(odd_values, mongo_values, st.sampled_from(["good", "live", "paper", "ACTIVE", True, "ibkr/x"]))
fields = st.dictionaries(
    st.sampled_from(["_id", *FIELDS, *GatewayOptions.model_fields, "enbled"]) | st.text(max_size=8),
    field_values,
    max_size=6,
)
options = st.dictionaries(
    st.sampled_from(list(GatewayOptions.model_fields)) | st.text(max_size=8), field_values, max_size=4
)
documents = st.builds(lambda some, gateway: some | {"gateway": gateway}, fields, options) | fields


def as_bson(document: Any) -> Any:
    """As it comes out of MongoDB; what MongoDB doesn't take can't be there."""
    try:
        return bson.decode(bson.encode(document))
    except Exception:  # noqa: BLE001  # whatever the encoder refuses
        return None


@fuzzed
def test_a_record_harms_itself_alone(seconds: float) -> None:
    """Every document is a usable follower or a fault in one short sentence, and the good one beside them is read."""

    @some
    @given(st.lists(documents, max_size=4))
    def check(odd: list[Any]) -> None:
        stored = [document for each in odd if (document := as_bson(each)) is not None]
        named_good = any("good" in (each.get("id"), each.get("_id")) for each in stored)
        roster = parse_roster([*stored, GOOD])
        assert named_good or "good" in roster.usable
        assert all(len(each.fault) < 1000 for each in roster.faulty.values())
        assert all(len(name) <= 200 for name in (*roster.usable, *roster.faulty))

    for_a_while(seconds, check)


TOML = b"""# the fleet
[[follower]]
id = "anna"
vault_secret_ref = "ibkr/anna"
enabled = true
trading_mode = "live"

[follower.gateway]
java_heap_mib = 1024
auto_restart_time = "11:45 PM"

[[follower]]
id = "bert"
vault_secret_ref = 'ibkr/bert'
state = \"\"\"ACTIVE\"\"\"
"""


@fuzzed
def test_a_file_is_read_or_refused(seconds: float) -> None:
    """Whatever became of `followers.toml`, it is a roster or one error that names the file."""

    @some
    @given(spoiled(TOML))
    def check(content: bytes) -> None:
        with suppress(StoreDamagedError):
            roster = parse_followers(content, Path("followers.toml"))
            assert all(each.fault for each in roster.faulty.values())

    for_a_while(seconds, check)


@fuzzed
def test_a_kept_document_is_understood_or_named(seconds: float) -> None:
    """Documents of the manager's own that somebody has changed: the thing, or an error that names the document."""
    kinds = {
        "follower_id": odd_values,
        **dict.fromkeys(
            ("id", "user", "client_id", "needs_human", "updated_at", "reserved_at", "outcome", "host_port"), odd_values
        ),
    }

    @some
    @given(
        st.sampled_from([RECORDS, LOGINS, MAPPINGS, HISTORY]), st.fixed_dictionaries({}, optional=kinds) | odd_values
    )
    def check(kind: Any, document: Any) -> None:
        with suppress(StoreDamagedError):
            thing = kind.read(document, where="the test")
            assert kind.read(kind.dump(thing), where="the test") is not None

    for_a_while(seconds, check)
