"""Where a leader lease is kept: in memory, in MongoDB, in a cluster. Each manager has a connection of its own."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from pydantic import SecretStr

from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from spreadpilot_core.ibkr.kubernetes.lease_object import ClusterLease
from spreadpilot_core.ibkr.leadership.lease import LeaderLease, LeaseDocument
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.store import LEADER_LEASE
from spreadpilot_core.ibkr.store.mongodb.versions import MongoVersions
from support.kubernetes_cluster import Cluster
from support.lease_documents import SharedDocument, StandingClock
from support.ports import free_ports

LEASE = 10.0


class LeasePlace:
    """In memory."""

    def __init__(self) -> None:
        self.clock = StandingClock()
        self._document = SharedDocument(self.clock)

    async def document(self) -> LeaseDocument[Any]:
        """The document, on a connection of its own."""
        return self._document

    async def unreachable(self) -> LeaseDocument[Any]:
        """One that can't be reached."""
        document = SharedDocument(self.clock)
        document.away = True
        return document

    async def remove(self) -> None:
        """Have the document deleted by somebody who should not."""

    async def manager(self, name: str, engine: str = "engine") -> LeaderLease[Any]:
        """One manager's part, in time that stands still."""
        document = await self.document()
        return LeaderLease(document, holder=name, engine_id=engine, leader_lease=LEASE, clock=self.clock)

    async def close(self) -> None:
        """Let go of everything."""


class MongoLeasePlace(LeasePlace):
    """In a real database."""

    def __init__(self, uri: str, name: str) -> None:
        super().__init__()
        self._uri, self._name = uri, name
        self._open: list[MongoDatabase] = []

    async def document(self) -> LeaseDocument[Any]:
        database = MongoDatabase(SecretStr(self._uri), self._name)
        await database.open()
        self._open.append(database)
        return MongoVersions(database, LEADER_LEASE)

    async def unreachable(self) -> LeaseDocument[Any]:
        database = MongoDatabase(SecretStr(f"mongodb://127.0.0.1:{free_ports(1)}/"), self._name)
        self._open.append(database)
        return MongoVersions(database, LEADER_LEASE)

    async def close(self) -> None:
        for database in self._open:
            await database.close()


class ClusterLeasePlace(LeasePlace):
    """In a namespace of a real cluster; from inside of its network alone."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        assert cluster.parts is not None
        self._cluster, self._parts = cluster, cluster.parts
        self._name = f"lease-{secrets.token_hex(4)}"
        self._open: list[Api] = []

    async def document(self) -> LeaseDocument[Any]:
        self._open.append(Api(Access(str(self._cluster.kubeconfig), namespace="default")))
        return ClusterLease(self._open[-1], self._name)

    async def unreachable(self) -> LeaseDocument[Any]:
        elsewhere = self._parts.directory / f"{self._name}.conf"
        known = self._cluster.kubeconfig.read_text()
        elsewhere.write_text(known.replace(":6443", f":{free_ports(1)}"))
        self._open.append(Api(Access(str(elsewhere), namespace="default"), patience=2))
        return ClusterLease(self._open[-1], self._name)

    async def remove(self) -> None:
        await asyncio.to_thread(self._parts.kubectl, "delete", "lease", self._name)

    async def close(self) -> None:
        for api in self._open:
            await api.close()
        await asyncio.to_thread(self._parts.kubectl, "delete", "lease", self._name, "--ignore-not-found")
