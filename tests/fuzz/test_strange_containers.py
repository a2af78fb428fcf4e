"""Whatever a stranger's container says of itself: no error, nothing that is taken for a gateway, and no neighbour harmed."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.model.records import Identities, Record
from spreadpilot_core.ibkr.runtimes.docker.containers import (
    HealthCheck,
    Labelled,
    container_config,
    doubtful_settings,
    foreign_from,
    gateway_from,
    last_words,
)
from spreadpilot_core.ibkr.runtimes.docker.naming import FOLLOWER, IDENTITY, USER, Naming
from spreadpilot_core.ibkr.runtimes.images import identify
from spreadpilot_core.ibkr.supervision.ownership import claim
from support.docker_specs import spec
from support.fuzzing import for_a_while, fuzzed, odd_texts, some

OURS = Identities("1d3nt1ty")
NAMING = Naming("ibgateway-follower", OURS)
IMAGE = identify(
    "gateway:test", {"Id": "sha256:1", "Config": {"Env": ["IBC_APP_DIR=/x"], "Cmd": ["/run"], "User": "1000"}}
)
LONGEST_REPORT = 2000


def gateway(number: int) -> dict[str, Any]:
    """The engine's inspection of a gateway that this manager has made."""
    made = container_config(
        IMAGE, spec(), Labelled(4107, 1003), naming=NAMING, api=(1, 41), health=HealthCheck(), version="9.9"
    )
    return {
        "Id": f"{number:064x}",
        "Name": "/ibgateway-follower-alice",
        "Image": "sha256:1",
        "Config": {name: made[name] for name in ("Labels", "Image", "Env", "Entrypoint")},
        "HostConfig": made["HostConfig"],
        "State": {"Status": "running", "Running": True, "StartedAt": "2026-11-24T10:00:00.1Z", "ExitCode": 0},
        "NetworkSettings": {"Ports": {}},
    }


LABELS = sorted(gateway(0)["Config"]["Labels"])
texts = odd_texts | st.sampled_from(
    ["ibc", "paper", "live", "4107", "-1", "٤١٠٧", "1" * 5000, "alice", "1d3nt1ty", "other"]
)
some_texts = st.lists(texts, max_size=4)
places = st.sampled_from(
    [
        *(("Config", "Labels", each) for each in LABELS),
        ("Config", "Image"),
        ("Config", "User"),
        ("Name",),
        ("State", "StartedAt"),
        ("State", "FinishedAt"),
        ("State", "Status"),
        ("HostConfig", "NetworkMode"),
    ]
)
"""Where a text stands that somebody chose who made a container or an image, or that an engine of another version words anew."""
lists = st.sampled_from([("Config", "Env"), ("Config", "Entrypoint")])
bindings = st.lists(st.fixed_dictionaries({"HostIp": texts, "HostPort": texts}), max_size=3)
ports = st.dictionaries(texts | st.just("5900/tcp"), st.none() | bindings, max_size=3)
change = st.one_of(
    st.tuples(places, texts),
    st.tuples(lists, st.none() | some_texts),
    st.tuples(st.just(("HostConfig", "PortBindings")), st.none() | ports),
    st.tuples(st.just(("NetworkSettings", "Ports")), st.none() | ports),
    st.tuples(st.just(("HostConfig", "Tmpfs")), st.none() | st.dictionaries(texts, texts, max_size=2)),
    st.tuples(st.just(("HostConfig", "RestartPolicy")), st.none() | st.fixed_dictionaries({"Name": texts})),
    st.tuples(st.just(("Config", "Labels")), st.none() | st.dictionaries(texts | st.sampled_from(LABELS), texts)),
)


def changed(number: int, changes: list[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """A gateway's inspection, changed in these places."""
    inspection = copy.deepcopy(gateway(number))
    for (*way, last), value in changes:
        at: Any = inspection
        for step in way:
            at = at[step] = at[step] or {}
        at[last] = value
    return inspection


@fuzzed
def test_a_stranger_is_left_alone_and_the_gateway_beside_it_is_not(seconds: float) -> None:
    """Each container is understood or refused by itself; the gateway that the record names is claimed, and nothing else."""

    @some
    @example([[(("Config", "Labels", FOLLOWER), "x" * 70_000)]], True)
    @example([[(("Config", "Labels", IDENTITY), "x" * 70_000)]], True)
    @example([[(("Name",), "x" * 70_000)]], False)
    @example([[(("Config", "Labels", USER), "x" * 70_000), (("Config", "Labels", IDENTITY), "other")]], True)
    @given(st.lists(st.lists(change, max_size=5), max_size=4), st.booleans())
    def check(strangers: list[list[tuple[tuple[str, ...], Any]]], is_there: bool) -> None:
        seen = [changed(number, changes) for number, changes in enumerate(strangers, start=1)]
        seen += [gateway(0)] if is_there else []
        found = []
        for each in seen:
            read = gateway_from(each, naming=NAMING, newest_image="sha256:2")
            foreign = foreign_from(each, naming=NAMING)
            assert read is None or foreign is None
            if foreign is not None:
                assert (
                    len(f"{foreign.name}{foreign.identity}{foreign.follower_id}{foreign.user_digest}") < LONGEST_REPORT
                )
            found += [read] if read is not None else []
            last_words(each, [])
            doubtful_settings(each)
        record = Record(follower_id="alice", container_id=gateway(0)["Id"])  # type: ignore[arg-type]  # plain texts
        claims = claim(found, lambda _: (record, None), OURS, records_known=True, accept_lost_records=False)
        assert [each.container_id for each in claims.gateways.values()] == ([gateway(0)["Id"]] if is_there else [])
        assert all(len(report) < LONGEST_REPORT for report in claims.reports.values())

    for_a_while(seconds, check)
