"""What a page shows beside the snapshots: days of availability, phones, a gateway's settings, its log and its screen.

Nothing here changes anything. What lies on the engine is read by a reader of its own, as `gateway-manager logs` reads it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from spreadpilot_core.ibkr.deciding.phones import asks_phone
from spreadpilot_core.ibkr.errors import ScreenError, UnknownFollowerError
from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.model.details import PhoneQueue, Picture, ScreenAddress
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.runtimes.registry import reader
from spreadpilot_core.ibkr.runtimes.screens import screen_address
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.fleet import Fleet
from spreadpilot_core.ibkr.supervision.services import Services, spec_for
from spreadpilot_core.ibkr.supervision.shared_clients import known_supervisor
from spreadpilot_core.ibkr.telemetry import without_named_passwords


class GatewayDetails:
    """Of one started manager."""

    def __init__(self, fleet: Fleet, services: Services, settings: Settings) -> None:
        self._fleet = fleet
        self._services = services
        self._settings = settings

    @property
    def last_event(self) -> int | None:
        """The id of the newest event: what is shown now is followed from there on."""
        return self._services.bus.last_id

    async def availability_days(self, month: str) -> tuple[AvailabilityDay, ...]:
        """How long each gateway was what, day by day, as some seconds ago. Raises `StoreUnavailableError`."""
        return await self._fleet.measurements.recent_availability(month)

    def phones(self) -> tuple[PhoneQueue, ...]:
        """Each phone that is asked now, and who waits for it."""
        return tuple(replace(each, phone=self._owner(each)) for each in self._services.admission.phones())

    def _owner(self, queue: PhoneQueue) -> str:
        """As a record writes the name by which phones are told apart."""
        for name in (*queue.asked, *queue.waiting):
            supervisor = self._fleet.supervisors.get(FollowerId(name))
            follower = supervisor.facts.follower if supervisor is not None else None
            if follower is not None and follower.phone_owner is not None:
                return follower.phone_owner
        return queue.phone

    def asked_phone(self, follower_id: str) -> str | None:
        """Whose phone the next login of this follower asks; None: nobody's. Raises `UnknownFollowerError`."""
        supervisor = known_supervisor(self._fleet, follower_id)
        if supervisor is None or (follower := supervisor.facts.follower) is None:
            return None
        record = supervisor.facts.record
        return (follower.phone_owner or record.user or follower_id) if asks_phone(follower, record) else None

    def settings_of(self, follower_id: str) -> Mapping[str, str]:
        """What its record and the fleet's settings come to, name by name. Raises `UnknownFollowerError`."""
        supervisor = known_supervisor(self._fleet, follower_id)
        if supervisor is None or (follower := supervisor.facts.follower) is None:
            return {}
        options = spec_for(follower, self._services.options).options.model_dump(exclude_none=True)
        shown = follower.shown() | {f"gateway.{name}": value for name, value in options.items()}
        del shown["id"]
        return {name: _written(value) for name, value in shown.items() if value is not None}

    async def log_lines(self, follower_id: str, *, last: int, follow: bool = False) -> AsyncIterator[str]:
        """What its gateway prints, or the last words of the one before; whatever is named a password is masked.

        Raises:
            UnknownFollowerError: no record has this id.
            RuntimeUnavailableError: what it runs on does not answer.
        """
        self._must_be_known(follower_id)
        living = False
        async with reader(self._settings) as runtime_reader:
            if (gateway := self._gateway(follower_id)) is not None:
                async with aclosing(runtime_reader.lines(gateway, last=last, follow=follow)) as lines:
                    async for line in lines:
                        living = True
                        yield without_named_passwords(line)
        if not living:
            for line in self._last_words(follower_id)[-last:]:
                yield without_named_passwords(line)

    async def screen(self, follower_id: str) -> ScreenAddress:
        """Where its screen is, and what opens it: for this one opening.

        Raises:
            UnknownFollowerError: no record has this id.
            ScreenError: it shows none now.
            RuntimeUnavailableError: what it runs on does not answer.
        """
        self._must_be_known(follower_id)
        if (gateway := self._gateway(follower_id)) is None:
            raise ScreenError(follower_id)
        return await screen_address(self._settings, gateway)

    async def pictures(self, follower_id: str) -> Sequence[Picture]:
        """What its gateways' screens showed last before they were given up, the newest first. Raises `UnknownFollowerError`."""
        self._must_be_known(follower_id)
        return await self._services.pictures.list(follower_id)

    async def picture(self, follower_id: str, picture_id: str) -> bytes | None:
        """One of them, as PNG; None: it is not there. Raises `UnknownFollowerError`."""
        self._must_be_known(follower_id)
        return await self._services.pictures.read(follower_id, picture_id)

    def _last_words(self, follower_id: str) -> Sequence[str]:
        supervisor = known_supervisor(self._fleet, follower_id)
        words = supervisor.facts.record.last_words if supervisor is not None else None
        return words.splitlines() if words else ()

    def _gateway(self, follower_id: str) -> Gateway | None:
        supervisor = known_supervisor(self._fleet, follower_id)
        return supervisor.facts.gateway_view.gateway if supervisor is not None else None

    def _must_be_known(self, follower_id: str) -> None:
        if FollowerId(follower_id) not in self._fleet.supervisors and follower_id not in self._fleet.roster.faulty:
            raise UnknownFollowerError(follower_id, {*self._fleet.supervisors, *self._fleet.roster.faulty})


def _written(value: object) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
