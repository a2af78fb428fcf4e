"""What is not this manager's: other managers' gateways on this engine, and its own that were left on another engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.gateways import ForeignGateway
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.supervision.ownership import Claims
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)


class Elsewhere:
    """Its users are respected, and its containers named."""

    def __init__(self, services: Services, known_records: Callable[[], Sequence[Record]]) -> None:
        self._services = services
        self._known_records = known_records
        self._foreign: Sequence[ForeignGateway] = ()
        self._users: Mapping[str, str] = {}
        """Digests of the users whose gateways on this engine are not this manager's, and a sentence about each."""
        self.left_alone: tuple[str, ...] = ()
        """A sentence about each container on the engine that looks like a gateway and is not this manager's."""

    def take(self, claims: Claims) -> None:
        """Respect the users of what is not ours, and tell of it."""
        foreign = self._foreign = self._services.runtime.foreign
        self._users = claims.users_of_others(foreign)
        self.hold_users()
        before, theirs = self.left_alone, (f"{each}: it is neither adopted nor touched." for each in foreign)
        self.left_alone = (*claims.reports.values(), *theirs)
        for sentence in self.left_alone:
            if sentence not in before:
                log.warning("container left alone", sentence=sentence)
                self._services.bus.publish(events.NoticeGiven(at=self._services.clock(), sentence=sentence))

    def of(self, follower_id: str) -> ForeignGateway | None:
        """Another manager's gateway that bears this follower's name, and has not ended."""
        return next((each for each in self._foreign if each.follower_id == follower_id and not each.is_ended), None)

    def hold_users(self) -> None:
        """Nobody logs in with the user of a gateway that is not this manager's, or that was left on another engine."""
        left = self._services.engine.users_left_elsewhere(self._known_records())
        self._services.admission.held_elsewhere = {**left, **self._users}

    def take_over(self) -> Sequence[Record]:
        """By an operator's word that what runs on another engine is gone: the records as they are then."""
        return self._services.engine.take_over(self._known_records(), self._services.auditor)
