"""Looking at an image in a cluster, by script, over a real connection: what is removed, noted and made sure of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from spreadpilot_core.ibkr.errors import ImageError, LaunchError
from spreadpilot_core.ibkr.kubernetes.image_notes import NOTES, ImageNotes
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

NAMING = Naming("fleet", Identities("own"))
SPEC = make_spec()


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
        watch = PodWatch(api, FOLLOWED)
        probes = ImageProbes(watch, choices=PodChoices(), within=30.0)
        for image in ("one", "two"):
            with pytest.raises(ImageError):
                await probes.at_hand(make_spec(options=OPTIONS.model_copy(update={"image": image})), NAMING)
        await probes.close()
        await watch.close()
    ours = f"{ROLE}={PROBE},{IDENTITY_DIGEST}={digest('own')}"
    look = ["POST pods", "GET log", "DELETE new"]
    asked = [each for each in asked if not each.startswith("GET fleet-image-")]  # since the watch is away
    assert asked == ["GET version", f"GET pods {ours}", "DELETE left", *look, *look]


class Looked:
    """A cluster whose image says what a test wants, once it may."""

    def __init__(self) -> None:
        self.uid = 1000
        self.may_say = asyncio.Event()
        self.may_say.set()
        self.is_there = True
        self.looks = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        if request.query.get("labelSelector") == FOLLOWED:
            return web.json_response({"kind": "Status", "message": "away"}, status=503)
        if request.path.endswith("/log"):
            await self.may_say.wait()
            variables = "IBC_APP_DIR=/home/ibgateway/ibcontroller\nIBC_PROGRAM=gateway\n"
            return web.Response(text=f"{self.uid}\n{self.uid}\n/home/ibgateway\n{variables}")
        self.looks += request.method == "POST"
        if request.method == "POST" and not self.is_there:
            return web.json_response({"kind": "Status", "message": "no such image"}, status=403)
        return web.json_response({"gitVersion": "v1", "items": [], **ENDED})

    @asynccontextmanager
    async def probes(self, directory: Path) -> AsyncIterator[ImageProbes]:
        """Those of another manager with the same state directory."""
        async with answered_by(self.answer, directory) as api:
            watch = PodWatch(api, FOLLOWED)
            probes = ImageProbes(watch, choices=PodChoices(), within=30.0, notes=ImageNotes(directory / NOTES))
            await probes.open()
            yield probes
            await probes.close()
            await watch.close()

    async def noted(self, directory: Path) -> None:
        """A manager has looked."""
        async with self.probes(directory) as probes:
            await probes.confirm(await probes.at_hand(SPEC, NAMING), SPEC, NAMING)


async def test_what_an_image_said_to_the_manager_before_is_made_sure_of_while_pods_start(tmp_path: Path) -> None:
    """Nobody waits for a look before there is a pod; before its login everybody does."""
    cluster = Looked()
    await cluster.noted(tmp_path)
    cluster.may_say.clear()
    async with cluster.probes(tmp_path) as probes:
        image = await probes.at_hand(SPEC, NAMING)
        assert (image.uid, image.settings_path) == (1000, "/home/ibgateway/tws_settings")
        confirming = asyncio.create_task(probes.confirm(image, SPEC, NAMING))
        await asyncio.sleep(0.1)
        assert not confirming.done()
        cluster.may_say.set()
        await confirming
        assert await probes.at_hand(SPEC, NAMING) == image
    assert cluster.looks == 2


async def test_an_image_that_is_another_one_by_now_gets_no_password(tmp_path: Path) -> None:
    """Its pods were made for another user than it has; the next ones are made for the right one."""
    cluster = Looked()
    await cluster.noted(tmp_path)
    cluster.uid = 2000
    async with cluster.probes(tmp_path) as probes:
        image = await probes.at_hand(SPEC, NAMING)
        with pytest.raises(LaunchError, match="is another one than it was"):
            await probes.confirm(image, SPEC, NAMING)
        found = await probes.at_hand(SPEC, NAMING)
        assert found.uid == 2000
        await probes.confirm(found, SPEC, NAMING)


async def test_an_image_that_can_not_be_looked_at_any_more_gets_no_password(tmp_path: Path) -> None:
    """Nothing that was noted of it is believed again."""
    cluster = Looked()
    await cluster.noted(tmp_path)
    cluster.is_there = False
    async with cluster.probes(tmp_path) as probes:
        image = await probes.at_hand(SPEC, NAMING)
        for _ in range(2):
            with pytest.raises(LaunchError, match="no such image"):
                await probes.confirm(image, SPEC, NAMING)
        with pytest.raises(LaunchError, match="no such image"):
            await probes.at_hand(SPEC, NAMING)


@pytest.mark.parametrize(
    "content", [b"{", b"[1]", b'{"example.org/ib-gateway:test": 1}', b'{"example.org/ib-gateway:test": "x"}']
)
async def test_notes_that_say_nothing_are_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    """The image is looked at, and noted anew."""
    (tmp_path / NOTES).write_bytes(content)
    cluster = Looked()
    cluster.may_say.clear()
    async with cluster.probes(tmp_path) as probes:
        looking = asyncio.create_task(probes.at_hand(SPEC, NAMING))
        await asyncio.sleep(0.1)
        assert not looking.done()
        cluster.may_say.set()
        assert (await looking).uid == 1000
    assert "1000" in (await ImageNotes(tmp_path / NOTES).read())[str(SPEC.options.image)]
