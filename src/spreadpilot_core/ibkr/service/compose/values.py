"""The value of a variable as a gateway's image gets it: by itself, or from the file that its `_FILE` sibling names.

The generations differ: IBC's scripts refuse both at once and know a file for passwords alone; ibcontroller lets the file win, for any
variable, and strips what is in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from spreadpilot_core.ibkr.service.compose.places import Findings, Place
from spreadpilot_core.ibkr.service.compose.secret_files import UnreadableError
from spreadpilot_core.ibkr.service.compose.services import Service, Variable

IBCONTROLLER_PREFIX = "IBC_"


@dataclass(frozen=True, slots=True)
class Value:
    """What one variable gives the image."""

    name: str
    text: str = field(repr=False)
    place: Place
    is_exact: bool = True
    unset: tuple[str, ...] = ()
    is_from_file: bool = False
    why_not: str = ""
    """Why the file could not be read, where it could not; the text is empty then."""

    @property
    def is_ibcontrollers(self) -> bool:
        """Whether ibcontroller reads it, not IBC."""
        return self.name.startswith(IBCONTROLLER_PREFIX)


class Values:
    """The variables of one service, and which of them were read."""

    def __init__(self, service: Service, findings: Findings) -> None:
        self._variables = service.variables
        self._mounts = service.mounts
        self._findings = findings
        self.read: set[str] = set()

    def refuse(self, place: Place, sentence: str) -> None:
        """Note what is in the way of the import."""
        self._findings.refuse(place, sentence)

    def remark(self, place: Place, sentence: str) -> None:
        """Note what is worth knowing."""
        self._findings.remark(place, sentence)

    def find(self, *names: str, or_none: bool = False) -> Value | None:
        """The value that has one of these names; None where it is unset or empty in each.

        Args:
            names: of one thing, in images of either generation; where several are set, they must agree.
            or_none: a file that can't be read is no reason to refuse; `why_not` says why.
        """
        found = [value for name in names if (value := self._find(name)) is not None]
        if not found:
            return None
        first = found[0]
        for other in found[1:]:
            if other.text != first.text:
                self.refuse(
                    other.place,
                    f"{other.name} and {first.name} ({first.place}) differ, and which one counts depends on the image:"
                    " leave out the one that does not.",
                )
        if first.why_not and not or_none:
            self.refuse(first.place, f"{first.name} can't be read: {first.why_not}.")
            return None
        return first

    def _find(self, name: str) -> Value | None:
        own = self._nonempty(name)
        file = self._nonempty(f"{name}_FILE")
        if file is None or (own is not None and name.startswith(IBCONTROLLER_PREFIX) and not self._content(file)):
            return None if own is None else Value(name, own.value, own.place, own.is_exact, own.unset)
        if own is not None and not name.startswith(IBCONTROLLER_PREFIX):
            self.refuse(
                file.place, f"{name} and {name}_FILE are both set, which the image refuses: leave out one of them."
            )
            return None
        try:
            text = self._mounts.read(file.value)
        except UnreadableError as error:
            return Value(f"{name}_FILE", "", file.place, why_not=str(error))
        stripped = text.strip() if name.startswith(IBCONTROLLER_PREFIX) else text.rstrip("\n")
        return Value(f"{name}_FILE", stripped, file.place, is_from_file=True) if stripped else None

    def _content(self, file: Variable) -> str:
        try:
            return self._mounts.read(file.value).strip()
        except UnreadableError as error:
            return str(error)

    def _nonempty(self, name: str) -> Variable | None:
        variable = self._variables.get(name)
        if variable is None:
            return None
        self.read.add(name)
        return variable if variable.value else None
