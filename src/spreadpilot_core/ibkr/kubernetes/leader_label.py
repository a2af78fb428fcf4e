"""The label on the pod of the manager that acts, by which a Service finds it among those that stand by."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import quote

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.naming import NAMESPACE
from spreadpilot_core.ibkr.tasks import Backoff
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

LEADER: Final = f"{NAMESPACE}/leader"
"""Its value is the name of the leader lease, so that fleets in one namespace are told apart."""


class LeaderLabel:
    """This manager's pod bears it while it acts; a former leader that can't take it off loses it to the next one."""

    def __init__(self, api: Api, *, pod: str, namespace: str | None, lease: str) -> None:
        self._api = api
        self._pod = pod
        self._namespace = namespace
        self._lease = lease
        self._wanted = False
        self._changed = asyncio.Event()

    def want(self, wanted: bool) -> None:  # the one fact
        """Whether this manager acts now."""
        self._wanted = wanted
        self._changed.set()

    async def keep(self) -> None:
        """Have it as it is wanted, for ever; what fails is tried again."""
        backoff = Backoff(0.5, 15.0)
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._put(self._wanted)
            except GatewayManagerError as error:
                log.warning("leader label", pod=self._pod, error=str(error))
                self._changed.set()
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()

    async def take_off(self) -> None:
        """At the end. Raises `GatewayManagerError`."""
        self._wanted = False
        await self._put(False)

    async def _put(self, wanted: bool) -> None:
        if not self._api.is_open:
            await self._api.open()
        if wanted:
            query = {"labelSelector": f"{LEADER}={self._lease}"}
            bearers = (await self._api.ask("find the last leader", self._place(), query=query)).get("items") or []
            for name in (each["metadata"]["name"] for each in bearers):
                if name != self._pod:
                    await self._label(name, None)
        await self._label(self._pod, self._lease if wanted else None)

    async def _label(self, pod: str, value: str | None) -> None:
        changes: dict[str, Any] = {"metadata": {"labels": {LEADER: value}}}
        try:
            await self._api.patch(f"label the pod {pod}", self._place(pod), changes)
        except RefusedError as refused:
            if not refused.is_gone:
                raise

    def _place(self, pod: str = "") -> str:
        namespace = quote(self._namespace or self._api.namespace, safe="")
        return f"/api/v1/namespaces/{namespace}/pods" + (f"/{quote(pod, safe='')}" if pod else "")
