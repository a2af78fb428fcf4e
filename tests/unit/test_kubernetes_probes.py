"""Looking at an image in a cluster, by script, over a real connection: what a killed manager left of that is removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from spreadpilot_core.ibkr.errors import ImageError
from spreadpilot_core.ibkr.kubernetes.images import ImageProbes
from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER, PodChoices
from spreadpilot_core.ibkr.kubernetes.naming import FOLLOWED, IDENTITY_DIGEST, PROBE, ROLE, Naming, digest
from spreadpilot_core.ibkr.kubernetes.pod_watch import PodWatch
from spreadpilot_core.ibkr.model.records import Identities
from support.runtimes import OPTIONS, make_spec
from support.scripted_kubernetes import answered_by

LEFT = {"metadata": {"name": "left", "uid": "u-left"}}
NEW = {"metadata": {"name": "new", "uid": "u-new", "resourceVersion": "1"}}
ENDED = {**NEW, "status": {"containerStatuses": [{"name": CONTAINER, "state": {"terminated": {"exitCode": 0}}}]}}


async def test_probes_that_a_killed_manager_left_are_removed_before_the_first_look(tmp_path: Path) -> None:
    """Its own alone, and once: those of a look that is under way in this manager are not touched."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.query.get("labelSelector") == FOLLOWED:  # the watch of all
            return web.json_response({"kind": "Status", "message": "away"}, status=503)
        asked.append(
            f"{request.method} {request.path.rpartition('/')[2]} {request.query.get('labelSelector', '')}".strip()
        )
        if request.path.endswith("/log"):
            return web.Response(text="nobody")
        found = {"items": [LEFT]} if "labelSelector" in request.query else ENDED
        return web.json_response({"gitVersion": "v1", **found})

    async with answered_by(answer, tmp_path) as api:
        watch, naming = PodWatch(api, FOLLOWED), Naming("fleet", Identities("own"))
        probes = ImageProbes(watch, choices=PodChoices(), within=30.0)
        for image in ("one", "two"):
            with pytest.raises(ImageError):
                await probes.at_hand(make_spec(options=OPTIONS.model_copy(update={"image": image})), naming)
        await probes.close()
        await watch.close()
    ours = f"{ROLE}={PROBE},{IDENTITY_DIGEST}={digest('own')}"
    look = ["POST pods", "GET log", "DELETE new"]
    asked = [each for each in asked if not each.startswith("GET fleet-image-")]  # since the watch is away
    assert asked == ["GET version", f"GET pods {ours}", "DELETE left", *look, *look]
