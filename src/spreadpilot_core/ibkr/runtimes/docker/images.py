"""Having a gateway's image at hand: pulled once for all who wait for it, with the login that `docker login` left.

The manager has no registry password of its own; it reads what the user's Docker client keeps, or asks the same helper
programs. What a registry or a full disk answers becomes one of the image errors, each with its cure.

The lookup of that login is our own although the Docker SDK for Python has one (`docker.auth`). That one brings `requests`, blocks, reads
a pipe and waits for a helper program for ever, and raises where there is merely no login: at a helper that is not installed, and at any
entry that makes no sense, be it another registry's. A pull without a login, with the reason in the log, is what is wanted then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from spreadpilot_core.ibkr.errors import (
    ImageMissingError,
    LaunchError,
    RegistryDeniedError,
    RegistryUnreachableError,
    RuntimeUnavailableError,
)
from spreadpilot_core.ibkr.model.gateways import GatewaySpec
from spreadpilot_core.ibkr.runtimes.docker.engine import Engine, EngineRefusedError
from spreadpilot_core.ibkr.runtimes.images import Image, identify
from spreadpilot_core.ibkr.system.regular_files import read_regular
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

PullPolicy = Literal["missing", "always", "never"]

_FRESH_SECONDS: Final = 600
"""With the policy `always`: a fleet that starts together pulls once, not once for each gateway."""
_PROGRESS_SECONDS: Final = 5
_HELPER_SECONDS: Final = 30
_MIB: Final = 1024 * 1024
_DOCKER_HUB: Final = "https://index.docker.io/v1/"


class ImageStore:
    """The images of one engine, as gateways need them."""

    def __init__(self, engine: Engine, *, policy: PullPolicy, docker_config: Path | None = None) -> None:
        self._engine = engine
        self._policy = policy
        self._docker_config = docker_config or Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser()
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._pulled_at: dict[str, float] = {}
        self._tasks = Tasks("docker images")

    async def at_hand(self, spec: GatewaySpec) -> Image:
        """The spec's image, pulled when the policy says so.

        Raises:
            ImageError: it can't be had, or fits no contract.
        """
        reference = spec.options.image or ""
        inspection = await self._engine.inspect_image(reference)
        if self._must_pull(reference, is_here=inspection is not None):
            await self._pull_once(reference)
            inspection = await self._engine.inspect_image(reference)
        if inspection is None:
            raise ImageMissingError(reference, pulled=self._policy != "never")
        return identify(reference, inspection, override=spec.options.image_contract)

    async def current_id(self, reference: str) -> str | None:
        """The id that an image's name has on this engine now."""
        inspection = await self._engine.inspect_image(reference)
        return None if inspection is None else str(inspection["Id"])

    async def close(self) -> None:
        """Stop waiting for pulls; the engine drops what is unfinished."""
        await self._tasks.cancel()

    def _must_pull(self, reference: str, *, is_here: bool) -> bool:
        match self._policy:
            case "never":
                return False
            case "missing":
                return not is_here
            case "always":
                return time.monotonic() - self._pulled_at.get(reference, -_FRESH_SECONDS) >= _FRESH_SECONDS

    async def _pull_once(self, reference: str) -> None:
        pull = self._pulls.get(reference)
        if pull is None:
            pull = self._tasks.begin(f"pull {reference}", self._pull(reference), then=_someone_awaits)
            self._pulls[reference] = pull
            pull.add_done_callback(lambda _: self._pulls.pop(reference, None))
        await asyncio.wait([pull])  # a waiter that is cancelled leaves the pull to the others
        if pull.cancelled():
            raise RuntimeUnavailableError(f"The Docker runtime was closed while it pulled {reference}.")
        pull.result()

    async def _pull(self, reference: str) -> None:
        registry, server = registry_of(reference)
        auth = await stored_login(self._docker_config, server)
        progress = PullProgress(reference)
        logged_at = time.monotonic()
        log.info("pulling image", image=reference, registry=registry, login="stored" if auth else "none")
        try:
            async with contextlib.aclosing(self._engine.pull(reference, auth)) as lines:
                async for line in lines:
                    progress.take(line)
                    if time.monotonic() - logged_at > _PROGRESS_SECONDS:
                        logged_at = time.monotonic()
                        log.info("pulling image", image=reference, progress=progress.sentence)
        except EngineRefusedError as refused:
            raise pull_error(reference, registry, refused) from refused
        self._pulled_at[reference] = time.monotonic()
        log.info("pulled image", image=reference)


def _someone_awaits(pull: asyncio.Task[None]) -> None:
    """Each waiter gets the failure itself; when all were cancelled, it is told here."""
    if not pull.cancelled() and (fault := pull.exception()):
        log.warning("image not pulled", why=str(fault))


_MOST_LAYERS = 1000
"""Of one image; an engine takes 127."""


class PullProgress:
    """How far a pull is, from the engine's progress lines."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._layers: dict[str, tuple[int, int, bool]] = {}

    def take(self, line: Mapping[str, Any]) -> None:
        """Take one line of the stream; what is none of the engine's is passed over, for the image is looked at afterwards."""
        layer, status = line.get("id"), str(line.get("status", ""))
        if not isinstance(layer, str) or not layer or ":" in status or status.startswith("Pulling from"):
            return
        if layer not in self._layers and len(self._layers) >= _MOST_LAYERS:
            return
        detail = _mapping(line.get("progressDetail"))
        done, total, ended = self._layers.get(layer, (0, 0, False))
        if status == "Downloading":
            done, total = _bytes(detail.get("current")), _bytes(detail.get("total"))
        ended = ended or status in {"Pull complete", "Already exists"}
        self._layers[layer] = (done, total, ended)

    @property
    def sentence(self) -> str:
        """For the log and the snapshot."""
        ended = sum(ended for _, _, ended in self._layers.values())
        done, total = (sum(layer[i] for layer in self._layers.values()) // _MIB for i in (0, 1))
        return f"Pulling {self._reference}: {ended} of {counted(len(self._layers), 'layer')}, {done} of {total} MiB loaded."


def _mapping(found: object) -> Mapping[str, Any]:
    """What should be a JSON object; nothing where it is none."""
    return found if isinstance(found, dict) else {}


def _bytes(found: object) -> int:
    return found if type(found) is int and found > 0 else 0


def pull_error(reference: str, registry: str, refused: EngineRefusedError) -> LaunchError:
    """What the engine's refusal to pull means."""
    said = refused.said.rstrip(".")
    words = said.lower()
    if any(sign in words for sign in ("manifest unknown", "not found: manifest", "manifest for", "name unknown")):
        return ImageMissingError(reference, pulled=True, said=said)
    if any(
        sign in words for sign in ("denied", "unauthorized", "authentication required", "no basic auth", "forbidden")
    ):
        return RegistryDeniedError(reference, registry, said)
    if any(sign in words for sign in ("dial tcp", "timeout", "no such host", "tls", "eof", "connection")):
        return RegistryUnreachableError(reference, registry, said)
    if refused.is_gone or "not found" in words:
        return ImageMissingError(reference, pulled=True, said=said)
    return refused


# ---------------------------------------------------------------------------------------------- registry logins


def registry_of(reference: str) -> tuple[str, str]:
    """An image's registry, and the key under which Docker's client keeps its login."""
    first, slash, _ = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, first
    return "docker.io", _DOCKER_HUB


async def stored_login(directory: Path, server: str) -> Mapping[str, str] | None:
    """The login that `docker login` left for a registry, as the engine wants it; None when there is none."""
    try:
        config = _mapping(json.loads(await asyncio.to_thread(read_regular, directory / "config.json")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as fault:
        log.warning("docker client's config can't be read", file=str(directory / "config.json"), why=str(fault))
        return None
    helper = _mapping(config.get("credHelpers")).get(server) or config.get("credsStore")
    if isinstance(helper, str) and helper and (login := await _ask_helper(helper, server)):
        return login
    auths = _mapping(config.get("auths"))
    entry = _mapping(
        next((auths[key] for key in (server, *auths) if key in auths and _host(key) == _host(server)), None)
    )
    stored = [
        (name, entry[name]) for name in ("identitytoken", "auth") if isinstance(entry.get(name), str) and entry[name]
    ]
    return dict(stored[:1]) or None


def _host(address: str) -> str:
    """Of a registry: what Docker's client goes by, which wrote whole addresses once."""
    return address.removeprefix("https://").removeprefix("http://").partition("/")[0]


async def _ask_helper(helper: str, server: str) -> Mapping[str, str] | None:
    program = f"docker-credential-{helper}"
    try:
        asked = await asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as fault:
        log.warning("docker credential helper can't be run", program=program, why=str(fault))
        return None
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            answer, _ = await asked.communicate(server.encode())
        credentials = _mapping(json.loads(answer)) if asked.returncode == 0 else {}
    except (TimeoutError, ValueError, RecursionError):
        log.warning("docker credential helper gave no answer", program=program)
        return None
    finally:
        if asked.returncode is None:
            asked.kill()
            await asked.wait()
    user, secret = credentials.get("Username", ""), credentials.get("Secret")
    if not isinstance(secret, str) or not isinstance(user, str) or not secret:
        return None
    return {"identitytoken": secret} if user == "<token>" else {"username": user, "password": secret}
