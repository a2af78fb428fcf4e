"""What a benchmark finds: each figure is told as soon as it is known, one line of JSON on standard output.

A figure answers a question of the documentation with a sentence and says what is aimed at; its values stand beside it for
programs. A part of a benchmark that fails is told in the same way, and the parts after it are measured all the same.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import pytest


@dataclass(frozen=True, slots=True)
class Aim:
    """What is aimed at, and whether this run came up to it."""

    text: str
    met: bool


def at_most(value: float, bound: float, unit: str, *, what: str = "") -> Aim:
    """An upper bound of one of the values; `what` names it where there are several."""
    limit = time_span(bound) if unit == "ms" else f"{bound:g} {unit}"
    return Aim(f"{what} at most {limit}".strip(), value <= bound)


class Findings:
    """Takes what one benchmark finds and tells it at once."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.failed = False
        """Whether a part failed."""
        self._stream = stream or sys.stdout

    def figure(self, question: str, measured: str, *, aim: Aim | None = None, **values: Any) -> None:
        """Tell one figure. `values` are numbers, or pairs of a number and its unit, by name."""
        told = {
            "question": question,
            "measured": measured,
            "aim": aim.text if aim is not None else "",
            "met": aim.met if aim is not None else None,
            "values": {name: _value(each) for name, each in values.items()},
        }
        self._tell(told)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the benchmark: when it fails that is told, and the program goes on after it."""
        try:
            yield
        except pytest.skip.Exception as missing:  # how the tests' real parts say that they can't be had
            self.miss(name, str(missing))
        except pytest.fail.Exception as missing:
            self.fail(name, str(missing))
        except Exception as error:  # noqa: BLE001  # one part's failure loses no other's figures
            traceback.print_exc()
            self.fail(name, _why(error))

    def fail(self, name: str, why: str) -> None:
        """Tell that a part failed."""
        self.failed = True
        self._tell({"part": name, "why": why, "failed": True})

    def miss(self, name: str, why: str) -> None:
        """Tell that a part can't be measured on this machine, which is no failure of the benchmark."""
        self._tell({"part": name, "why": why, "failed": False})

    def _tell(self, told: Mapping[str, Any]) -> None:
        print(json.dumps(told, ensure_ascii=False), file=self._stream, flush=True)


def run(measure: Callable[[Findings], Coroutine[Any, Any, None] | None]) -> int:
    """Run a benchmark, on an event loop where it is a coroutine; its process's exit code."""
    findings = Findings()
    with findings.part("the rest of it"):
        if (work := measure(findings)) is not None:
            asyncio.run(work)
    return 1 if findings.failed else 0


def spread(milliseconds: Sequence[float]) -> str:
    """A distribution of times in words."""
    ordered = sorted(milliseconds)
    middle, late, longest = statistics.median(ordered), percentile(ordered, 99), ordered[-1]
    return f"median {time_span(middle)}, p99 {time_span(late)}, longest of {len(ordered)} {time_span(longest)}"


def time_span(milliseconds: float) -> str:
    """As people say it."""
    return f"{number(milliseconds)} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.3g} s"


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def number(value: float) -> str:
    """As people read it: two digits that mean something, and all before the point."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 10 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.2g}"


def _value(given: float | tuple[float, str]) -> dict[str, Any]:
    amount, unit = given if isinstance(given, tuple) else (given, "")
    return {"value": round(amount, 4), "unit": unit}


def _why(error: Exception) -> str:
    """The kind of failure and what it says, on one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
