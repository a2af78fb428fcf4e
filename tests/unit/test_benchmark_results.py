"""What a benchmark found is kept whatever happens to the rest of it, and the documentation is made of it."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import BENCHMARKS
from benchmarks.against import named_values
from benchmarks.support.docker_rounds import Rounds
from benchmarks.support.figures import Findings, at_most
from benchmarks.support.running import run_benchmark, told
from benchmarks.support.sizes import options
from tools import write_benchmarks

from support.docker_bench import Bench
from support.docker_http import DockerApi
from support.real_parts import need

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


def found_by(findings_of: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bool]:
    """Figures and failures of what it tells, and whether it failed."""
    stream = io.StringIO()
    findings = Findings(stream)
    findings_of(findings)
    return *told(stream.getvalue().splitlines()), findings.failed


def test_a_part_that_fails_loses_no_other() -> None:
    """What was found before it and after it is told, and so is why it failed."""

    def measure(findings: Findings) -> None:
        findings.figure("before?", "1 ms", aim=at_most(1, 2, "ms"), took=(1, "ms"))
        with findings.part("compose"):
            raise ValueError("unknown flag:\n --progress")
        findings.figure("after?", "3 ms", aim=at_most(3, 2, "ms", what="p99"))

    figures, failures, failed = found_by(measure)
    assert [(each["question"], each["aim"], each["met"]) for each in figures] == [
        ("before?", "at most 2 ms", True),
        ("after?", "p99 at most 2 ms", False),
    ]
    assert figures[0]["values"] == {"took": {"value": 1, "unit": "ms"}}
    assert failures == [{"part": "compose", "why": "ValueError: unknown flag: --progress", "failed": True}]
    assert failed


def test_a_real_part_that_cannot_be_had_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with the command that gets it; in CI it is a failure, as of a test."""

    def measure(findings: Findings) -> None:
        with findings.part("all"):
            need("a Docker Engine", "apt-get install docker.io")

    monkeypatch.delenv("CI", raising=False)
    _, failures, failed = found_by(measure)
    assert not failed
    assert failures[0]["why"] == "a Docker Engine is missing here; get it with: apt-get install docker.io"
    monkeypatch.setenv("CI", "true")
    assert found_by(measure)[2]


async def test_a_thing_that_failed_on_docker_is_not_tried_again() -> None:
    """An old docker-compose on the PATH loses its own figures alone, in every round."""
    stream, tried = io.StringIO(), []
    engine: Any = SimpleNamespace(socket="/nowhere/docker.sock", api=DockerApi("/nowhere/docker.sock"))
    rounds = Rounds(Findings(stream), engine)

    async def compose(_: Bench) -> dict[str, list[float]]:
        tried.append("compose")
        raise subprocess.CalledProcessError(1, ["docker-compose", "up"])

    async def bare(_: Bench) -> dict[str, list[float]]:
        return {"bare": [1.0]}

    for _ in range(2):
        await rounds.take("docker compose up", compose)
        await rounds.take("bare", bare)
    assert tried == ["compose"]
    assert rounds.times["bare"] == [1.0, 1.0]
    assert rounds.middle("compose") is None
    _, failures = told(stream.getvalue().splitlines())
    assert [each["part"] for each in failures] == ["docker compose up"]


def benchmark_that(folder: Path, *lines: str) -> None:
    """A tree with one benchmark of this text."""
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "one.py").write_text("\n".join(lines))


TELLS = """print('{"question": "before?", "measured": "1 ms", "aim": "", "met": null, "values": {}}', flush=True)"""


def test_figures_of_a_benchmark_that_crashes_are_kept(tmp_path: Path) -> None:
    """Its last words say why the rest is missing."""
    benchmark_that(tmp_path, TELLS, "raise SystemExit('the engine is gone')")
    result = run_benchmark("one", within=PATIENCE, folder=tmp_path)
    assert [each["question"] for each in result["figures"]] == ["before?"]
    assert result["failures"] == [{"part": "the rest of it", "failed": True, "why": "the engine is gone"}]


def test_figures_of_a_benchmark_that_does_not_end_are_kept(tmp_path: Path) -> None:
    """It is ended when its time is over."""
    benchmark_that(tmp_path, TELLS, "import time", "time.sleep(600)")
    result = run_benchmark("one", within=3, folder=tmp_path)
    assert [each["question"] for each in result["figures"]] == ["before?"]
    assert "had not ended after 3 s" in result["failures"][0]["why"]


def test_sizes_are_small_where_that_is_asked_for() -> None:
    """A size that is named counts in either case."""
    asked = {"gateways": (300, 3), "watch": (35.0, 0.5)}
    assert vars(options("", arguments=[], **asked)) == {"small": False, "gateways": 300, "watch": 35.0}
    small = options("", arguments=["--small", "--gateways", "7"], **asked)
    assert (small.gateways, small.watch) == (7, 0.5)


def test_every_benchmark_is_in_the_list() -> None:
    """One that nobody runs and no page shows is found."""
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")}
    assert modules == {*BENCHMARKS, "against"}


RUN = {
    "small": False,
    "date": "2026-11-30",
    "processors": 2,
    "load": 0.5,
    "python": "3.11.7",
    "ib_async": "2.1.0",
    "seconds": 5.0,
}
FIGURE = {"question": "How | late?", "measured": "9 ms", "aim": "at most 5 ms", "met": False, "values": {}}
BROKEN = {"part": "compose", "why": "it is too old", "failed": True}


def test_the_page_is_made_of_the_results() -> None:
    """Figures, aims that were missed, parts that are missing and what was never run each have their row."""
    page = f"# Head\n\n{write_benchmarks.BEGIN}\nwritten before\n{write_benchmarks.END}\n\ntail\n"
    written = write_benchmarks.with_figures(page, {"reconnect": {**RUN, "figures": [FIGURE], "failures": [BROKEN]}})
    assert written.startswith("# Head\n")
    assert written.endswith(f"{write_benchmarks.END}\n\ntail\n")
    assert "| How \\| late? | 9 ms | at most 5 ms, missed |" in written
    assert "| `reconnect`: compose | not measured: it is too old | |" in written
    assert "| `get_client` | not measured yet | |" in written
    assert "Run on 2026-11-30 with 2 processors at a load of 0.5" in written
    assert "written before" not in written
    assert write_benchmarks.with_figures(written, {}) != written


def test_newer_results_take_the_place_of_the_same_benchmark() -> None:
    """Those of a benchmark that is gone go with it."""
    older = {"memory": {"load": 1}, "get_client": {"load": 1}, "gone": {}}
    assert write_benchmarks.merged(older, {"memory": {"load": 2}}) == {"get_client": {"load": 1}, "memory": {"load": 2}}


def test_an_older_commit_is_understood() -> None:
    """Values of the form with one list at the end have the names of today."""
    old = json.dumps([{"name": "get_client", "value": 150.0, "unit": "ns", "target": ""}])
    new = json.dumps({"question": "?", "values": {"get_client": {"value": 160.0, "unit": "ns"}}})
    assert named_values(["a line", old]) == {"get_client": 150.0}
    assert named_values([new]) == {"get_client": 160.0}
    assert named_values([]) == {}
