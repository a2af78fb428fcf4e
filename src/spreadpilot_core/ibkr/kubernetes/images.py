"""What an image says of itself: who it runs as, and its variables. The API tells nothing of images, so a pod of it prints that.

Such a probe types no login and has no password: it runs `env` and ends, in a second where the image is there. It also pulls the image
before a login waits for it. An image is looked at once for each name, and again after ten minutes where it is pulled each time.

What it said to a manager before is taken for so meanwhile: pods are made by that at once, and none gets its password before the look has
found the same.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from spreadpilot_core.ibkr.errors import ImageError, LaunchError
from spreadpilot_core.ibkr.kubernetes.api import RefusedError
from spreadpilot_core.ibkr.kubernetes.following import until_final
from spreadpilot_core.ibkr.kubernetes.image_notes import ImageNotes
from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER, PodChoices, image_probe
from spreadpilot_core.ibkr.kubernetes.naming import IDENTITY_DIGEST, PROBE, ROLE, Naming, digest
from spreadpilot_core.ibkr.kubernetes.phases import Pod
from spreadpilot_core.ibkr.kubernetes.pod_watch import FollowedPod, PodWatch
from spreadpilot_core.ibkr.kubernetes.pods import name_of, uid_of
from spreadpilot_core.ibkr.kubernetes.refusals import refusal_of
from spreadpilot_core.ibkr.model.gateways import GatewaySpec
from spreadpilot_core.ibkr.runtimes.images import Image, identify
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_FRESH_SECONDS: Final = 600
_FIRST_LINES: Final = 3
"""User id, group id and home, before the variables."""


class ImageProbes:
    """What is known of images in one cluster."""

    def __init__(self, watch: PodWatch, *, choices: PodChoices, within: float, notes: ImageNotes | None = None) -> None:
        self._api = watch.api
        self._watch = watch
        self._choices = choices
        self._within = within
        self._notes = notes or ImageNotes()
        self._noted: dict[str, str] = {}
        """What was said to a manager before, as long as no look has told better."""
        self._known: dict[str, tuple[str, float]] = {}
        self._probes: dict[str, asyncio.Task[str]] = {}
        self._tasks = Tasks("image probes")
        self._tidying = asyncio.Lock()
        self._is_tidy = False

    async def open(self) -> None:
        """Read what managers before have noted."""
        self._noted = dict(await self._notes.read())

    async def at_hand(self, spec: GatewaySpec, naming: Naming) -> Image:
        """The spec's image; `confirm` it before a login.

        Raises:
            ImageError: it can't be had, or fits no contract.
        """
        reference = spec.options.image or ""
        said, at = self._known.get(reference, ("", 0.0))
        is_stale = self._choices.pull_policy == "Always" and time.monotonic() - at > _FRESH_SECONDS
        if not said and (noted := self._noted.get(reference)) is not None:
            with suppress(ImageError):
                image = image_from(reference, noted, spec)
                self._inspection(reference, naming)
                return image
        if not said or is_stale:
            said = await self._inspect(reference, naming)
        return image_from(reference, said, spec)

    async def confirm(self, image: Image, spec: GatewaySpec, naming: Naming) -> None:
        """It is what `at_hand` gave, by a look of this manager's own. Raises `LaunchError`."""
        said, _ = self._known.get(image.reference, ("", 0.0))
        said = said or await self._inspect(image.reference, naming)
        if image_from(image.reference, said, spec) != image:
            raise LaunchError(f"The image {image.reference} is another one than it was when it was looked at last.")

    async def close(self) -> None:
        """Wait for no look any more."""
        await self._tasks.cancel()

    async def _tidy(self, naming: Naming) -> None:
        """Once, before the first look: remove the probes that a manager with this identity left when it was killed."""
        async with self._tidying:
            if self._is_tidy:
                return
            selector = f"{ROLE}={PROBE},{IDENTITY_DIGEST}={digest(naming.identities.own)}"
            found = await self._api.ask("list image probes", self._api.place("pods"), query={"labelSelector": selector})
            for pod in found.get("items") or ():
                await self._remove(pod)
            self._is_tidy = True

    async def _inspect(self, reference: str, naming: Naming) -> str:
        """What it says, by a look that many may wait for."""
        probe = self._inspection(reference, naming)
        await asyncio.wait([probe])  # a waiter that is cancelled leaves the look to the others
        if probe.cancelled():
            raise LaunchError(f"The runtime was closed while it looked at {reference}.")
        return probe.result()

    def _inspection(self, reference: str, naming: Naming) -> asyncio.Task[str]:
        """The look that is under way, or begins."""
        probe = self._probes.get(reference)
        if probe is None:
            probe = self._tasks.begin(f"look at {reference}", self._probe(reference, naming), then=_someone_awaits)
            self._probes[reference] = probe
            probe.add_done_callback(lambda _: self._probes.pop(reference, None))
        return probe

    async def _probe(self, reference: str, naming: Naming) -> str:
        try:
            await self._tidy(naming)
            manifest = image_probe(reference, secrets.token_hex(4), naming=naming, choices=self._choices)
            with self._watch.follow(str(manifest["metadata"]["name"])) as followed:
                said = await self._said(manifest, followed)
        finally:
            self._noted.pop(reference, None)  # also where it failed: the next one waits for a look
        self._known[reference] = (said, time.monotonic())
        await self._notes.note(reference, said)
        return said

    async def _said(self, manifest: Mapping[str, Any], followed: FollowedPod) -> str:
        """What such a pod printed; it is removed."""
        api = self._api
        try:
            pod = await api.create("create an image probe", api.place("pods"), manifest)
        except RefusedError as refused:
            raise refusal_of(refused, "the image probe") from refused
        try:
            await until_final(pod, followed.states(pod), within=self._within)
            path = f"{api.place('pods', name_of(pod))}/log"
            async with api.stream("read an image probe", path, {"container": CONTAINER}) as printed:
                return (await printed.read()).decode(errors="replace")
        finally:
            await self._remove(pod)

    async def _remove(self, pod: Pod) -> None:
        name = name_of(pod)
        try:
            await self._api.delete(f"remove {name}", self._api.place("pods", name), uid=uid_of(pod), grace=0)
        except Exception as fault:  # noqa: BLE001  # it ends by itself, and the next manager removes it
            log.warning("image probe left behind", pod=name, why=str(fault))


def _someone_awaits(probe: asyncio.Task[str]) -> None:
    """Each waiter gets the failure itself; when all were cancelled, it is told here."""
    if not probe.cancelled() and (fault := probe.exception()):
        log.warning("image not looked at", why=str(fault))


def image_from(reference: str, said: str, spec: GatewaySpec) -> Image:
    """What a probe printed, as an image. Raises `UnknownImageError`, `ImageError`."""
    lines = said.splitlines()
    if len(lines) < _FIRST_LINES or not lines[0].isdecimal() or not lines[1].isdecimal():
        raise ImageError(
            reference,
            f"The image {reference} did not say who it runs as: it has no shell, or other programs than a gateway's.",
            hint="Name a gnzsnz/ib-gateway image in gateway_image.",
        )
    uid, gid, home, *variables = lines
    environment = [*(each for each in variables if not each.startswith("HOME=")), *([f"HOME={home}"] if home else [])]
    config = {"Env": environment, "User": f"{uid}:{gid}", "Cmd": ["?"]}
    found = identify(reference, {"Id": reference, "Config": config}, override=spec.options.image_contract)
    return Image(
        reference=found.reference,
        id=found.id,
        contract=found.contract,
        command=found.contract.command,
        uid=found.uid,
        gid=found.gid,
        reset_hours=found.reset_hours,
        settings_path=found.settings_path,
    )
