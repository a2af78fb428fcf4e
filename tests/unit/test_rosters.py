"""Documents of any store, sorted into usable followers and faulty records."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.store.rosters import parse_roster

LONG = "x" * 129


def a_document(**fields: Any) -> dict[str, Any]:
    return {"id": "anna", "vault_secret_ref": "ibkr/anna", **fields}


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (
            {"vault_secret_ref": None},
            "vault_secret_ref is missing, but it must name the secret that holds the login.",
        ),
        ({"vault_secret_ref": " "}, "vault_secret_ref is empty, but it must name the secret that holds the login."),
        (
            {"vault_secret_ref": {"password": "hunter2"}},
            "vault_secret_ref is a table, but it must be text that names the secret.",
        ),
        (
            {"vault_secret_ref": None, "ibkr_secret_ref": 7},
            "ibkr_secret_ref is a number, but it must be text that names the secret.",
        ),
        ({"enabled": "yes"}, "enabled is 'yes', but it must be true or false."),
        ({"enabled": 1}, "enabled is 1, but it must be true or false."),
        ({"state": 3}, "state is 3, but it must be text."),
        ({"trading_mode": "demo"}, 'trading_mode is \'demo\', but it must be "paper" or "live".'),
        ({"trading_mode": ["live"]}, 'trading_mode is [\'live\'], but it must be "paper" or "live".'),
        ({"account": 1234567}, "account is 1234567, but it must be text."),
        ({"account": ""}, "account is empty, but it must be text; leave the field out instead."),
        ({"phone_owner": True}, "phone_owner is True, but it must be text."),
        ({"phone_owner": "Anna "}, "phone_owner is 'Anna ', but it must not begin or end with a space."),
        ({"state": "Active"}, "state is 'Active', but it must be \"ACTIVE\", or another word for no gateway."),
        ({"state": " ACTIVE"}, "state is ' ACTIVE', but it must not begin or end with a space."),
        (
            {"account": "not an account"},
            "account is 'not an account', but it must be an IBKR account such as \"U1234567\".",
        ),
        (
            {"vault_secret_ref": "../../x"},
            "vault_secret_ref is '../../x', but it must be the path of a secret, like \"ibkr/alice\".",
        ),
        (
            {"vault_secret_ref": "secret/"},
            "vault_secret_ref is 'secret/', but it must be the path of a secret, like \"ibkr/alice\".",
        ),
        (
            {"gateway": {"enabled": True}},
            "gateway.enabled is unknown: enabled belongs to the follower itself, before [follower.gateway].",
        ),
        (
            {"gateway": {"port": 5000}},
            (
                "gateway.port is 5000, but it must be one of the manager's ports, 4100 to 4200"
                " (port_range_start, port_range_end)."
            ),
        ),
        ({"gateway": {"port": 0}}, "gateway.port is 0, but it must be greater than or equal to 1."),
        (
            {"region": "atlantis"},
            "region is 'atlantis', but it must be one of north_america, europe, asia_pacific_1, asia_pacific_2.",
        ),
        ({"gateway": "big"}, "gateway is text, but it must be a table of options."),
        (
            {"gateway": {"java_heap": 1024}},
            (
                "gateway.java_heap is unknown (java_heap_mib was meant?); the options are image, image_contract,"
                " read_only_api, existing_session_action, reset_window_wait, auto_restart_time, time_zone, java_heap_mib, vnc, port."
            ),
        ),
        (
            {"gateway": {"java_heap_mib": "big"}},
            "gateway.java_heap_mib is 'big', but it must be a valid integer.",
        ),
        (
            {"gateway": {"java_heap_mib": 8}},
            "gateway.java_heap_mib is 8, but it must be greater than or equal to 256.",
        ),
        (
            {"gateway": {"image": "ghcr.io//gateway"}},
            "gateway.image is 'ghcr.io//gateway', but it must be an image's name such as \"ghcr.io/gnzsnz/ib-gateway:stable\".",
        ),
        ({"gateway": {"vnc": "on"}}, "gateway.vnc is 'on', but it must be a valid boolean."),
        (
            {"gateway": {"auto_restart_time": "23:45"}},
            "gateway.auto_restart_time is '23:45', but it must look like \"11:45 PM\".",
        ),
    ],
)
def test_fault_is_one_exact_sentence(fields: dict[str, Any], fault: str) -> None:
    """Each kind of broken record says which field, which value and what is allowed, and stays alone with it."""
    for shared in (False, True):
        roster = parse_roster([a_document(**fields), a_document(id="bert")], shared=shared, ports=range(4100, 4201))
        assert list(roster.usable) == ["bert"]
        assert {name: each.fault for name, each in roster.faulty.items()} == {"anna": fault}


@pytest.mark.parametrize(
    ("name", "fault", "notice"),
    [
        (
            "enbled",
            "enbled is unknown (enabled was meant?); the fields are id, ",
            "enabled is missing: was enabled meant?",
        ),
        ("tradingMode", "tradingMode is unknown", "trading_mode is missing: was trading_mode meant?"),
        ("commission_pct", "commission_pct is unknown; ", None),
        ("accounts", "accounts is unknown (account was meant?); ", None),
        ("time_zone", "time_zone stands outside of gateway", "it belongs into gateway."),
        ("read_only_api", "read_only_api stands outside of gateway", "it belongs into [follower.gateway]."),
    ],
)
def test_unknown_names_are_the_owners_slips_or_another_programs_fields(
    name: str, fault: str, notice: str | None
) -> None:
    """In a file of our own each is a fault; in shared documents only what nobody else would write, the rest is a notice or nothing."""
    (faulty,) = parse_roster([a_document(**{name: True})]).faulty.values()
    assert faulty.fault.startswith(fault)
    shared = parse_roster([a_document(**{name: True})], shared=True)
    told = [
        *(each.fault for each in shared.faulty.values()),
        *(said for all_ in shared.notices.values() for said in all_),
    ]
    assert ([each.endswith(notice) for each in told] == [True]) if notice is not None else (told == [])
    assert bool(shared.faulty) == (name == "read_only_api")


def test_a_field_that_is_there_is_no_slip_of_another() -> None:
    """A shared record that says `enabled` itself may hold whatever else looks like it."""
    assert not parse_roster([a_document(enabled=True, enbled=False)], shared=True).notices


def test_a_port_is_pinned_once_among_those_who_want_a_gateway() -> None:
    """Two enabled followers with one port are both named; a disabled one may keep its pin."""
    pin = {"gateway": {"port": 4107}, "enabled": True}
    roster = parse_roster(
        [a_document(**pin), a_document(id="bert", **pin), a_document(id="cleo", **pin | {"enabled": False})]
    )
    assert list(roster.usable) == ["cleo"]
    fault = "gateway.port is 4107 in 2 records, but each port may be pinned only once."
    assert {name: each.fault for name, each in roster.faulty.items()} == {"anna": fault, "bert": fault}


def test_a_broken_record_that_is_disabled_says_so() -> None:
    """An explicit `enabled = false` is understood whatever else is wrong; of two records of one id both must say it."""
    roster = parse_roster(
        [
            a_document(enabled=False, colour=1),
            a_document(id="bert", enabled=False),
            a_document(id="bert", enabled=True),
            a_document(id="cleo", enabled="no"),
        ]
    )
    assert {name: each.is_disabled for name, each in roster.faulty.items()} == {
        "anna": True,
        "bert": False,
        "cleo": False,
    }


@pytest.mark.parametrize(
    ("document", "name", "fault"),
    [
        (
            {"vault_secret_ref": "ibkr/anna"},
            "record 2",
            "id is missing, and so is _id: one must have 1 to 128 printable characters.",
        ),
        (a_document(id=""), "record 2", "id is empty, but it must have 1 to 128 printable characters."),
        (a_document(id=LONG), "record 2", "id has 129 characters, but at most 128 are allowed."),
        (a_document(id="alice "), "record 2", "id is 'alice ', but it must not begin or end with a space."),
        (a_document(id="a\nb"), "record 2", "id is 'a\\nb', but it must have printable characters only."),
        (a_document(id=7), "record 2", "id is a number, but it must be text of 1 to 128 printable characters."),
        (a_document(id="", _id="5f3e"), "record 5f3e", "id is empty, but it must have 1 to 128 printable characters."),
        (None, "record 2", "The record is a NoneType, but it must be a mapping of field names to values."),
        ([1], "record 2", "The record is a list, but it must be a mapping of field names to values."),
        ("anna", "record 2", "The record is text, but it must be a mapping of field names to values."),
    ],
)
def test_record_without_a_legal_id_is_named_by_its_place(document: Any, name: str, fault: str) -> None:
    """Where a record has no usable id of its own, it is found by the store's key, else by its place."""
    roster = parse_roster([a_document(id="bert"), document])
    assert list(roster.usable) == ["bert"]
    assert {key: (each.id, each.fault) for key, each in roster.faulty.items()} == {name: (name, fault)}


def test_shared_id_makes_both_faulty() -> None:
    """Of two records with one id neither is trusted; one entry names the id, others are untouched."""
    roster = parse_roster([a_document(), a_document(id="bert"), {"_id": "anna", "vault_secret_ref": "x"}])
    assert list(roster.usable) == ["bert"]
    assert {name: each.fault for name, each in roster.faulty.items()} == {
        "anna": "id is 'anna' in 2 records, but each id may be there only once."
    }


def test_place_never_hides_another_record() -> None:
    """A follower that is really called "record 2" is not confused with the record in the second place."""
    roster = parse_roster([a_document(id="record 2", enabled="yes"), {}, {"id": "record 3", "vault_secret_ref": "x"}])
    assert list(roster.faulty) == ["record 2", "record 2'"]
    assert list(roster.usable) == ["record 3"]


def test_defaults_are_the_careful_ones() -> None:
    """Missing or null fields mean: not enabled, ACTIVE, paper, any account, no override."""
    nothing = dict.fromkeys(["enabled", "state", "trading_mode", "account", "phone_owner", "region", "gateway"])
    for document in (a_document(), a_document(**nothing)):
        anna = parse_roster([document]).usable[FollowerId("anna")]
        assert (anna.enabled, anna.state, anna.trading_mode, anna.is_wanted) == (
            False,
            "ACTIVE",
            TradingMode.PAPER,
            False,
        )
        assert (anna.account, anna.phone_owner, anna.region) == (None, None, None)
        assert anna.gateway.model_dump(exclude_none=True) == {}


def test_id_goes_before_the_stores_key() -> None:
    """`id` names the follower where both are there; `_id` does where `id` is missing."""
    roster = parse_roster([a_document(_id="5f3e"), {"_id": "bert", "vault_secret_ref": "x"}])
    assert list(roster.usable) == ["anna", "bert"]


def test_secret_reference_falls_back_to_the_older_name() -> None:
    """`vault_secret_ref` wins; SpreadPilot's `ibkr_secret_ref` serves where it is missing."""
    both = a_document(ibkr_secret_ref="old/anna")
    old = {"id": "bert", "ibkr_secret_ref": "old/bert"}
    assert [each.vault_secret_ref for each in parse_roster([both, old]).usable.values()] == ["ibkr/anna", "old/bert"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=140),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
field_names = st.sampled_from(
    ["id", "_id", "vault_secret_ref", "enabled", "state", "trading_mode", "account", "region", "gateway", "other"]
)


@given(st.lists(st.one_of(json_values, st.dictionaries(field_names, json_values, max_size=6)), max_size=8))
def test_any_garbage_is_accounted_for(documents: list[Any]) -> None:
    """Whatever a store holds: nothing raises, each fault is one short line, and a good record beside it is usable."""
    roster = parse_roster([*documents, a_document(id="the good one")])
    assert "the good one" in {*roster.usable, *roster.faulty}
    assert len(roster.usable) + len(roster.faulty) <= len(documents) + 1
    assert not roster.usable.keys() & roster.faulty.keys()
    for fault in roster.faulty.values():
        assert fault.fault.endswith((".", ")"))
        assert "\n" not in fault.fault
        assert len(fault.fault) < 500


def test_one_login_of_several_followers_is_told_to_each_who_wants_a_gateway() -> None:
    """However the reference is written: IBKR has one user logged in once. Who is disabled takes it from nobody."""
    documents = [
        {"id": name, "vault_secret_ref": ref, "enabled": enabled}
        for name, ref, enabled in (
            ("anna", "ibkr/one", True),
            ("ben", "/ibkr/one", True),
            ("carl", "ibkr/two", True),
            ("dora", "ibkr/two", False),
        )
    ]
    told = parse_roster(documents).notices
    assert set(told) == {"anna", "ben"}
    assert "Its login ibkr/one is ben's as well" in told[FollowerId("anna")][0]
    documents.append({"id": "emil", "vault_secret_ref": "ibkr/one", "enabled": True})
    assert "that of 2 others, such as anna" in parse_roster(documents).notices[FollowerId("ben")][0]
