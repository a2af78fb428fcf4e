"""The rounds of `docker_fleet`: each thing that is timed on an engine with nothing else on it, and what is told of all of them."""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from benchmarks.support.figures import Findings, at_most, number, percentile, spread

from support.docker_bench import Bench
from support.docker_engine import EngineUnderTest, OwnEngine

Times = Mapping[str, Sequence[float]]
"""Seconds of one round, by what was timed."""


class Rounds:
    """What the rounds took, by what was timed; what failed once is not tried again."""

    def __init__(self, findings: Findings, own: OwnEngine) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self._findings = findings
        self._own = own
        self._broken = set[str]()

    async def take(self, name: str, timed: Callable[[Bench], Awaitable[Times]]) -> None:
        """One thing on an engine with nothing else on it."""
        if name in self._broken:
            return
        self._broken.add(name)
        with self._findings.part(name):
            bench = Bench(EngineUnderTest(self._own.socket, self._own))
            try:
                for what, seconds in (await timed(bench)).items():
                    self.times[what] += seconds
                    print(what, *(f"{each:.2f}" for each in seconds[:5]), file=sys.stderr, flush=True)
            finally:
                await bench.close()
            self._broken.discard(name)

    def middle(self, name: str) -> float | None:
        """The median of the rounds."""
        return statistics.median(self.times[name]) if self.times[name] else None


def tell_starts(findings: Findings, rounds: Rounds, gateways: int) -> None:
    """The medians of the rounds, against the bare calls."""
    least = rounds.middle("bare")
    questions = {
        "runtime": f"How long do {gateways} containers take to start in the runtime alone, against bare create, attach and start?",
        "manager": "… through the manager, until every process runs?",
        "first": "… at the first start ever, without network and settings volumes?",
        "compose": f"… by `docker compose up` of the same {gateways}, all at once and without passwords?",
    }
    for name, question in questions.items():
        took = rounds.middle(name)
        if took is None or least is None:
            continue
        ratio, each = took / least, [f"{seconds:.1f}" for seconds in rounds.times[name]]
        findings.figure(
            question,
            f"{ratio:.2f} times ({took:.1f} s, {least:.1f} s bare; the rounds: {', '.join(each)} s)",
            aim=at_most(ratio, 1.25, "times") if name != "compose" else None,
            ratio=(ratio, "times"),
            seconds=(took, "s"),
            bare=(least, "s"),
        )
    if (cpu := rounds.middle("cpu")) is not None:
        each_ms = 1000 * cpu / gateways
        findings.figure(
            "What does a launch cost the manager in processor time?", f"{number(each_ms)} ms", processor=(each_ms, "ms")
        )


def tell_ends(findings: Findings, rounds: Rounds) -> None:
    """Adoption, kills and rejections."""
    if (adopted := rounds.middle("adoption")) is not None:
        findings.figure(
            "How long until the next manager has adopted all of them?",
            f"{adopted:.2f} s",
            aim=at_most(adopted, 3, "s"),
            seconds=(adopted, "s"),
        )
    ends = {
        "known": ("How soon is a killed container known?", 200),
        "rejected": ("How long does a container live on after its log has told of a rejected password?", 2000),
        "deaf": ("… where the controller does not heed SIGTERM?", 2000),
    }
    for name, (question, bound) in ends.items():
        if seconds := rounds.times[name]:
            times = [1000 * each for each in seconds]
            p99 = percentile(times, 99)
            findings.figure(
                question,
                spread(times),
                aim=at_most(p99, bound, "ms", what="p99"),
                median=(percentile(times, 50), "ms"),
                p99=(p99, "ms"),
            )
