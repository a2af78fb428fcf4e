"""Notices that the secrets of a fleet have newer versions: by metadata, without reading a secret."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence

from spreadpilot_core.ibkr.deciding.observation import Wanted
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, GatewayManagerError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.seams import CredentialBroker
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor

ADOPTED_ASKED_AFTER = 5.0
"""Seconds after the start until the secrets of adopted gateways are asked about: what waited for a restart waits on."""


class SecretVersions:
    """Asks for the newest versions every so many seconds, and at once when stored secrets have changed."""

    def __init__(
        self, broker: CredentialBroker, supervisors: Mapping[FollowerId, GatewaySupervisor], *, every: float
    ) -> None:
        self._broker = broker
        self._supervisors = supervisors
        self._every = every

    async def observe_versions(self) -> None:
        """Go on for ever, a little apart from other managers."""
        rng = random.Random()  # noqa: S311  # jitter
        await asyncio.sleep(min(self._every, ADOPTED_ASKED_AFTER))
        await self._ask([each for each in self._supervisors.values() if _is_adopted(each)])
        while True:
            pause = min(self._every, self._broker.renew_within or math.inf)
            await asyncio.sleep(pause * rng.uniform(0.8, 1.0))
            await self._ask(list(self._supervisors.values()))

    async def hear_of_changes(self) -> None:
        """Stored secrets may have changed: whoever has no gateway, or one by such a secret, is told at once."""
        async for _ in self._broker.hints():
            await self._ask([each for each in self._supervisors.values() if _may_use_stored_secret(each)])

    async def _ask(self, supervisors: Sequence[GatewaySupervisor]) -> None:
        for it in [each for each in supervisors if each.facts.wanted is Wanted.RUN]:
            if (follower := it.facts.follower) is not None:
                try:
                    it.see_version(await self._broker.version(follower.vault_secret_ref, follower_id=follower.id))
                except CredentialsRefusedError as error:
                    it.facts.secret.refused = str(error)
                except GatewayManagerError:  # known no better than before
                    continue


def _is_adopted(its: GatewaySupervisor) -> bool:
    """Whether an earlier manager logged it in: what that one knew of the secret ended with it."""
    return its.facts.gateway_view.gateway is not None and its.facts.secret.login is None


def _may_use_stored_secret(its: GatewaySupervisor) -> bool:
    """Whether a change of the encrypted store may concern it; what Vault gave is remembered there, and concerns nobody."""
    login, gateway = its.facts.secret.login, its.facts.gateway_view.gateway
    if login is None and gateway is None and its.state is State.QUEUED:
        return False  # it reads the secret for the first time when its turn comes, whatever is there then
    return gateway is None or login is None or login.source == "stored"
