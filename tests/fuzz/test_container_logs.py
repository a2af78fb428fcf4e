"""Whatever a container prints, in whatever pieces: no error, and nothing that grows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.controller_log.reader import LONGEST_EVIDENCE, MOST_NOTICES, REMEMBERED_LINES, LoginLog
from spreadpilot_core.ibkr.controller_log.tables import TABLES
from spreadpilot_core.ibkr.model.gateways import Controller
from spreadpilot_core.ibkr.runtimes.docker.streams import LogReader
from support.fuzzing import for_a_while, fuzzed, odd_bytes, odd_texts, some

CORPUS = Path(__file__).parents[1] / "data" / "log_corpus"


def known_lines(controller: Controller) -> list[str]:
    """Lines of real logs, and the fragments that mean something."""
    table = TABLES[controller]
    fragments = [row.fragment for rows in (table.titles, table.controller, table.script) for row in rows]
    real = [
        line for path in sorted(CORPUS.rglob("*.log"))[:40] for line in path.read_text(errors="replace").splitlines()
    ]
    return [*fragments, *real[:2000]]


@fuzzed
@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
def test_a_log_is_read_to_its_end(seconds: float, controller: Controller) -> None:
    """Real lines, cut, mixed and spoiled: the view stays small, and each text in it short."""
    lines = st.sampled_from(known_lines(controller))
    pieces = st.tuples(lines, st.integers(0, 200), odd_texts).map(lambda cut: cut[0][: cut[1]] + cut[2])
    joined = st.tuples(lines, lines).map("".join)

    @some
    @given(st.lists(lines | pieces | joined | odd_texts, max_size=60))
    def check(read: list[str]) -> None:
        log = LoginLog(controller)
        for line in (*read, *read):
            log.read(line)
        view = log.view
        assert len(view.notices) <= MOST_NOTICES
        assert len(log._seen) <= REMEMBERED_LINES
        texts = [value for value in dataclasses.asdict(view).values() if isinstance(value, str)]
        assert all(len(text) <= 2 * LONGEST_EVIDENCE for text in (*texts, *view.notices))

    for_a_while(seconds, check)


@fuzzed
def test_a_stream_of_bytes_becomes_lines(seconds: float) -> None:
    """Stamped or not, whole or in pieces, on either channel: lines of a bounded length, without their ends."""
    stamp = b"2026-11-29T21:06:21.946123456Z "
    pieces = st.tuples(st.booleans(), odd_bytes, st.booleans()).map(
        lambda it: (stamp if it[0] else b"") + it[1] + (b"\n" if it[2] else b"")
    )

    @some
    @given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 255]), pieces), max_size=20))
    def check(fed: list[tuple[int, bytes]]) -> None:
        reader = LogReader()
        for channel, data in (*fed, *fed):
            for line in reader.feed(channel, data):
                assert len(line) <= 64 * 1024
                assert not line.endswith("\n")
        assert reader.reconnect(otherwise="0")

    for_a_while(seconds, check)
