"""The Docker Engine, the gateways' image and their network; no image is pulled and nothing is made."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.errors import GatewayManagerError, RuntimeUnavailableError, SettingsError
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.model.records import NOBODY
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine, EngineRefusedError
from spreadpilot_core.ibkr.runtimes.docker.images import pull_error, registry_of, stored_login
from spreadpilot_core.ibkr.runtimes.docker.naming import IDENTITY, Naming
from spreadpilot_core.ibkr.runtimes.docker.reader import docker_reader
from spreadpilot_core.ibkr.runtimes.images import identify
from spreadpilot_core.ibkr.service.doctor.findings import Check, Finding, ok, problem, raised, wanted, warning
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster
from spreadpilot_core.ibkr.wiring import known_identities

_ICC = "com.docker.network.bridge.enable_icc"
_BINDING = "com.docker.network.bridge.host_binding_ipv4"
_LOOPBACK = "127.0.0.1"
_OUTLIVED = "Gateways outlive a restart of it (live-restore)."
_NOT_OUTLIVED = (
    'A restart of it, for an upgrade say, logs every gateway out, unless /etc/docker/daemon.json has `"live-restore": true`'
    " (`systemctl reload docker` takes it)."
)
REGISTRY_WITHIN = 30.0
"""Seconds; the engine itself gives up on some registries only after minutes."""


@asynccontextmanager
async def _engine(settings: Settings) -> AsyncIterator[Engine]:
    async with docker_reader(settings) as runtime_reader:
        yield runtime_reader.engine


async def engine(settings: Settings) -> Sequence[Finding]:
    """Reachable, permitted, new enough; and what a restart of it does to the gateways."""
    async with _engine(settings) as reached:
        outlived = (await reached.facts()).get("LiveRestoreEnabled")
        what = f"Docker Engine {reached.version} at {reached.socket}, API {reached.api_version}."
        return [ok(f"{what} {_OUTLIVED if outlived else _NOT_OUTLIVED}")]


# ---------------------------------------------------------------------------------------------- images


async def image(settings: Settings) -> Sequence[Finding]:
    """Each image that a follower needs: here or to be had, and of which generation."""
    needed = await _images(settings)
    try:
        async with _engine(settings) as reached:
            return await asyncio.gather(*(_image(reached, settings, options) for options in needed))
    except (RuntimeUnavailableError, SettingsError):  # the engine's own line tells why
        return [warning("The image is not known while the engine can't be used.")]


async def _images(settings: Settings) -> list[GatewayOptions]:
    fleet = settings.gateway_options
    try:
        options = [each.gateway.filled_from(fleet) for each in wanted(await read_roster(settings))]
    except GatewayManagerError:  # the followers' own line tells why
        options = []
    return list({(each.image, each.image_contract): each for each in options or [fleet]}.values())


async def _image(reached: Engine, settings: Settings, options: GatewayOptions) -> Finding:
    reference = options.image or ""
    inspection = await reached.inspect_image(reference)
    if inspection is None:
        return await _to_be_pulled(reached, settings, reference)
    try:
        found = identify(reference, inspection, override=options.image_contract)
    except GatewayManagerError as error:
        return raised(error)
    chosen = ", as the settings say" if options.image_contract else ""
    return ok(f"{reference} is here; its controller is {found.contract.controller_name}{chosen}.")


async def _to_be_pulled(reached: Engine, settings: Settings, reference: str) -> Finding:
    if settings.image_pull_policy == "never":
        cure = f"`docker pull {reference}`, or choose another GATEWAY_MANAGER_IMAGE_PULL_POLICY."
        return problem(f"The engine has no image {reference}, and image_pull_policy is never.", cure)
    registry, server = registry_of(reference)
    config = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser()  # noqa: ASYNC240  # touches no disk
    try:
        async with asyncio.timeout(REGISTRY_WITHIN):
            await reached.ask_registry(reference, await stored_login(config, server))
    except TimeoutError:
        what = f"{registry} did not say within {REGISTRY_WITHIN:g} s whether it has {reference}."
        return problem(
            what, "Look whether this host's way to it is open: a firewall or a proxy that swallows requests."
        )
    except EngineRefusedError as refused:
        return raised(pull_error(reference, registry, refused))
    return ok(f"{reference} is not here yet; the first launch pulls it from {registry}, and then tells its generation.")


# ---------------------------------------------------------------------------------------------- network


async def network(settings: Settings) -> Sequence[Finding]:
    """The gateways' own bridge, on which they can't reach each other."""
    try:
        async with _engine(settings) as reached:
            networks = await reached.networks()
    except (RuntimeUnavailableError, SettingsError):  # the engine's own line tells why
        return [warning("The network is not known while the engine can't be used.")]
    noted = await known_identities(settings)
    naming = Naming(settings.container_prefix, NOBODY if noted is None else noted)
    names = (naming.own_network, naming.network)  # the first where another manager has the second
    found = next((each for name in names for each in networks if each["Name"] == name), None)
    if found is None:
        return [ok(f"The network {naming.network} is not there; the first launch makes it.")]
    return [_verdict_on(found, naming)]


def _verdict_on(found: Mapping[str, Any], naming: Naming) -> Finding:
    name, options = str(found["Name"]), found.get("Options") or {}
    remove = f"Stop the gateways and `docker network rm {name}`; the next launch makes it anew."
    if IDENTITY in (found.get("Labels") or {}) and not naming.owns(found.get("Labels")):
        own = naming.own_network if naming.identities.own else "one with this manager's identity in its name"
        return ok(f"Another manager has the network {name}; the first launch makes {own}.")
    if not naming.owns(found.get("Labels")):
        return problem(
            f"A Docker network that is not this manager's bears the name {name}.",
            f"`docker network rm {name}`, or choose another CONTAINER_PREFIX.",
        )
    if found.get("Driver") != "bridge" or options.get(_ICC) != "false":
        return problem(
            f"Gateways on the network {name} can reach each other, and the TWS API asks for no password.", remove
        )
    if options.get(_BINDING) != _LOOPBACK:
        return warning(f"The network {name} publishes ports on other addresses than loopback by default.", remove)
    return ok(f"On the network {name} gateways can't reach each other.")


async def other_clock(settings: Settings) -> tuple[str, datetime] | None:
    """The engine's, which may be a virtual machine's."""
    async with _engine(settings) as reached:
        return "the Docker Engine", datetime.fromisoformat(str((await reached.facts())["SystemTime"]))


CHECKS = (Check("engine", engine), Check("image", image, within=45.0), Check("network", network))
