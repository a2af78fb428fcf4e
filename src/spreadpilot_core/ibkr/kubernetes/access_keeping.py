"""Has what stands around gateways be there before the first of them can log in: its Service, the policy, the budget.

Policy and budget are about all gateways: launches that begin at once ask for them together. A launch is refused where the policy that was
asked for can't be made: the API of a gateway asks for no password. A Service that can't be made is told and left out, since only bots
that go by its name miss it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from spreadpilot_core.ibkr.errors import LaunchError
from spreadpilot_core.ibkr.kubernetes.access_rules import (
    DISRUPTIONS,
    NETWORKING,
    SERVICE,
    AccessRules,
    disruption_budget,
    network_policy,
    service,
)
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.naming import Naming
from spreadpilot_core.ibkr.kubernetes.refusals import refusal_of
from spreadpilot_core.ibkr.kubernetes.shared_queries import SharedQueries
from spreadpilot_core.ibkr.kubernetes.things_of_followers import Thing, ThingsOfFollowers
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.runtimes.held_names import held_name
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_BY_LABEL: Final = (
    "Set POD_NAME, as the chart does, so that the manager's own pod can be named in the policy, or make a policy of your own and set"
    " kubernetes_network_policy = false."
)


class AccessKeeper:
    """In one namespace, by one manager."""

    def __init__(self, api: Api, rules: AccessRules) -> None:
        self._api = api
        self._rules = rules
        self._shared = SharedQueries[Naming, None]("what stands around all gateways", self._ensure_shared)
        self._services = ThingsOfFollowers(api, "services", SERVICE, called="service")

    async def close(self) -> None:
        """Nobody waits for it any more."""
        await self._shared.close()
        await self._services.close()

    async def ensure(self, naming: Naming) -> None:
        """What is about all gateways, before the pod of any is made. Raises `LaunchError`."""
        rules = self._rules
        if rules.has_policy and self._api.access.is_inside and rules.manager is None:
            raise LaunchError("A network policy would keep the manager from its own gateways.", hint=_BY_LABEL)
        if rules.has_policy or rules.refuses_eviction:
            await self._shared.at(naming)

    async def _ensure_shared(self, namings: Sequence[Naming]) -> Mapping[Naming, None]:
        rules, namespace = self._rules, self._api.namespace
        for naming in namings:
            if rules.has_policy:
                policy = network_policy(rules, naming=naming, namespace=namespace)
                await self._ensure("networkpolicies", policy, "network policy", NETWORKING, naming)
            if rules.refuses_eviction:
                budget = disruption_budget(naming=naming)
                await self._ensure("poddisruptionbudgets", budget, "disruption budget", DISRUPTIONS, naming)
        return dict.fromkeys(namings)

    async def ensure_name(self, follower_id: FollowerId, naming: Naming) -> None:
        """The gateway's name for bots, before it logs in; without it, it starts all the same."""
        wanted = service(follower_id, naming=naming)
        called = f"the service {wanted['metadata']['name']}"
        try:
            with self._refused(called):
                if (found := await self._services.there(wanted, follower_id)) is not None:
                    await self._put_right(found, wanted, "service", kind="services", naming=naming)
        except LaunchError as error:
            log.warning("no service for a gateway", follower=follower_id, why=str(error))

    async def _ensure(self, kind: str, wanted: Mapping[str, Any], what: str, group: str, naming: Naming) -> None:
        """There, ours, and as it should be."""
        api, name = self._api, str(wanted["metadata"]["name"])
        called = f"the {what} {name}"
        with self._refused(called):
            found = await api.get(f"read {called}", api.place(kind, name, group=group))
            if found is None:
                await api.create(f"create {called}", api.place(kind, group=group), wanted)
            else:
                await self._put_right(found, wanted, what, kind=kind, group=group, naming=naming)

    async def _put_right(
        self, found: Thing, wanted: Thing, what: str, *, kind: str, naming: Naming, group: str = ""
    ) -> None:
        """What somebody has changed in it. Raises `LaunchError` where it is not ours."""
        name = str(wanted["metadata"]["name"])
        if not naming.owns(found):
            identity = naming.others_identity(found)
            raise held_name(what, name, identity, remove=f"`kubectl delete {kind} {name}`")
        if not _is_so(found["spec"], wanted["spec"]):
            version = {"resourceVersion": found["metadata"]["resourceVersion"]}
            path, so = self._api.place(kind, name, group=group), {**wanted["metadata"], **version}
            await self._api.replace(f"change the {what} {name}", path, {**wanted, "metadata": so})

    @staticmethod
    @contextmanager
    def _refused(called: str) -> Iterator[None]:
        """As one of our errors; another launch that has just made the same is none."""
        try:
            yield
        except RefusedError as refused:
            if not refused.is_conflict:
                raise refusal_of(refused, called) from refused


def _is_so(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether it is about the same pods and says the same of them; the API server adds words of its own, and leaves out what is empty."""
    return all((found.get(key) or None) == (each or None) for key, each in wanted.items() if key != "ports")
