"""Which of several managers in one cluster acts: by a lease of the cluster, on a connection of its own.

Where the records are shared (MongoDB), another engine may share them too; then the records' own lease is held as well, in the name
of this cluster (see `leadership.among_engines`). With the embedded store there is one manager, which needs no lease, unless it is
a pod: then a second one may be started elsewhere while nobody knows whether the first has ended.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from spreadpilot_core.ibkr import seams
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import access_from
from spreadpilot_core.ibkr.kubernetes.leader_label import LeaderLabel
from spreadpilot_core.ibkr.kubernetes.lease_object import ClusterLease, LeaseObject
from spreadpilot_core.ibkr.kubernetes.naming import legal
from spreadpilot_core.ibkr.leadership.among_engines import LeaseAmongEngines
from spreadpilot_core.ibkr.leadership.lease import LeaderLease
from spreadpilot_core.ibkr.seams import MakeLease
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.tasks import Tasks, keep_running

_LONGEST_PREFIX = 48
_ANSWERS_WITHIN = 1 / 4
"""Part of the lease: an API server that takes longer is asked again, while there is time."""


def managers_lease(settings: Settings, of_records: MakeLease | None) -> Callable[[str], seams.LeaderLease] | None:
    """The leader lease for an engine id; None: there is only this manager."""
    if of_records is None and settings.pod_name is None:
        return None

    def make(engine_id: str) -> seams.LeaderLease:
        api = Api(access_from(settings), patience=settings.leader_lease * _ANSWERS_WITHIN)
        name = lease_name(settings)
        label = None
        if settings.pod_name is not None:
            label = LeaderLabel(api, pod=settings.pod_name, namespace=settings.pod_namespace, lease=name)
        lease = LeaderLease(
            ClusterLease(api, name),
            holder=_holder(settings),
            engine_id=engine_id,
            leader_lease=settings.leader_lease,
        )
        others = None if of_records is None else of_records(engine_id, holder=engine_id)
        return ClusterLeaderLease(api, lease, others=others, label=label)

    return make


def lease_name(settings: Settings) -> str:
    """What the lease of this fleet is called; it is the label's value too."""
    return f"{legal(settings.container_prefix, _LONGEST_PREFIX)}-manager"


def lease_in_use(settings: Settings) -> str | None:
    """The same, where managers agree by it: where the records are shared, or the manager is a pod."""
    return None if settings.store_is_local and settings.pod_name is None else lease_name(settings)


def _holder(settings: Settings) -> str:
    """This manager's name. A pod that is made anew under its name is another one, a container that begins again is not."""
    where = settings.pod_uid or settings.state_dir.absolute()
    return f"{settings.pod_name or socket.gethostname()}:{where}"


class ClusterLeaderLease:
    """`seams.LeaderLease` by a lease of the cluster; the pod of the leader bears its label."""

    def __init__(
        self,
        api: Api,
        lease: LeaderLease[LeaseObject],
        *,
        others: seams.LeaderLease | None = None,
        label: LeaderLabel | None = None,
    ) -> None:
        self._api = api
        self._lease: seams.LeaderLease = lease if others is None else LeaseAmongEngines(lease, others)
        self._label = label
        self._tasks = Tasks("leader label")

    @property
    def held(self) -> bool:
        """Whether this manager may act now."""
        return self._lease.held

    async def keep(self, on_change: Callable[[seams.Leadership], None], *, take_over: bool = False) -> None:
        """Take, renew, lose, take again, until cancelled; with the API server away nothing is held for longer than the lease."""

        def hear(leadership: seams.Leadership) -> None:
            if self._label is not None:
                self._label.want(leadership.held)
            on_change(leadership)

        if self._label is not None:
            self._tasks.begin("label", keep_running("label the leader's pod", self._label.keep))
        try:
            await self._lease.keep(hear, take_over=take_over)
        finally:
            await self._tasks.cancel()

    async def hand_over(self, *, within: float) -> bool:
        """Resign, and say whether another manager of this cluster has taken it meanwhile. Raises `StoreUnavailableError`."""
        await self._unlabel()
        return await self._lease.hand_over(within=within)

    async def resign(self) -> None:
        """Give it back and let go. Raises `StoreUnavailableError`."""
        try:
            await self._unlabel()
            await self._lease.resign()
        finally:
            await self._api.close()

    async def _unlabel(self) -> None:
        if self._label is not None and self._api.is_open:
            with suppress(GatewayManagerError):  # the next leader takes it off
                await self._label.take_off()
