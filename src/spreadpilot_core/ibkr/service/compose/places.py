"""Where something stands in a compose file or a file of variables, and what is wrong with it, or worth knowing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from spreadpilot_core.ibkr.errors import GatewayManagerError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One line of one file."""

    file: str
    line: int

    def __str__(self) -> str:
        """As compilers write it."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, order=True)
class Remark:
    """What somebody should know about one line."""

    place: Place
    sentence: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.place}: {self.sentence}"


class ComposeError(GatewayManagerError):
    """Something in a compose file, or in a file that it names, can't be imported as it stands."""

    def __init__(self, where: Place | str, what: str, *, hint: str | None = None) -> None:
        super().__init__(f"{where}: {what}.", hint=hint)


@dataclass(slots=True)
class Findings:
    """What reading found beside the gateways."""

    problems: list[str] = field(default_factory=list)
    """Why nothing may be imported."""
    remarks: list[Remark] = field(default_factory=list)

    def refuse(self, place: Place, what: str) -> None:
        """Note a reason against the import; `what` is a sentence."""
        self.problems.append(f"{place}: {what}")

    def remark(self, place: Place, what: str) -> None:
        """Note something worth knowing; `what` is a sentence."""
        self.remarks.append(Remark(place, what))

    def in_order(self) -> Iterable[Remark]:
        """Every remark once, by file and line."""
        return sorted(set(self.remarks))


def shown_name(name: str) -> str:
    """A name as it may be printed: what doesn't look like one may be a password that lost its name."""
    return name if _NAME.fullmatch(name) else "an entry"
