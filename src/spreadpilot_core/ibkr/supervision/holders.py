"""Whose container it is that changed: looked for once, since thousands may change in one second."""

from __future__ import annotations

from collections.abc import Mapping

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor


class Holders:
    """Finds the supervisor of a container that is there, is about to be, or was."""

    def __init__(self, supervisors: Mapping[FollowerId, GatewaySupervisor]) -> None:
        self._supervisors = supervisors
        self._found: dict[ContainerId, GatewaySupervisor] = {}

    def expect(self, holder: GatewaySupervisor, container_id: ContainerId) -> None:
        """A launch of its is about to start this container, of which the runtime tells next."""
        self._forget_most()
        self._found[container_id] = holder

    def of(self, container_id: ContainerId) -> GatewaySupervisor | None:
        """None: nobody's, as far as is known here."""
        holder = self._found.get(container_id)
        if holder is None or self._supervisors.get(holder.follower_id) is not holder or not holder.knows(container_id):
            holder = next((each for each in self._supervisors.values() if each.knows(container_id)), None)
            if holder is not None:
                self._forget_most()
                self._found[container_id] = holder
        return holder

    def _forget_most(self) -> None:
        if len(self._found) > 2 * len(self._supervisors):  # most are of containers that are gone
            self._found.clear()
