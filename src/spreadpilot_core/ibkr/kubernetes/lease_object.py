"""The document of a leader lease as a `Lease` of the cluster (`coordination.k8s.io/v1`), each change under the condition of its version.

holderIdentity         the holder; none once it has resigned
leaseTransitions       the number of the lease: it grows with each change of the holder
leaseDurationSeconds   after how long a silence another one may take it
renewTime              for people: nobody here trusts a clock of somebody else's
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError, StoreUnavailableError
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.naming import NAMESPACE, annotations_of
from spreadpilot_core.ibkr.system.clock import Clock, utc_now

GROUP: Final = "coordination.k8s.io/v1"
ENGINE: Final = f"{NAMESPACE}/engine"
FOR_ENGINE: Final = f"{NAMESPACE}/for-engine"


class LeaseObject(NamedTuple):
    """The lease as it was read."""

    number: int
    content: Mapping[str, Any]
    version: str
    """The API server's word for this state of it; empty where there is none."""


class ClusterLease:
    """`leadership.lease.LeaseDocument` in the cluster. Both methods raise `StoreUnavailableError`."""

    def __init__(self, api: Api, name: str, *, clock: Clock = utc_now) -> None:
        self._api = api
        self._name = name
        self._clock = clock
        self._read = LeaseObject(0, {}, "")
        self._acquired: str | None = None

    async def read(self, name: str) -> LeaseObject:
        """The lease as it is. One that somebody deleted counts as it was last, so that its holder is not forgotten at once."""
        del name  # the one document that the lease knows has the object's own name
        try:
            if not self._api.is_open:
                await self._api.open()
            found = await self._api.get("read the leader lease", self._place(self._name))
        except RefusedError as refused:
            raise _unusable(refused) from refused
        except RuntimeUnavailableError as away:
            raise StoreUnavailableError(away.what, hint=away.hint) from away
        version = "" if found is None else str(found["metadata"]["resourceVersion"])
        if version != self._read.version:
            content = self._read.content if found is None else _content_of(found)
            self._read = LeaseObject(self._read.number + 1, content, version)
            self._acquired = None if found is None else (found.get("spec") or {}).get("acquireTime")
        return self._read

    async def write(self, read: LeaseObject, content: Mapping[str, Any]) -> bool:
        """Change it, unless somebody has since it was read."""
        lease = self._manifest(read, content)
        doing = "write the leader lease"
        try:
            if read.version:
                await self._api.patch(doing, self._place(self._name), lease)
            else:
                await self._api.create(doing, self._place(), lease)
        except RefusedError as refused:
            if refused.is_conflict or refused.is_gone:
                return False
            raise _unusable(refused) from refused
        except RuntimeUnavailableError as away:
            raise StoreUnavailableError(away.what, hint=away.hint) from away
        return True

    def _place(self, name: str = "") -> str:
        return self._api.place("leases", name, group=GROUP)

    def _manifest(self, read: LeaseObject, content: Mapping[str, Any]) -> dict[str, Any]:
        now = _micro_time(self._clock())
        goes_on = content["number"] == read.content.get("number") and self._acquired is not None
        marks = {ENGINE: content["engine_id"], FOR_ENGINE: content.get("for_engine")}
        metadata: dict[str, Any] = {"name": self._name, "annotations": marks}
        if read.version:
            metadata["resourceVersion"] = read.version
        else:
            metadata["annotations"] = {name: value for name, value in marks.items() if value is not None}
        spec = {
            "holderIdentity": content["holder"] or "",
            "leaseDurationSeconds": math.ceil(content["leader_lease"]),
            "leaseTransitions": content["number"],
            "acquireTime": self._acquired if goes_on else now,
            "renewTime": now,
        }
        return {"apiVersion": GROUP, "kind": "Lease", "metadata": metadata, "spec": spec}


def _content_of(found: Mapping[str, Any]) -> dict[str, Any]:
    said, marks = found.get("spec") or {}, annotations_of(found)
    return {
        "holder": said.get("holderIdentity") or None,
        "number": said.get("leaseTransitions"),
        "leader_lease": said.get("leaseDurationSeconds"),
        "engine_id": marks.get(ENGINE),
        "for_engine": marks.get(FOR_ENGINE),
    }


def _micro_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _unusable(refused: RefusedError) -> StoreUnavailableError:
    return StoreUnavailableError(
        refused.what, hint="The manager's account needs get, create and patch on leases of coordination.k8s.io."
    )
