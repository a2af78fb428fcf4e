"""How a manager learns who it is at its start, shows it, and takes over the gateways of one that has ended.

The record store says it, else the state directory's note. Where another manager that lives takes the same identity for its
own, this one stands by: their stores can't know of each other. (On one MongoDB the leader lease decides which one acts.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.identity import (
    NOTE,
    Sign,
    SignOfLife,
    living,
    new_identities,
    read_note,
    write_note,
)
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.tasks import retry_until_available
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

POLL_EVERY = 1.0
"""Seconds between two looks whether another manager with this identity still lives."""


class Identification:
    """One manager's, from its start to its end."""

    def __init__(self, services: Services, settings: Settings) -> None:
        self._services = services
        self._settings = settings
        self._tell = services.notices.tell
        self._sign = SignOfLife()
        self.known = asyncio.Event()
        """Set once the record store has said it."""
        self.fault: Reason | None = None
        """Why it may not have the identity that the store says: another manager that lives takes it for its own."""

    async def by_note(self) -> bool:
        """While the store is away, take the state directory's word, so that what runs can be shown; False: it has none."""
        noted = await asyncio.to_thread(read_note, self._settings)
        if noted is None or await self._others(noted):
            return False
        self._be(noted)
        return True

    async def by_store(self, tell: Callable[[str], None], changed: Callable[[], None]) -> None:
        """Learn it from the store, which is open; returns when this manager alone has it.

        Args:
            tell: gets why it waits.
            changed: called when `fault` did.

        """
        noted = await asyncio.to_thread(read_note, self._settings)
        offered = new_identities() if noted is None else noted
        identities = await retry_until_available(
            "record store", lambda: self._services.ledger.identify(offered), self._tell
        )
        self._sign.show(identities)
        said = ""
        while others := await self._others(identities):
            sentence = (
                f"It stands by: {others[0]} lives on this host and takes the identity {identities.own} for its own."
                " One of the two must end: they may have copies of one state directory."
            )
            if sentence != said:
                said, self.fault = sentence, Reason(ReasonCode.NOT_LEADER, sentence)
                self._notice(sentence)
                changed()
            tell(sentence)
            await asyncio.sleep(POLL_EVERY)
        self.fault = None
        identities = await self._with_adopted(identities)
        self._be(identities)
        await self._note(identities)
        log.info("identity", identity=identities.own, adopted=list(identities.adopted))
        self.known.set()

    async def _others(self, identities: Identities) -> list[Sign]:
        signs = await asyncio.to_thread(living, [identities.own], but=self._sign)
        shared = not self._settings.store_is_local
        return [sign for sign in signs if not (shared and sign.own == identities.own)]

    async def _with_adopted(self, identities: Identities) -> Identities:
        """With the one that an operator named added, once that is written down."""
        added = self._settings.adopt_from
        if added is None or added in identities:
            return identities
        detail = f"The identity {added} was adopted by the manager with the identity {identities.own}."
        write = self._services.auditor.write
        await retry_until_available("audit trail", lambda: write("adopt-from", {"detail": detail}), self._tell)
        adopted = await retry_until_available(
            "record store", lambda: self._services.ledger.adopt_identity(added), self._tell
        )
        self._notice(detail)
        return adopted

    def _be(self, identities: Identities) -> None:
        self._services.runtime.identities = identities
        self._sign.show(identities)

    async def _note(self, identities: Identities) -> None:
        try:
            await asyncio.to_thread(write_note, self._settings, identities)
        except OSError as error:
            self._notice(f"{NOTE} in {self._settings.state_dir} can't be written: {error.strerror or error}.")

    def _notice(self, sentence: str) -> None:
        self._services.bus.publish(events.NoticeGiven(at=self._services.clock(), sentence=sentence))
        log.warning("identity", sentence=sentence)

    def close(self) -> None:
        """Show no life any more."""
        self._sign.close()
