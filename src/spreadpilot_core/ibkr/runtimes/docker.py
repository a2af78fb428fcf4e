"""Gateways in containers on this host's Docker Engine: the default runtime.

    prepare   the image at hand, its generation told                      docker_images, images
    create    network, settings volume, container; waits for its secret   docker_network, docker_containers
    start     once, ever: no restart policy, no restart                   here
    find …    everything with our owner label, whatever its state         docker_naming
    events, log                                                           docker_streams

Create and start are no transactions: a call that was cut off may have done its work, so whoever is cut off lists again.
It touches only what bears its owner label, and knows no policy: nothing here decides whether or when to do any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import structlog

from spreadpilot_core.ibkr.errors import (
    LaunchError,
    NameTakenError,
    PortTakenError,
    RuntimeUnavailableError,
    SettingsError,
)
from spreadpilot_core.ibkr.protocols import (
    ContainerId,
    Created,
    Dialect,
    FollowerId,
    Gateway,
    GatewaySpec,
    LastWords,
    Leases,
    RuntimeEvent,
)
from spreadpilot_core.ibkr.runtimes.docker_containers import (
    HealthCheck,
    container_config,
    doubtful_settings,
    gateway_from,
    last_words,
    owned_directory,
)
from spreadpilot_core.ibkr.runtimes.docker_engine import Engine, EngineRefusedError, gone_is_fine
from spreadpilot_core.ibkr.runtimes.docker_images import ImageStore, PullPolicy
from spreadpilot_core.ibkr.runtimes.docker_naming import FOLLOWER, OWNER, Naming
from spreadpilot_core.ibkr.runtimes.docker_network import GatewayNetwork
from spreadpilot_core.ibkr.runtimes.docker_streams import container_events, last_lines, log_lines
from spreadpilot_core.ibkr.runtimes.images import PASSWORD_FILE, Image
from spreadpilot_core.ibkr.settings import Settings

log = structlog.get_logger(__name__)


def _package_version() -> str:
    try:
        return version("spreadpilot-gateway-manager")
    except PackageNotFoundError:  # run from a copy of the sources
        return "0"


_VERSION: Final = _package_version()
_LAST_LINES: Final = 40
_REMOVAL_SECONDS: Final = 60
_REMOVAL_POLL: Final = 0.05
_CLOSING_SECONDS: Final = 5
_INSPECTIONS_AT_ONCE: Final = 8


class DockerRuntime:
    """`protocols.GatewayRuntime` on one Docker Engine."""

    def __init__(
        self,
        *,
        socket: str,
        prefix: str,
        pull_policy: PullPolicy = "missing",
        health: HealthCheck | None = None,
        docker_config: Path | None = None,
    ) -> None:
        self._naming = Naming(prefix)
        self._engine = Engine(socket)
        self._version = _VERSION
        self._images = ImageStore(self._engine, policy=pull_policy, docker_config=docker_config)
        self._network = GatewayNetwork(self._engine, self._naming, version=self._version)
        self._health = health or HealthCheck()
        self._dialects: dict[FollowerId, Dialect] = {}

    @property
    def guard(self) -> Callable[[], None]:
        """The engine's, which sends the requests."""
        return self._engine.guard

    @guard.setter
    def guard(self, guard: Callable[[], None]) -> None:
        self._engine.guard = guard

    @classmethod
    def from_settings(cls, settings: Settings, *, manager_id: str) -> DockerRuntime:
        """The runtime that the settings ask for; every manager with the same prefix is the same owner."""
        del manager_id
        return cls(
            socket=socket_path(settings.docker_host),
            prefix=settings.container_prefix,
            pull_policy=settings.image_pull_policy,
        )

    async def open(self) -> None:
        """Reach the engine and agree on an API version."""
        await self._engine.open()
        log.info("docker engine reached", engine=self._engine.version, api=self._engine.api_version)

    async def close(self) -> None:
        """Let go; the network goes too when no container of ours is left."""
        if not self._engine.is_open:
            return
        with contextlib.suppress(RuntimeUnavailableError, LaunchError, TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                if not await self._engine.containers([self._naming.owner_label]):
                    await self._network.remove()
        await self._images.close()
        await self._engine.close()

    # ------------------------------------------------------------------ launching

    async def engine_id(self) -> str:
        """The engine's own id."""
        return f"docker:{await self._engine.identity()}"

    async def prepare(self, spec: GatewaySpec) -> Dialect:
        """Have the image at hand and tell its controller."""
        image = await self._images.at_hand(spec)
        self._dialects[spec.follower_id] = image.contract.dialect
        return image.contract.dialect

    def pulling(self) -> Sequence[str]:
        """A sentence for each image that is being pulled now, with its progress."""
        return tuple(self._images.progress.values())

    async def create(self, spec: GatewaySpec, leases: Leases) -> Created:
        """Create the container; it waits for its secret on the door and runs nothing yet."""
        image = await self._images.at_hand(spec)
        if self._dialects.get(spec.follower_id, image.contract.dialect) != image.contract.dialect:
            raise LaunchError(
                f"The image {image.reference} changed to {image.contract.controller} after it was looked at."
            )
        await self._refuse_second(spec.follower_id)
        await self._network.ensure()
        has_settings = await self._has_settings(spec)
        name = self._naming.container(spec.follower_id)
        container_id = await self._create(name, image, spec, leases)
        if not has_settings:
            await self._give_settings(container_id, spec, image)
        door = {
            "kind": "docker",
            "socket": self._engine.socket,
            "container": container_id,
            "api_version": self._engine.api_version,
        }
        return Created(container_id, name, door)

    async def start(self, container_id: ContainerId) -> Gateway:
        """Start it, once."""
        try:
            await self._engine.start_container(container_id)
        except EngineRefusedError as refused:
            if "address already in use" in refused.said or "port is already allocated" in refused.said:
                found = await self.inspect(container_id)
                raise PortTakenError(found.leases.host_port if found else 0) from refused
            raise
        inspection = await self._engine.inspect_container(container_id)
        gateway = self._gateway(inspection, newest_image=None) if inspection is not None else None  # it has the newest
        if gateway is None:
            raise LaunchError(f"The container {container_id[:12]} was removed by somebody else while it started.")
        return gateway

    async def _create(self, name: str, image: Image, spec: GatewaySpec, leases: Leases) -> ContainerId:
        config = container_config(
            image,
            spec,
            leases,
            naming=self._naming,
            api=self._engine.api,
            health=self._health,
            version=self._version,
        )
        try:
            return ContainerId(await self._engine.create_container(name, config))
        except EngineRefusedError as refused:
            if not refused.is_conflict:
                raise
            holder = await self._engine.inspect_container(name)  # none: it is being made, or removed, this moment
            raise NameTakenError(str(refused)) if holder is None else self._name_taken(name, holder) from refused

    async def _refuse_second(self, follower_id: FollowerId) -> None:
        """A container of this follower may bear another name, when somebody renamed it."""
        marks = self._naming.marks(follower_id)
        if holders := await self._engine.containers([f"{key}={value}" for key, value in marks.items()]):
            holder = await self._engine.inspect_container(holders[0]["Id"])
            if holder is not None:
                raise self._name_taken(holder["Name"].removeprefix("/"), holder)

    def _name_taken(self, name: str, holder: Mapping[str, Any]) -> NameTakenError:
        marks = holder["Config"].get("Labels") or {}
        what = f"{holder['Id'][:12]}, image {holder['Config']['Image']}, {holder['State']['Status']}"
        if self._naming.owns(marks):
            return NameTakenError(f"The follower {marks.get(FOLLOWER)} has a container already: {name} ({what}).")
        whose = f", owner {marks[OWNER]}" if OWNER in marks else ""
        return NameTakenError(
            f"A container that is not this manager's bears the name {name} ({what}{whose}).",
            hint="Remove or rename it, or choose another container_prefix.",
        )

    async def _has_settings(self, spec: GatewaySpec) -> bool:
        """Whether its volume is there already; the engine makes one that is not, with the container."""
        name = self._naming.volume(spec.follower_id, spec.trading_mode, spec.user)
        volume = await self._engine.inspect_volume(name)
        if volume is not None and not self._naming.owns(volume.get("Labels")):
            raise LaunchError(
                f"A Docker volume that is not this manager's bears the name {name}.",
                hint=f"Remove it (`docker volume rm {name}`), or choose another container_prefix.",
            )
        return volume is not None

    async def _give_settings(self, container_id: ContainerId, spec: GatewaySpec, image: Image) -> None:
        """A fresh volume belongs to root, and the image's user is to write to it; refused, both go again."""
        try:
            await self._engine.put_archive(container_id, *owned_directory(image.settings_path, image.uid, image.gid))
        except LaunchError:
            await self._delete(container_id)
            with gone_is_fine():
                await self._engine.delete_volume(self._naming.volume(spec.follower_id, spec.trading_mode, spec.user))
            raise

    # ------------------------------------------------------------------ looking

    async def find(self) -> Sequence[Gateway]:
        """Every container of ours, whatever its state."""
        rows = await self._engine.containers([self._naming.owner_label])
        limit = asyncio.Semaphore(_INSPECTIONS_AT_ONCE)

        async def look_at(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
            async with limit:
                return await self._engine.inspect_container(row["Id"])

        found = [each for each in await asyncio.gather(*map(look_at, rows)) if each is not None]
        # By the name in the inspection: a list has the id instead once the name is another image's.
        names = {each["Config"]["Image"] for each in found}
        newest = {name: await self._images.current_id(name) for name in names}
        gateways = (self._gateway(each, newest[each["Config"]["Image"]]) for each in found)
        return [gateway for gateway in gateways if gateway is not None]

    async def inspect(self, container_id: ContainerId) -> Gateway | None:
        """One container of ours, or None when there is none."""
        inspection = await self._engine.inspect_container(container_id)
        if inspection is None:
            return None
        return self._gateway(inspection, await self._images.current_id(inspection["Config"]["Image"]))

    def _gateway(self, inspection: Mapping[str, Any], newest_image: str | None) -> Gateway | None:
        return gateway_from(inspection, naming=self._naming, newest_image=newest_image)

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """What happens to our containers; `GAP` first, at every break and after it."""
        return container_events(self._engine, self._naming)

    def log(self, gateway: Gateway) -> AsyncIterator[str]:
        """What this life has printed, from its start, then live."""
        return log_lines(self._engine, gateway)

    # ------------------------------------------------------------------ ending

    async def remove(self, container_id: ContainerId, *, grace: float) -> LastWords:
        """Stop it, keep its last words, remove it. Its settings stay."""
        found = await self._engine.inspect_container(container_id)
        if found is None:
            return LastWords(None, ())
        self._refuse_foreign(found)
        if found["State"]["Running"]:
            await self._end(container_id, grace)
            found = await self._engine.inspect_container(container_id) or found
        lines = await last_lines(self._engine, container_id, _LAST_LINES)
        await self._mend_settings(found)
        await self._delete(container_id)
        return last_words(found, lines)

    async def _mend_settings(self, found: Mapping[str, Any]) -> None:
        """A launch that was cut off may have left a volume that belongs to root: the next one is to find it mended.

        Here, while a container still has it, and not in each launch: unpacking costs more than the rest of a creation.
        """
        settings = doubtful_settings(found)
        if settings is None:
            return
        try:
            with gone_is_fine():
                await self._engine.put_archive(found["Id"], *owned_directory(*settings))
        except LaunchError as fault:  # it must not keep the container from being removed
            log.warning("settings volume not given to the image's user", container=found["Name"], why=str(fault))

    async def forget_secret(self, container_id: ContainerId) -> None:
        """Remove the password file inside, where there is one. Raises `LaunchError` when it could not be removed."""
        if await self._run_inside(container_id, ["rm", "-f", PASSWORD_FILE]) is None:
            raise LaunchError(
                f"The password file {PASSWORD_FILE} in container {container_id[:12]} could not be removed."
            )

    async def forget_settings(self, follower_id: FollowerId) -> int:
        """Remove what the follower's gateways kept for their next start; gives how many volumes went.

        Raises:
            LaunchError: one is in use; remove the gateway first.
        """
        marks = self._naming.marks(follower_id)
        volumes = await self._engine.volumes([f"{key}={value}" for key, value in marks.items()])
        for volume in volumes:
            with gone_is_fine():
                await self._engine.delete_volume(volume["Name"])
        return len(volumes)

    async def _run_inside(self, container_id: ContainerId, command: Sequence[str]) -> str | None:
        """The command's output; empty when nothing runs there (any more), None when the command failed."""
        found = await self._engine.inspect_container(container_id)
        if found is None or not found["State"]["Running"]:
            return ""
        self._refuse_foreign(found)
        try:
            with gone_is_fine():
                code, output = await self._engine.execute(container_id, command)
                if code == 0:
                    return output
        except EngineRefusedError as refused:
            if not refused.is_conflict or await self._runs(container_id):
                raise
        return None if await self._runs(container_id) else ""

    async def _runs(self, container_id: ContainerId) -> bool:
        found = await self._engine.inspect_container(container_id)
        return found is not None and bool(found["State"]["Running"])

    async def _end(self, container_id: ContainerId, grace: float) -> None:
        try:
            with gone_is_fine():
                if grace > 0:
                    await self._engine.stop_container(container_id, grace=grace)
                else:
                    await self._engine.kill_container(container_id)
        except EngineRefusedError as refused:
            if not refused.is_conflict:  # it has ended by itself
                raise

    async def _delete(self, container_id: ContainerId) -> None:
        """Remove it; while somebody else does so the engine says "in progress", until it is gone."""
        deadline = asyncio.get_running_loop().time() + _REMOVAL_SECONDS
        while True:
            try:
                with gone_is_fine():
                    await self._engine.delete_container(container_id)
            except EngineRefusedError as refused:
                if not refused.is_conflict or asyncio.get_running_loop().time() > deadline:
                    raise
            else:
                return
            await asyncio.sleep(_REMOVAL_POLL)

    def _refuse_foreign(self, inspection: Mapping[str, Any]) -> None:
        if not self._naming.owns(inspection["Config"].get("Labels")):
            raise LaunchError(f"The container {inspection['Name'].removeprefix('/')} is not this manager's.")


def socket_path(docker_host: str) -> str:
    """The engine's socket. Raises `SettingsError` when `docker_host` names no socket of this host."""
    scheme, separator, path = docker_host.partition("://")
    if scheme != "unix" or not separator or not path:
        raise SettingsError(
            "docker_host", docker_host, "gateways run on this host's engine, so it must be unix:// and a socket's path"
        )
    return path
