"""A made-up API server with pods that a test changes, and watches of them that it breaks, refuses and keeps things from."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER
from spreadpilot_core.ibkr.kubernetes.naming import GATEWAY, ROLE

RUNNING = {"containerStatuses": [{"name": CONTAINER, "state": {"running": {}}}]}
_DENIED = 'pods is forbidden: User "manager" cannot watch resource "pods"'


class WatchedPods:
    """Give `answer` to `answered_by`."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        """Each request but those for the version, as "GET alice", "watch" or "list"."""
        self.watches: set[asyncio.Queue[str]] = set()
        self.is_mute = False
        """Whether watches tell nothing of what happens, as through a connection that is dead."""
        self.refuses_watches = False
        self.answers_pods = True
        self._version = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        if request.path == "/version":
            return web.json_response({"gitVersion": "v1"})
        name = request.path.rpartition("/")[2]
        if name != "pods":
            return self._answer_pod(name)
        self.asked.append("watch" if "watch" in request.query else "list")
        if "watch" in request.query:
            return _status(403, _DENIED) if self.refuses_watches else await self._watch(request)
        return web.json_response({"metadata": {"resourceVersion": str(self._version)}, "items": []})

    def _answer_pod(self, name: str) -> web.Response:
        self.asked.append(f"GET {name}")
        if not self.answers_pods:
            return _status(503, "not now")
        found = self.pods.get(name)
        return _status(404, "not found") if found is None else web.json_response(found)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        lines: asyncio.Queue[str] = asyncio.Queue()
        self.watches.add(lines)
        try:
            while line := await lines.get():
                await response.write(line.encode() + b"\n")
        finally:
            self.watches.discard(lines)
        if request.transport is not None:
            request.transport.abort()
        return response

    # ------------------------------------------------------------------ what a test does

    def make(self, name: str, **status: Any) -> dict[str, Any]:
        """A new pod of this name."""
        self._version += 1
        return self._put("ADDED", {"metadata": {"name": name, "uid": f"u-{self._version}"}, "status": status})

    def change(self, name: str, **status: Any) -> dict[str, Any]:
        """It has this status now."""
        return self._put("MODIFIED", {**self.pods[name], "status": status})

    def remove(self, name: str) -> None:
        """It is gone."""
        self._put("DELETED", self.pods.pop(name))
        self.pods.pop(name)

    def leave(self, name: str) -> None:
        """Somebody takes the label by which it is watched; it is there, and watches call that its end."""
        self._put("DELETED", self.pods[name])

    def break_watches(self) -> None:
        """Their connections are cut."""
        for lines in self.watches:
            lines.put_nowait("")

    def _put(self, kind: str, pod: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        labels = {ROLE: GATEWAY, **pod["metadata"].get("labels", {})}
        metadata = {**pod["metadata"], "labels": labels, "resourceVersion": str(self._version)}
        made = self.pods[metadata["name"]] = {**pod, "metadata": metadata}
        for lines in () if self.is_mute else self.watches:
            lines.put_nowait(json.dumps({"type": kind, "object": made}))
        return made


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "message": message}, status=code)
