"""Whatever stands in the files of the audit trail: it is told, never believed, and the trail goes on."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from support.fuzzing import for_a_while, fuzzed, odd_bytes, odd_values, scratch, some, spoiled

forged_lines = st.fixed_dictionaries(
    {"serial": odd_values | st.integers(1, 12), "previous": odd_values}, optional={"act": odd_values, "who": odd_values}
).map(lambda entry: json.dumps(entry).encode())


def a_trail(directory: Path) -> tuple[bytes, str]:
    """Six whole lines, and the hash of the last."""
    trail = AuditTrail(directory)
    heads = [trail.append("read", who="tester", follower=f"f{number}") for number in range(6)]
    return trail.path.read_bytes(), heads[-1].hash


@fuzzed
def test_nothing_is_believed_and_nothing_stops_it(seconds: float, tmp_path: Path) -> None:
    """After any change `verify` with the kept hash is content only if every line is there as it was; a line can be added."""
    content, recorded = a_trail(tmp_path)
    lines = content.splitlines(keepends=True)
    shuffled = st.lists(
        st.one_of(
            st.sampled_from(lines), forged_lines.map(lambda raw: raw + b"\n"), odd_bytes.map(lambda raw: raw + b"\n")
        ),
        max_size=10,
    ).map(b"".join)

    @some
    @given(
        spoiled(content) | shuffled,
        st.none() | spoiled(content) | odd_bytes,
        st.sampled_from(["audit.jsonl.1", "audit-000000003.jsonl"]),
    )
    def check(found: bytes, beside: bytes | None, name: str) -> None:
        with scratch() as place:
            trail = AuditTrail(place, rotate_at=4096)
            trail.path.write_bytes(found)
            if beside is not None:
                (place / name).write_bytes(beside)
            verdict = trail.verify(recorded)
            if verdict.is_whole and beside is None:
                assert found.startswith(content[:-1])
            list(trail.entries())
            head = trail.append("read", who="tester")
            assert 0 < head.serial < 2**53
            assert trail.mark() is not None
            assert trail.holds(head)
            after = AuditTrail(place).verify(head.hash)
            assert not any("not in the chain" in each for each in after.findings)
            if not verdict.is_whole:
                assert not AuditTrail(place).verify(recorded).is_whole

    for_a_while(seconds, check)
