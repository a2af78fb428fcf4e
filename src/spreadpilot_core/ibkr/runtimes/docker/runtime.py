"""Gateways in containers on this host's Docker Engine: the default runtime.

    prepare      the image at hand, its generation told                      images, runtimes.images
    launch       network, settings volume, container with a port of its own  network, containers, runtimes.host_ports
                 its password, then its start, once, ever: no restart        runtimes.create_then_start
    list …       everything with our identity, whatever its phase            naming
    changes, log                                                             streams

A launch is no transaction: one that was cut off may have done its work, so whoever is cut off lists again.
It touches only what bears an identity of this manager and is made as it makes containers, and knows no policy: nothing here decides whether or when to do any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from spreadpilot_core.ibkr.errors import (
    LaunchError,
    NameTakenError,
    PortTakenError,
    RuntimeUnavailableError,
    SettingsError,
    UserTakenError,
)
from spreadpilot_core.ibkr.model.figures import ContainerFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import (
    Controller,
    DeliveryTarget,
    Endpoint,
    ForeignGateway,
    Gateway,
    GatewaySpec,
    LastWords,
)
from spreadpilot_core.ibkr.model.records import NOBODY, ContainerId, Identities
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.runtimes.create_then_start import create_then_start
from spreadpilot_core.ibkr.runtimes.docker.client_networks import ClientNetworks
from spreadpilot_core.ibkr.runtimes.docker.containers import (
    HealthCheck,
    Labelled,
    container_config,
    doubtful_settings,
    foreign_from,
    gateway_from,
    last_words,
    owned_directory,
)
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine, EngineRefusedError, gone_is_fine
from spreadpilot_core.ibkr.runtimes.docker.images import ImageStore, PullPolicy
from spreadpilot_core.ibkr.runtimes.docker.naming import FOLLOWER, OWNER, USER, Naming
from spreadpilot_core.ibkr.runtimes.docker.network import GatewayNetwork
from spreadpilot_core.ibkr.runtimes.docker.streams import container_changes, last_lines, log_lines
from spreadpilot_core.ibkr.runtimes.docker.usage import usage_in
from spreadpilot_core.ibkr.runtimes.held_names import held_name
from spreadpilot_core.ibkr.runtimes.host_ports import PortLeases, endpoint_of
from spreadpilot_core.ibkr.runtimes.images import PASSWORD_FILE, Image
from spreadpilot_core.ibkr.seams import CommitLogin, DeliverSecret
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)


def _package_version() -> str:
    try:
        return version("spreadpilot-gateway-manager")
    except PackageNotFoundError:  # run from a copy of the sources
        return "0"


_VERSION: Final = _package_version()
_LAST_LINES: Final = 1000
"""Of a container that is removed: whatever it logged after the log was last read, so that no typed login is missed."""
_REMOVAL_SECONDS: Final = 60
_REMOVAL_POLL: Final = 0.05
_CLOSING_SECONDS: Final = 5
_INSPECTIONS_AT_ONCE: Final = 8


class DockerRuntime:
    """`seams.GatewayRuntime` on one Docker Engine."""

    def __init__(
        self,
        *,
        socket: str,
        prefix: str,
        pull_policy: PullPolicy = "missing",
        health: HealthCheck | None = None,
        docker_config: Path | None = None,
        identities: Identities = NOBODY,
        ports: PortLeases | None = None,
        client_networks: Sequence[str] = (),
    ) -> None:
        self.ports = ports or PortLeases()
        self._naming = Naming(prefix, identities)
        self.foreign: Sequence[ForeignGateway] = ()
        self._engine = Engine(socket)
        self._version = _VERSION
        self._images = ImageStore(self._engine, policy=pull_policy, docker_config=docker_config)
        self._network = GatewayNetwork(self._engine, self._naming, version=self._version)
        self._client_networks = ClientNetworks(
            self._engine, self._naming, allowed=client_networks, version=self._version
        )
        self._health = health or HealthCheck()
        self._controllers: dict[FollowerId, Controller] = {}
        self._reset_hours: dict[FollowerId, str | None] = {}

    @property
    def identities(self) -> Identities:
        """Whose containers these are."""
        return self._naming.identities

    @identities.setter
    def identities(self, identities: Identities) -> None:
        naming = Naming(self._naming.prefix, identities)
        self._naming = self._network.naming = self._client_networks.naming = naming

    @property
    def guard(self) -> Callable[[], None]:
        """The engine's, which sends the requests."""
        return self._engine.guard

    @guard.setter
    def guard(self, guard: Callable[[], None]) -> None:
        self._engine.guard = guard

    @classmethod
    def from_settings(cls, settings: Settings, *, manager_id: str) -> DockerRuntime:
        """The runtime that the settings ask for; its identities are told later, once the record store was read."""
        del manager_id
        return cls(
            socket=socket_path(settings.docker_host),
            prefix=settings.container_prefix,
            pull_policy=settings.image_pull_policy,
            ports=PortLeases(settings.port_range_start, settings.port_range_end),
            client_networks=settings.gateway_networks,
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
                rows = [row["Labels"] for row in await self._engine.containers([OWNER])]
                ours = {marks.get(FOLLOWER, "") for marks in rows if self._naming.owns(marks)}
                await self._client_networks.remove_unused(ours)
                if not ours:
                    await self._network.remove()
        await self._images.close()
        await self._engine.close()

    # ------------------------------------------------------------------ launching

    async def identity(self) -> str:
        """The engine's own id, and its host's name: machines that were cloned with a Docker Engine have one id."""
        facts = await self._engine.facts()
        return f"docker:{facts['ID']}@{facts['Name']}"

    async def prepare(self, spec: GatewaySpec) -> Controller:
        """Have the image at hand and tell its controller."""
        image = await self._images.at_hand(spec)
        self._controllers[spec.follower_id] = image.contract.controller
        self._reset_hours[spec.follower_id] = image.reset_hours
        return image.contract.controller

    def reset_hours(self, follower_id: FollowerId) -> str | None:
        """Those of the image that `prepare` found: a simulator's states some, or none at all."""
        return self._reset_hours.get(follower_id)

    def waits_for(self, follower_id: FollowerId) -> str | None:  # noqa: ARG002  # the seam's
        """Nothing: a container has its place at once."""
        return None

    async def launch(self, spec: GatewaySpec, client_id: int, *, secret: DeliverSecret, commit: CommitLogin) -> Gateway:
        """Create it, have its password delivered, commit, start."""
        return await create_then_start(
            self.ports,
            spec.follower_id,
            create=partial(self._create, spec, client_id),
            start=self._start,
            discard=lambda container_id: self.remove(container_id, grace=0),
            secret=secret,
            commit=commit,
        )

    async def _create(self, spec: GatewaySpec, client_id: int, host_port: int) -> DeliveryTarget:
        """Make the container; it waits for its password and runs nothing yet."""
        image = await self._images.at_hand(spec)
        if self._controllers.get(spec.follower_id, image.contract.controller) != image.contract.controller:
            raise LaunchError(
                f"The image {image.reference} changed to {image.contract.controller_name} after it was looked at."
            )
        await self._refuse_second(spec.follower_id)
        await self._refuse_user(spec.user)
        network = await self._network.ensure()
        has_settings = await self._has_settings(spec)
        name = self._naming.container(spec.follower_id)
        container_id = await self._create_container(name, image, spec, Labelled(host_port, client_id), network)
        try:  # again: of two managers that create at once, each has looked before the other's was there
            await self._refuse_user(spec.user)
        except LaunchError:
            await self._delete(container_id)
            raise
        if not has_settings:
            await self._give_settings(container_id, spec, image)
        address = {"socket": self._engine.socket, "api_version": self._engine.api_version}
        return DeliveryTarget("docker", container_id, address)

    async def _start(self, container_id: ContainerId) -> Gateway:
        """Start it, once."""
        try:
            await self._engine.start_container(container_id)
        except EngineRefusedError as refused:
            if "address already in use" in refused.said or "port is already allocated" in refused.said:
                found = await self.inspect(container_id)
                raise PortTakenError(found.endpoint.port if found and found.endpoint else 0) from refused
            raise
        inspection = await self._engine.inspect_container(container_id)
        gateway = self._gateway(inspection, newest_image=None) if inspection is not None else None  # it has the newest
        if gateway is None:
            raise LaunchError(f"The container {container_id[:12]} was removed by somebody else while it started.")
        return gateway

    async def _create_container(
        self, name: str, image: Image, spec: GatewaySpec, labelled: Labelled, network: str
    ) -> ContainerId:
        config = container_config(
            image,
            spec,
            labelled,
            naming=self._naming,
            api=self._engine.api,
            health=self._health,
            version=self._version,
            network=network,
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
        for row in await self._engine.containers([OWNER, f"{FOLLOWER}={follower_id}"]):
            holder = await self._engine.inspect_container(row["Id"]) if self._naming.owns(row["Labels"]) else None
            if holder is not None and not self._is_strange(holder):
                raise self._name_taken(holder["Name"].removeprefix("/"), holder)

    async def _refuse_user(self, user: str) -> None:
        """One session of an IBKR user: another manager's container holds its user from its creation to its end."""
        for row in await self._engine.containers([OWNER, f"{USER}={user_digest(user)}"]):
            found = await self._engine.inspect_container(row["Id"]) if not self._naming.owns(row["Labels"]) else None
            foreign = foreign_from(found, naming=self._naming) if found is not None else None
            if foreign is not None and foreign.user_digest is not None and not foreign.is_ended:
                raise UserTakenError(user, foreign)

    def _is_strange(self, inspection: Mapping[str, Any]) -> bool:
        """Whether it is not ours to touch, whatever its labels say."""
        gateway = self._gateway(inspection, newest_image=None)
        return gateway is None or bool(gateway.faults)

    def _name_taken(self, name: str, holder: Mapping[str, Any]) -> NameTakenError:
        marks = holder["Config"].get("Labels") or {}
        what = f"{holder['Id'][:12]}, image {holder['Config']['Image']}, {holder['State']['Status']}"
        if not self._is_strange(holder):
            return NameTakenError(f"The follower {marks.get(FOLLOWER)} has a container already: {name} ({what}).")
        identity = self._naming.others_identity(marks)
        runs = holder["State"]["Status"] in ("running", "paused", "restarting")
        return held_name("container", name, identity, remove=f"`docker rm {name}`", details=what, runs=runs)

    async def _has_settings(self, spec: GatewaySpec) -> bool:
        """Whether its volume is there already; the engine makes one that is not, with the container."""
        name = self._naming.volume(spec.follower_id, spec.trading_mode, spec.user)
        volume = await self._engine.inspect_volume(name)
        if volume is not None and not self._naming.owns(marks := volume.get("Labels") or {}):
            identity = self._naming.others_identity(marks)
            raise held_name("Docker volume", name, identity, remove=f"`docker volume rm {name}`")
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

    async def list(self) -> Sequence[Gateway]:
        """Every container with an identity of ours, whatever its phase; `foreign` has the others afterwards."""
        before = self.ports.containers
        rows = await self._engine.containers([OWNER])
        limit = asyncio.Semaphore(_INSPECTIONS_AT_ONCE)

        async def inspect_row(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
            async with limit:
                return await self._engine.inspect_container(row["Id"])

        seen = [each for each in await asyncio.gather(*map(inspect_row, rows)) if each is not None]
        foreign = (foreign_from(each, naming=self._naming) for each in seen)
        self.foreign = [each for each in foreign if each is not None]
        found = [each for each in seen if self._naming.owns(each["Config"].get("Labels"))]
        # By the name in the inspection: a list has the id instead once the name is another image's.
        names = {each["Config"]["Image"] for each in found}
        newest = {name: await self._images.current_id(name) for name in names}
        seen_as = (self._gateway(each, newest[each["Config"]["Image"]]) for each in found)
        gateways = [gateway for gateway in seen_as if gateway is not None]
        self.ports.listed(gateways, self.foreign, before=before)
        return gateways

    async def inspect(self, container_id: ContainerId) -> Gateway | None:
        """One container with an identity of ours, or None when there is none."""
        inspection = await self._engine.inspect_container(container_id)
        if inspection is None:
            self.ports.gone(container_id)
            return None
        return self._gateway(inspection, await self._images.current_id(inspection["Config"]["Image"]))

    def _gateway(self, inspection: Mapping[str, Any], newest_image: str | None) -> Gateway | None:
        return gateway_from(inspection, naming=self._naming, newest_image=newest_image)

    def changes(self) -> AsyncIterator[ContainerId | None]:
        """Which of our containers changed; None first, at every break and after it."""
        return container_changes(self._engine, self._naming)

    def log(self, gateway: Gateway) -> AsyncIterator[str]:
        """What this life has printed, from its start, then live."""
        return log_lines(self._engine, gateway)

    async def reach(self, gateway: Gateway) -> Endpoint:
        """Its endpoint: it is published on this host."""
        return endpoint_of(gateway)

    async def endpoint_for(self, gateway: Gateway, address: str) -> Endpoint | None:
        """In a network of its own with the container that has this address, where the settings let that one in."""
        return await self._client_networks.endpoint_for(gateway, address)

    # ------------------------------------------------------------------ ending

    async def remove(self, container_id: ContainerId, *, grace: float) -> LastWords:
        """Stop it, keep its last words, remove it. Its settings stay."""
        found = await self._engine.inspect_container(container_id)
        if found is None:
            self.ports.gone(container_id)
            return LastWords(None, ())
        self._refuse_foreign(found)
        if found["State"]["Running"]:
            await self._end(container_id, grace)
            found = await self._engine.inspect_container(container_id) or found
        lines = await last_lines(self._engine, container_id, _LAST_LINES)
        await self._mend_settings(found)
        await self._delete(container_id)
        self.ports.gone(container_id)
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

    async def usage(self, container_id: ContainerId) -> ContainerFigures | None:
        """What the container uses now; None where the engine has no figures, or it is gone."""
        return usage_in(await self._engine.usage(container_id) or {})

    async def forget_secret(self, container_id: ContainerId) -> None:
        """Remove the password file inside, where there is one. Raises `LaunchError` when it could not be removed."""
        if await self._run_inside(container_id, ["rm", "-f", PASSWORD_FILE]) is None:
            raise LaunchError(
                f"The password file {PASSWORD_FILE} in container {container_id[:12]} could not be removed."
            )

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
        if self._is_strange(inspection):
            raise LaunchError(f"The container {inspection['Name'].removeprefix('/')} is not this manager's.")


def socket_path(docker_host: str) -> str:
    """The engine's socket. Raises `SettingsError` when `docker_host` names no socket of this host."""
    scheme, separator, path = docker_host.partition("://")
    if scheme != "unix" or not separator or not path:
        raise SettingsError(
            "docker_host", docker_host, "gateways run on this host's engine, so it must be unix:// and a socket's path"
        )
    return path
