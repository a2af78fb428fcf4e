"""One Docker Engine behind its unix socket: the only module that knows its client library.

Every call says in words what it does, and fails in three ways only: `RuntimeUnavailableError` with the cure when the
engine can't be reached, `EngineRefusedError` with the engine's own words when it says no, `NoSpaceError` when its disk
is full. Nothing is retried here. `runtime` and its siblings decide what a refusal means; they see plain mappings.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import aiodocker
import aiohttp
from aiodocker.utils import compose_auth_header
from aiodocker.volumes import DockerVolume
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from spreadpilot_core.ibkr.errors import LaunchError, NoSpaceError, RuntimeUnavailableError
from spreadpilot_core.ibkr.seams import unguarded
from spreadpilot_core.ibkr.system.peers import UntrustedError, must_be_trusted

OLDEST_API = (1, 41)
NEWEST_API = (1, 56)
"""The newest API version that this adapter was run with; newer engines still speak it."""

_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 60
"""An engine that starts many containers at once may take a while; one that takes this long hangs."""
_UNREACHABLE = 900
"""The status that aiodocker gives to a request that never reached the engine."""


_LONGEST_SAYING = 500
"""Characters that are repeated of what the engine says."""
_LONGEST_OUTPUT = 64 * 1024
"""Bytes that are taken of what a command inside prints."""


class EngineRefusedError(LaunchError):
    """The engine said no. `status` is the HTTP status, 0 within a stream; `said` its own words."""

    def __init__(self, doing: str, status: int, said: str) -> None:
        self.status = status
        self.said = said.strip()[:_LONGEST_SAYING]
        super().__init__(f"The Docker Engine refused to {doing}: {self.said.rstrip('.')}.")

    @property
    def is_conflict(self) -> bool:
        """Whether the thing's name or state is against it."""
        return self.status == 409  # noqa: PLR2004  # HTTP

    @property
    def is_gone(self) -> bool:
        """Whether what was asked for does not exist, or is on its way out."""
        return self.status == 404 or (self.is_conflict and "marked for removal" in self.said)  # noqa: PLR2004  # HTTP


_ASKED_FIRST: ContextVar[Callable[[], None]] = ContextVar("_ASKED_FIRST", default=unguarded)
"""The guard of the request that is being made, asked once there is a connection to send it on: a process may be frozen before."""
_TURNED_AWAY = 0.01
"""Seconds until an engine that has too many connections waiting is tried again; the request's own timeout ends it."""


class _TrustedConnector(aiohttp.UnixConnector):
    """Connects to an engine that runs as root or as our own user, and to nothing that was put in its place."""

    async def connect(self, *arguments: Any, **more: Any) -> Connection:
        connection = await super().connect(*arguments, **more)
        try:
            _ASKED_FIRST.get()()
        except BaseException:
            connection.close()
            raise
        return connection

    async def _create_connection(self, *arguments: Any, **more: Any) -> ResponseHandler:
        while True:
            protocol = await super()._create_connection(*arguments, **more)
            assert protocol.transport is not None
            try:
                must_be_trusted(protocol.transport.get_extra_info("socket"))
            except BlockingIOError:  # a whole fleet's logs are asked for at once
                protocol.transport.abort()
                await asyncio.sleep(_TURNED_AWAY)
            except UntrustedError:
                protocol.transport.abort()
                raise
            else:
                return protocol


class Engine:
    """A connection to one engine. `open` before anything else; `patience` is how long it may take to answer, in seconds."""

    def __init__(self, socket: str, *, patience: float | None = None) -> None:
        self.socket = socket
        self._patience = patience or _ANSWER_SECONDS
        self.version = ""
        """The engine's own version, such as "20.10.24"."""
        self.api: tuple[int, int] = OLDEST_API
        """The API version in use."""
        self._docker: aiodocker.Docker | None = None
        self._connector: aiohttp.UnixConnector | None = None
        self._streams: set[aiohttp.ClientResponse] = set()
        self.guard: Callable[[], None] = unguarded
        """Called right before each request that creates, starts, stops or removes a container, once there is a connection to send it on."""

    async def open(self) -> None:
        """Connect and agree on an API version; open already: agree again (the engine may have been replaced).

        Raises:
            RuntimeUnavailableError: absent, not permitted, too old, or no Docker Engine at all.
        """
        if self._docker is None:
            self._connector = _TrustedConnector(self.socket, limit=0)  # one connection per followed log
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            self._docker = aiodocker.Docker("unix://localhost", connector=self._connector, timeout=timeout)
        self._docker.api_version = "auto"
        try:
            async with self._asking("say its version"):
                answer = await self._docker.version()
            self.version = str(answer.get("Version", "of unknown version"))
            newest, oldest = _numbers(answer["ApiVersion"]), _numbers(answer.get("MinAPIVersion", "1.12"))
        except (EngineRefusedError, LookupError, TypeError, ValueError, AttributeError) as fault:
            said = fault.said if isinstance(fault, EngineRefusedError) else "nothing that the engine would say"
            raise RuntimeUnavailableError(
                f"What answers at {self.socket} is no Docker Engine at work: asked for its version it said {said!r}.",
                hint="`docker version` tells what it is; say in DOCKER_HOST where the engine's own socket is.",
            ) from fault
        self.api = _agreed(self.version, newest, oldest)
        self._docker.api_version = f"v{self.api_version}"

    async def close(self) -> None:
        """Let go of every connection; safe to call twice."""
        docker, self._docker = self._docker, None
        connector, self._connector = self._connector, None
        for response in self._streams:
            response.close()  # wakes who reads from it; closing the connector alone does not
        if docker is not None:
            await docker.close()
        if connector is not None:
            await connector.close()

    @property
    def is_open(self) -> bool:
        """Between `open` and `close`, whether or not the engine answers."""
        return self._docker is not None

    @property
    def api_version(self) -> str:
        """The API version in use, such as "1.41"."""
        return ".".join(map(str, self.api))

    # ------------------------------------------------------------------ containers

    async def facts(self) -> Mapping[str, Any]:
        """What the engine tells of itself and its host: its `ID`, which outlives restarts, `Name`, its clock (`SystemTime`), …"""
        async with self._asking("tell about itself"):
            return dict(await self._client.system.info())

    async def containers(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Every container, in any state, that has all of `labels` ("key" or "key=value")."""
        async with self._asking("list containers"):
            found = await self._client.containers.list(all=1, filters=json.dumps({"label": list(labels)}))
        return [container._container for container in found]  # noqa: SLF001  # the library's only way to the whole row

    async def inspect_container(self, name: str) -> dict[str, Any] | None:
        """Everything about one container (id or name), or None when there is none."""
        with gone_is_fine():
            async with self._asking(f"inspect the container {name}"):
                return await self._client.containers.container(name).show()
        return None

    async def usage(self, container_id: str) -> Mapping[str, Any] | None:
        """One reading of what it uses; None when there is none such."""
        with gone_is_fine():
            async with self._asking(f"measure the container {container_id[:12]}"):
                found = await self._client._query_json(  # noqa: SLF001  # the library waits a second for a second reading
                    f"containers/{container_id}/stats", params={"stream": "0", "one-shot": "1"}
                )
                return found if isinstance(found, Mapping) else None
        return None

    async def create_container(self, name: str, config: Mapping[str, Any]) -> str:
        """Create one and give its id. A taken name is refused with 409."""
        async with self._asking(f"create the container {name}", guard=self.guard):
            return (await self._client.containers.create(config, name=name)).id

    async def start_container(self, container_id: str) -> None:
        """Start it; started already: fine."""
        async with self._asking(f"start the container {container_id[:12]}", guard=self.guard):
            await self._client.containers.container(container_id).start()

    async def stop_container(self, container_id: str, *, grace: float) -> None:
        """SIGTERM, after `grace` seconds SIGKILL; returns when it has ended."""
        async with self._asking(
            f"stop the container {container_id[:12]}", seconds=grace + _ANSWER_SECONDS, guard=self.guard
        ):
            await self._client.containers.container(container_id).stop(t=max(1, round(grace)))

    async def kill_container(self, container_id: str) -> None:
        """SIGKILL."""
        async with self._asking(f"kill the container {container_id[:12]}", guard=self.guard):
            await self._client.containers.container(container_id).kill()

    async def delete_container(self, container_id: str) -> None:
        """Remove it, by force, with its anonymous volumes; named ones stay."""
        async with self._asking(f"remove the container {container_id[:12]}", guard=self.guard):
            await self._client.containers.container(container_id).delete(force=True, v=True)

    async def put_archive(self, container_id: str, path: str, archive: bytes) -> None:
        """Unpack a tar archive at `path` inside, mounts included; it need not run."""
        async with self._asking(f"write to the container {container_id[:12]}"):
            container: Any = self._client.containers.container(container_id)
            await container.put_archive(path, archive)

    async def execute(self, container_id: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a command inside, as the image's user, and give its exit code and standard output."""
        async with self._asking(f"run a command in the container {container_id[:12]}"):
            work = await self._client.containers.container(container_id).exec(command)
            output = bytearray()
            async with work.start() as stream:
                while (message := await stream.read_out()) is not None:
                    if message.stream == 1:
                        output += message.data[: _LONGEST_OUTPUT - len(output)]
            code = (await work.inspect()).get("ExitCode")
        return (-1 if code is None else int(code)), output.decode(errors="replace")

    # ------------------------------------------------------------------ images, networks, volumes

    async def inspect_image(self, reference: str) -> dict[str, Any] | None:
        """Everything about one image, or None when the engine lacks it."""
        with gone_is_fine():
            async with self._asking(f"inspect the image {reference}"):
                return await self._client.images.inspect(reference)
        return None

    async def pull(self, reference: str, auth: Mapping[str, str] | None) -> AsyncGenerator[dict[str, Any]]:
        """Pull an image; yields the engine's progress lines. `auth` is an entry as `docker login` keeps it.

        Asked for here, not by aiodocker's `images.pull`, which leaves its connection open when it is given up half-way.
        """
        headers = {"X-Registry-Auth": compose_auth_header(dict(auth))} if auth else None
        parameters = {"fromImage": reference} | ({} if _names_a_version(reference) else {"tag": "latest"})
        url = f"unix://localhost/v{self.api_version}/images/create"
        endless = aiohttp.ClientTimeout()
        with _translated(f"pull {reference}", self.socket):
            async with self._client.session.post(url, params=parameters, headers=headers, timeout=endless) as response:
                if response.status >= 400:  # noqa: PLR2004  # HTTP
                    raise aiodocker.DockerError(response.status, _message(await response.text()))
                async for line in _objects(response.content):
                    if "error" in line:
                        raise aiodocker.DockerError(0, str(line["error"]))
                    yield line

    async def ask_registry(self, reference: str, auth: Mapping[str, str] | None) -> None:
        """Have the engine look an image up in its registry, without pulling it; refused when it can't be had."""
        headers = {"X-Registry-Auth": compose_auth_header(dict(auth))} if auth else None
        async with self._asking(f"look up {reference}", seconds=_ANSWER_SECONDS):  # the registry's time, not its own
            await self._client._query_json(f"distribution/{reference}/json", headers=headers)  # noqa: SLF001  # the library has no call for it

    async def networks(self) -> list[dict[str, Any]]:
        """All networks."""
        async with self._asking("list networks"):
            return await self._client.networks.list()

    async def create_network(self, config: Mapping[str, Any]) -> None:
        """Create one. A pool that overlaps another is refused."""
        async with self._asking(f"create the network {config['Name']}"):
            await self._client.networks.create(dict(config))

    async def inspect_network(self, name: str) -> dict[str, Any] | None:
        """Everything about one network, its containers included, or None when there is none."""
        with gone_is_fine():
            async with self._asking(f"inspect the network {name}"):
                return await (await self._client.networks.get(name)).show()
        return None

    async def connect_network(self, name: str, container_id: str) -> None:
        """Let a container into a network; refused when it is in it already."""
        async with self._asking(f"connect {container_id[:12]} to the network {name}"):
            await (await self._client.networks.get(name)).connect({"Container": container_id})

    async def disconnect_network(self, name: str, container_id: str) -> None:
        """Take a container out of a network."""
        async with self._asking(f"disconnect {container_id[:12]} from the network {name}"):
            await (await self._client.networks.get(name)).disconnect({"Container": container_id, "Force": True})

    async def delete_network(self, name: str) -> None:
        """Remove one; refused while containers use it."""
        async with self._asking(f"remove the network {name}"):
            await (await self._client.networks.get(name)).delete()

    async def volumes(self) -> list[dict[str, Any]]:
        """All volumes."""
        async with self._asking("list volumes"):
            found: Any = await self._client.volumes.list()  # type: ignore[no-untyped-call]  # the library has no annotations
        return found["Volumes"] or []

    async def inspect_volume(self, name: str) -> dict[str, Any] | None:
        """Everything about one volume, or None when there is none."""
        with gone_is_fine():
            async with self._asking(f"inspect the volume {name}"):
                volume: Any = DockerVolume(self._client, name)  # type: ignore[no-untyped-call]  # the library has no annotations
                found: dict[str, Any] = await volume.show()
                return found
        return None

    async def delete_volume(self, name: str) -> None:
        """Remove one; refused while a container has it."""
        async with self._asking(f"remove the volume {name}"):
            await (await self._volumes.get(name)).delete()

    # ------------------------------------------------------------------ streams

    @asynccontextmanager
    async def stream(self, path: str, **parameters: str) -> AsyncIterator[aiohttp.StreamReader]:
        """The endless answer to a GET. It ends by itself, or with `RuntimeUnavailableError` when the engine goes."""
        url = f"unix://localhost/v{self.api_version}/{path}"
        with _translated(f"stream {path.partition('?')[0]}", self.socket):
            async with self._client.session.get(url, params=parameters) as response:
                if response.status >= 400:  # noqa: PLR2004  # HTTP
                    body = await response.text()
                    raise aiodocker.DockerError(response.status, _message(body))
                self._streams.add(response)
                try:
                    yield response.content
                finally:
                    self._streams.discard(response)

    # ------------------------------------------------------------------ failures

    @property
    def _client(self) -> aiodocker.Docker:
        if self._docker is None:
            raise RuntimeUnavailableError("The Docker runtime is not open.")
        return self._docker

    @property
    def _volumes(self) -> Any:  # the library's volumes have no annotations
        return self._client.volumes

    @asynccontextmanager
    async def _asking(
        self, doing: str, *, seconds: float | None = None, guard: Callable[[], None] = unguarded
    ) -> AsyncIterator[None]:
        seconds = seconds or self._patience
        asked_before = _ASKED_FIRST.set(guard)
        try:
            with _translated(doing, self.socket, seconds=seconds):
                async with asyncio.timeout(seconds):
                    yield
        finally:
            _ASKED_FIRST.reset(asked_before)


@contextmanager
def gone_is_fine() -> Iterator[None]:
    """Swallow the refusal that says that what was asked for does not exist."""
    try:
        yield
    except EngineRefusedError as refused:
        if not refused.is_gone:
            raise


@contextmanager
def _translated(doing: str, socket: str, *, seconds: float = _ANSWER_SECONDS) -> Iterator[None]:
    try:
        yield
    except aiodocker.DockerError as error:
        if error.status == _UNREACHABLE:
            raise _unreachable(socket, error.__context__) from error
        if "no space left on device" in error.message.lower():
            raise NoSpaceError(doing) from error
        raise EngineRefusedError(doing, error.status, error.message) from error
    except TimeoutError as error:
        raise RuntimeUnavailableError(
            f"The Docker Engine at {socket} did not {doing} within {seconds:g} s.",
            hint="`docker info` tells whether it still answers; restarting docker.service helps when it does not.",
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise _unreachable(socket, error) from error


def _unreachable(socket: str, cause: BaseException | None) -> RuntimeUnavailableError:
    if (untrusted := _untrusted(cause)) is not None:
        return RuntimeUnavailableError(
            f"What listens on {socket} is not trusted: {untrusted}.",
            hint="Say in DOCKER_HOST where the engine's own socket is.",
        )
    match getattr(cause, "errno", None):
        case errno.ENOENT | errno.ENOTDIR:
            what = f"There is no Docker Engine at {socket}."
            hint = "Install Docker and start it (`systemctl start docker`), or say in DOCKER_HOST where its socket is."
        case errno.EACCES | errno.EPERM:
            what = f"This user may not use the Docker Engine at {socket}: permission denied on the socket."
            hint = "Add the user to the group `docker` and log in again; who may use the engine is as good as root."
        case errno.ECONNREFUSED:
            what = f"No Docker Engine listens on {socket}."
            hint = "Start it: `systemctl start docker`."
        case _:
            what = f"The Docker Engine at {socket} went away."
            hint = "It is restarting or was stopped; `systemctl status docker` tells."
    return RuntimeUnavailableError(what, hint=hint)


def _untrusted(cause: BaseException | None) -> UntrustedError | None:
    """The refusal of ours that the client library has wrapped."""
    while cause is not None and not isinstance(cause, UntrustedError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _agreed(version: str, newest: tuple[int, int], oldest: tuple[int, int]) -> tuple[int, int]:
    if newest < OLDEST_API:
        raise RuntimeUnavailableError(
            f"The Docker Engine {version} speaks the API up to {newest[0]}.{newest[1]}, which is too old.",
            hint=f"Version 20.10 (API {OLDEST_API[0]}.{OLDEST_API[1]}) or a newer one is needed.",
        )
    return max(min(newest, NEWEST_API), oldest)


def _numbers(api_version: str) -> tuple[int, int]:
    major, _, minor = api_version.partition(".")
    return int(major), int(minor)


async def _objects(lines: AsyncIterable[bytes]) -> AsyncGenerator[dict[str, Any]]:
    """The JSON objects among these lines; the others are passed over. Raises `OSError` for a line without an end."""
    try:
        async for raw in lines:
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict):
                yield line
    except (ValueError, aiohttp.http_exceptions.HttpProcessingError) as error:
        raise OSError(None, f"a line of its answer has no end ({error})") from None


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()


def _names_a_version(reference: str) -> bool:
    """Whether an image's name has a tag or a digest."""
    return "@" in reference or ":" in reference.rpartition("/")[2]
