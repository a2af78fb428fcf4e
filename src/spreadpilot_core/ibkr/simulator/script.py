"""What is to go wrong, and how long things take, as data.

A `Script` holds one mapping of faults for each start of the gateway's program, in order: a relaunch by the controller
itself and the nightly restart take the next one, as does the next container when it is given the same script.

    Script.from_json([{"wrong_password": True}, {"slow_start": 30, "then": [{"after": 5, "fault": "link_lost"}]}])

The first start has its password rejected; the second takes 30 s longer, and 5 s after its login IBKR's link is lost;
every later start goes well. A lap with `"forever": True` is never used up. This module knows names and values, and nothing
of what carries them out.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from spreadpilot_core.ibkr.simulator import faults
from spreadpilot_core.ibkr.simulator.faults import Arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds that each stage takes (`FAST` for tests and demos, `REAL` as seen in the field)."""

    FAST: ClassVar[Timings]
    REAL: ClassVar[Timings]

    controller_start: float
    """From the container's start to the controller's."""
    program_start: float
    """From the controller's start until the gateway's program runs."""
    login_form: float
    """Until its login form is there."""
    answer: float
    """From the click on the login button to IBKR's first answer."""
    login: float
    """From there, or from the approval, to the completed login."""
    second_factor: float
    """How long the phone takes to approve."""
    second_factor_missed: float
    """How long the prompt stays when it is missed. IBKR's limit is 180 s."""
    disclaimer: float
    """From the completed paper login until its disclaimer is accepted: API clients get 10141 meanwhile."""
    settings: float
    """How long the controller applies settings after the login."""
    no_login_form: float
    """How long the controller waits for a login form that doesn't come."""
    hung_login: float
    """How long a controller waits for a login that doesn't end."""
    close: float
    """How long the program takes to close."""
    restart_marker: float
    """How long ibcontroller looks for the sign of a nightly restart after the program has gone."""

    def scaled(self, factor: float) -> Timings:
        """These timings, each times `factor`."""
        return Timings(**{field.name: getattr(self, field.name) * factor for field in dataclasses.fields(self)})


Timings.FAST = Timings(
    controller_start=0.02,
    program_start=0.02,
    login_form=0.05,
    answer=0.05,
    login=0.1,
    second_factor=0.2,
    second_factor_missed=0.3,
    disclaimer=0.03,
    settings=0.05,
    no_login_form=0.2,
    hung_login=0.3,
    close=0.05,
    restart_marker=0.05,
)
Timings.REAL = Timings(
    controller_start=0.8,
    program_start=0.7,
    login_form=5.5,
    answer=1.0,
    login=4.0,
    second_factor=8.0,
    second_factor_missed=180.0,
    disclaimer=1.0,
    settings=2.0,
    no_login_form=60.0,
    hung_login=180.0,
    close=0.8,
    restart_marker=5.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """A fault some seconds after the login."""

    after: float
    fault: str
    arguments: Arguments


class Lap:
    """The faults of one start of the gateway's program."""

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self.given = {name: arguments for name, arguments in (given or {}).items() if arguments is not False}
        self._faults = {
            name: faults.check(name, arguments, at_start=True)
            for name, arguments in self.given.items()
            if name not in ("then", "forever")
        }
        self.forever = bool(self.given.get("forever"))
        self.later = _read_later(self.given.get("then", ()))

    def get(self, fault: str) -> Arguments | None:
        """The fault's whole arguments, or None when it isn't to happen."""
        return self._faults.get(fault)

    def use(self, fault: str) -> Arguments | None:
        """As `get`; it won't happen again in this lap."""
        return self._faults.pop(fault, None)


def _read_later(entries: Any) -> tuple[Later, ...]:
    if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f'"then" is {entries!r}, but must be a list of mappings')
    return tuple(_read_entry(entry) for entry in entries)


def _read_entry(entry: Mapping[str, Any]) -> Later:
    rest = dict(entry)
    try:
        after, fault = float(rest.pop("after")), str(rest.pop("fault"))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f'an entry of "then" needs "after" (seconds) and "fault" (a name), not {entry!r}') from error
    if not 0 <= after < faults.LARGEST:
        raise ValueError(f'"after" of fault {fault} is {after!r}, but must not be negative, nor so large')
    return Later(after=after, fault=fault, arguments=faults.check(fault, rest))


class Script:
    """The laps still to come. `take` hands out one for each start; after the last everything goes well."""

    def __init__(self, laps: Iterable[Lap] = ()) -> None:
        self._laps = deque(laps)

    @classmethod
    def from_json(cls, laps: Iterable[Mapping[str, Any]]) -> Script:
        """Build one from plain data. Raises `ValueError` with what is known."""
        return cls(Lap(lap) for lap in laps)

    def to_json(self) -> list[dict[str, Any]]:
        """What is still to come, as plain data."""
        return [dict(lap.given) for lap in self._laps]

    def take(self) -> Lap:
        """The faults of the start that happens now."""
        if not self._laps:
            return Lap()
        return self._laps[0] if self._laps[0].forever else self._laps.popleft()

    def add_to_next(self, fault: str, arguments: Arguments) -> None:
        """Let a fault happen at the next start, whatever else is scripted for it."""
        coming = self.take()
        self._laps.appendleft(Lap({**coming.given, "forever": False, fault: arguments}))
