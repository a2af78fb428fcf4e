"""Whether a manager does its work, for probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spreadpilot_core.ibkr.system.wording import counted


@dataclass(frozen=True, slots=True)
class Readiness:
    """How the manager stands; a gateway that is down makes no manager unready."""

    status: Literal["ready", "standby", "not_ready"]
    reason: str
    """A sentence."""

    @classmethod
    def of(cls, *, ends: bool, stands_by: str | None, trouble: str | None, ready: int, gateways: int) -> Readiness:
        """Of a manager that ends, that stands by for another one, or that can't do its work; with so many gateways ready."""
        if ends:
            return cls("not_ready", "The manager ends.")
        if stands_by is not None:
            return cls("standby", stands_by)
        if trouble is not None:
            return cls("not_ready", trouble)
        return cls("ready", f"{ready} of {counted(gateways, 'gateway')} ready.")

    @property
    def is_fine(self) -> bool:
        """Whether there is nothing wrong with it."""
        return self.status != "not_ready"
