"""A fleet for `stop --offline`: it finds, adopts and ends gateways as a manager does, and starts none.

Everything that says which gateways are ours, who leads, and what must be written down is the fleet's; here is only that
nothing else is wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spreadpilot_core.ibkr.deciding.observation import Wanted
from spreadpilot_core.ibkr.errors import (
    GatewayManagerError,
    RuntimeUnavailableError,
    StoreUnavailableError,
    UnknownFollowerError,
)
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.supervision.desired import STOPPED
from spreadpilot_core.ibkr.supervision.fleet import LISTED_WITHIN, WRITTEN_WITHIN, Fleet
from spreadpilot_core.ibkr.tasks import wait_for


@dataclass(frozen=True, slots=True)
class Stopped:
    """What came of it."""

    gone: Sequence[str]
    """Whose gateways are gone, or who had none."""
    left: Mapping[str, str]
    """Follower -> why a gateway of that name runs on."""


class OfflineFleet(Fleet):
    """All gateways of one manager, of which some are ended and the others left as they are."""

    async def stop_only(self, named: Sequence[str] | None, confirm: Callable[[Sequence[Gateway]], None]) -> Stopped:
        """Stop these gateways (None: all that are there) as an operator does, and leave the others as they are.

        Args:
            named: follower ids.
            confirm: called with what is there of these, off the loop; what it raises ends this before anything was done.

        Returns:
            Who is gone, and why others are not; each stop is remembered.

        Raises:
            RuntimeUnavailableError: it can't be learned what runs.
            StoreUnavailableError: what must be remembered can't be.
            LeadershipLostError: another manager acts.
            UnknownFollowerError: neither a record nor a gateway bears this id.

        """
        await self._until_it_may_stop()
        asked = None if named is None else set(named)
        if named is None:
            named = [each for each, it in self.supervisors.items() if it.facts.gateway_view.gateway is not None]
        unclaimed = {each: why for each, why in self._claims.unclaimed.items() if asked is None or each in asked}
        named = [each for each in named if each not in unclaimed]
        unknown = [each for each in named if each not in self.supervisors]
        if unknown:
            raise UnknownFollowerError(unknown[0], self.supervisors)
        chosen = [self.supervisors[FollowerId(each)] for each in named]
        await asyncio.to_thread(
            confirm, [each.facts.gateway_view.gateway for each in chosen if each.facts.gateway_view.gateway]
        )
        self.roster.end()  # from here on it is said here what is wanted
        for supervisor in chosen:
            supervisor.stop_by_operator(knows_state=False)
            supervisor.want(Wanted.STOP, STOPPED)
        limit = self._settings.stop_grace + 30
        had_none = {each.follower_id for each in chosen if each.is_gone}
        gone = await asyncio.gather(*(each.until_gone(limit) for each in chosen))
        await asyncio.gather(*(each.until_idle(WRITTEN_WITHIN) for each in chosen))
        await self.write_records()
        left: dict[str, str] = {
            each: f"The gateway of {each} was not stopped: {why}" for each, why in unclaimed.items()
        }
        for each, is_gone in zip(named, gone, strict=True):
            if not is_gone:
                left[each] = f"The gateway of {each} could not be confirmed gone."
            elif each in had_none and (foreign := self.elsewhere.of(each)) is not None:
                left[each] = f"No gateway was stopped. {foreign}. {foreign.cure}"
        return Stopped([each for each in named if each not in left], left)

    async def _until_it_may_stop(self) -> None:
        """Raises why it may not, or can't."""
        if not await wait_for(self.leadership.acts, within=2 * self._settings.leader_lease + LISTED_WITHIN):
            raise GatewayManagerError(
                f"Another manager may watch these gateways. {self.leadership.sentence}",
                hint="Use `gateway-manager stop` where that manager runs.",
            )
        if not await wait_for(self._records_known, within=LISTED_WITHIN):
            raise StoreUnavailableError(f"Nothing was stopped: {super()._hindrance()}")
        if not await wait_for(self._claimed, within=LISTED_WITHIN):
            raise RuntimeUnavailableError(f"What runs could not be listed, and was not stopped: {self._runtime_fault}")
        await wait_for(self.roster.known, within=LISTED_WITHIN)  # without it, only who has a gateway is known

    def _make_statuses(self) -> None:
        """What is shown of those that are left as they are stays."""

    def _hindrance(self) -> Reason | None:
        return super()._hindrance() or Reason(ReasonCode.MANAGER_STOPPING, "Gateways are only stopped now.")
