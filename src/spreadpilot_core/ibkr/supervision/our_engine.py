"""What this manager's gateways run on, and whose were left on another engine: those may be logged in there.

A record names the engine from before its gateway is created until that engine says that it is gone. So it is known
whichever way a manager ended, and whichever engine the next one has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from spreadpilot_core.ibkr.audit.auditor import Auditor
from spreadpilot_core.ibkr.model.records import Record, is_same_engine
from spreadpilot_core.ibkr.model.users import user_digest


@dataclass(slots=True)
class OurEngine:
    """One manager's."""

    id: str | None = None
    """None: it was not asked yet."""

    def left_elsewhere(self, record: Record) -> str | None:
        """A sentence about a gateway that was left on another engine; None where there is none."""
        if self.id is None or record.engine_id is None or is_same_engine(record.engine_id, self.id):
            return None
        container = f"container {record.container_id[:12]}, " if record.container_id is not None else ""
        return (
            f"A manager before this one left the gateway of {record.follower_id} on another engine ({container}engine"
            f" {record.engine_id}), and it may be logged in there"
        )

    def users_left_elsewhere(self, records: Iterable[Record]) -> Mapping[str, str]:
        """Digests of the users of gateways that were left on another engine, and a sentence about each."""
        left = {each.user: self.left_elsewhere(each) for each in records if each.user is not None}
        return {user_digest(user): f"{sentence}." for user, sentence in left.items() if sentence is not None}

    def take_over(self, records: Iterable[Record], auditor: Auditor) -> list[Record]:
        """Those of the records that name another engine, as they are once an operator has said that what is there is gone."""
        taken = []
        for record in records:
            if (sentence := self.left_elsewhere(record)) is not None:
                auditor.note("take-over", detail=f"{sentence}; an operator said that it is gone")
                taken.append(replace(record, engine_id=None))
        return taken
