"""The API server of one cluster: the only module that knows its client library.

Every call says in words what it does, and fails in two ways: `RuntimeUnavailableError` with the cure when the API server can't be
reached, is too busy or does not let us in, and `RefusedError` with its own words when it says no. One that is too busy and says
when to come back (429) is asked again within the call's time; nothing else is tried again here.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp

from spreadpilot_core.ibkr.errors import LaunchError, RuntimeUnavailableError, SettingsError
from spreadpilot_core.ibkr.kubernetes.connecting import ACCOUNT, Access
from spreadpilot_core.ibkr.seams import unguarded
from spreadpilot_core.ibkr.system.wording import not_installed
from spreadpilot_core.ibkr.telemetry import get_logger

try:
    import kubernetes_asyncio.client.api_client
    import kubernetes_asyncio.client.configuration
    import kubernetes_asyncio.config
except ImportError as error:  # an extra of this package
    raise SettingsError("runtime_url or followers_url", "kubernetes:", not_installed(error)) from None

log = get_logger(__name__)

Query = Mapping[str, str | int]
_ANSWER_SECONDS: Final = 60.0
"""A cluster that starts many pods at once may take a while; one that takes this long hangs."""
_CONNECT_SECONDS: Final = 10.0
_LONGEST_SAYING: Final = 1000
_LONGEST_LINE: Final = 128 * 1024
"""Bytes of one line of an endless answer."""
_LONGEST_PAUSE: Final = 5.0
_MERGE: Final = "application/merge-patch+json"
_TOO_BUSY: Final = 429
_NOT_NOW: Final = (500, 502, 503, 504)
_READS: Final = "GET"


class RefusedError(LaunchError):
    """The API server said no. `status` is the HTTP status, `reason` its word for it, `said` its own sentence."""

    def __init__(self, doing: str, status: int, reason: str, said: str) -> None:
        self.status, self.reason = status, reason
        self.said = said.strip()[:_LONGEST_SAYING]
        super().__init__(f"The Kubernetes API server refused to {doing}: {self.said.rstrip('.')}.")

    @property
    def is_gone(self) -> bool:
        """Whether what was asked for does not exist."""
        return self.status == 404  # noqa: PLR2004  # HTTP

    @property
    def is_conflict(self) -> bool:
        """Whether the thing's name is taken, or it is another one, or in another state, than was said."""
        return self.status == 409  # noqa: PLR2004  # HTTP

    @property
    def is_expired(self) -> bool:
        """Whether a watch can't go on where it stopped."""
        return self.status == 410  # noqa: PLR2004  # HTTP

    @property
    def is_denied(self) -> bool:
        """Whether what we are may not do this: no rule of RBAC allows it."""
        return self.status == 403 and " cannot " in self.said  # noqa: PLR2004  # HTTP


class Api:
    """One API server. `open` before anything else; `patience` is how long it may take to answer, in seconds."""

    def __init__(self, access: Access, *, patience: float = _ANSWER_SECONDS) -> None:
        self.access = access
        self.namespace = access.namespace or ""
        """Where our things are; known once it is open."""
        self.guard: Callable[[], None] = unguarded
        """Called right before each request that creates, starts or removes something, once there is a connection to send it on."""
        self._patience = patience
        self._client: Any = None
        self._private: Path | None = None
        self._streams: set[aiohttp.ClientResponse] = set()

    # ------------------------------------------------------------------ opening

    async def open(self) -> None:
        """Read the credentials and ask the API server for its version; open already: ask again.

        Raises:
            RuntimeUnavailableError: no credentials, not reachable, or not to be trusted with a password.
        """
        if self._client is None:
            self._private = await asyncio.to_thread(_private_directory)
            try:
                configuration, namespace = await _configuration(self.access, self._private)
            except BaseException:
                await self.close()
                raise
            self.namespace = self.access.namespace or namespace
            configuration.connection_pool_maxsize = 0  # one connection for each followed log
            self._client = kubernetes_asyncio.client.api_client.ApiClient(configuration)
            self._client.rest_client.pool_manager.trace_configs.append(_guarded_once_connected())
        await self.ask("say its version", "/version", seconds=_CONNECT_SECONDS)

    async def close(self) -> None:
        """Let go of every connection; safe to call twice."""
        client, self._client = self._client, None
        private, self._private = self._private, None
        for response in list(self._streams):
            response.close()  # wakes who reads from it
        if client is not None:
            await client.close()
        if private is not None:
            await asyncio.to_thread(shutil.rmtree, private, ignore_errors=True)

    @property
    def is_open(self) -> bool:
        """Between `open` and `close`, whether or not the API server answers."""
        return self._client is not None

    @property
    def server(self) -> str:
        """Its address."""
        return str(self._client.configuration.host) if self._client is not None else str(self.access)

    async def credentials(self) -> dict[str, str]:
        """How another process of ours proves to be us: an address and names of files, no secret."""
        configuration = self._reached.configuration
        known = {"server": self.server, "ca": configuration.ssl_ca_cert, "certificate": configuration.cert_file}
        known |= {"key": configuration.key_file, "server_name": configuration.tls_server_name}
        if self.access.is_inside:
            known["token"] = str(ACCOUNT / "token")
        elif (header := (await self._headers()).get("authorization", "")) and self._private is not None:
            token = self._private / "token"
            await asyncio.to_thread(_write_private, token, header.partition(" ")[2])
            known["token"] = str(token)
        return {name: str(value) for name, value in known.items() if value}

    # ------------------------------------------------------------------ asking

    def place(self, kind: str, name: str = "", *, group: str = "") -> str:
        """The path of something in our namespace: of all of a kind, or of one."""
        root = f"/apis/{group}" if group else "/api/v1"
        return f"{root}/namespaces/{quote(self.namespace, safe='')}/{kind}" + (
            f"/{quote(name, safe='')}" if name else ""
        )

    async def ask(
        self,
        doing: str,
        path: str,
        *,
        method: str = _READS,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """One request; the answer is a mapping."""
        seconds = seconds or self._patience
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            with self._translated(doing, seconds=seconds):
                async with asyncio.timeout_at(deadline), await self._send(method, path, query, body) as response:
                    raw = await response.read()
                    pause = response.headers.get("Retry-After", "")
                    if response.status != _TOO_BUSY:
                        return _answer(doing, response.status, raw)
            wait = min(float(pause) if pause.isdecimal() else 1.0, _LONGEST_PAUSE)
            if asyncio.get_running_loop().time() + wait > deadline:
                raise self._too_busy(doing, _words(raw))
            log.info("kubernetes api server is too busy", doing=doing, again_in=wait)
            await asyncio.sleep(wait)

    async def get(self, doing: str, path: str, *, query: Query | None = None) -> dict[str, Any] | None:
        """What is there, or None."""
        try:
            return await self.ask(doing, path, query=query)
        except RefusedError as refused:
            if refused.is_gone:
                return None
            raise

    async def create(
        self, doing: str, path: str, thing: Mapping[str, Any], *, query: Query | None = None
    ) -> dict[str, Any]:
        """Make it. A taken name is refused with 409."""
        return await self.ask(doing, path, method="POST", body=thing, query=query)

    async def patch(self, doing: str, path: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change it (a merge patch); with another `metadata.uid` than it has, it is refused with 409."""
        return await self.ask(doing, path, method="PATCH", body=changes)

    async def replace(self, doing: str, path: str, thing: Mapping[str, Any]) -> dict[str, Any]:
        """Put this in its place; where it is another version by now than `thing` says, it is refused with 409."""
        return await self.ask(doing, path, method="PUT", body=thing)

    async def delete(self, doing: str, path: str, *, uid: str, grace: int | None = None) -> None:
        """Ask for its end; gone already, or another one by now: fine."""
        options: dict[str, Any] = {"preconditions": {"uid": uid}}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self.ask(doing, path, method="DELETE", body=options)
        except RefusedError as refused:
            if not refused.is_gone and not refused.is_conflict:
                raise

    @asynccontextmanager
    async def stream(
        self, doing: str, path: str, query: Query, *, longest_line: int = _LONGEST_LINE
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """An endless answer. It ends by itself, or with `RuntimeUnavailableError` when the API server goes."""
        with self._translated(doing, seconds=_CONNECT_SECONDS):
            async with asyncio.timeout(_ANSWER_SECONDS):
                response = await self._send(_READS, path, query, None, longest_line=longest_line)
            async with response:
                if response.status >= 400:  # noqa: PLR2004  # HTTP
                    _answer(doing, response.status, await response.read())
                self._streams.add(response)
                try:
                    yield response.content
                finally:
                    self._streams.discard(response)

    @asynccontextmanager
    async def websocket(
        self, doing: str, path: str, query: list[tuple[str, str]], protocol: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A connection to something inside of a pod."""
        with self._translated(doing, seconds=_CONNECT_SECONDS):
            session: aiohttp.ClientSession = self._reached.rest_client.pool_manager
            async with asyncio.timeout(_ANSWER_SECONDS):
                connection = await session.ws_connect(
                    self.server + path, params=query, headers=await self._headers(), protocols=(protocol,)
                )
            async with connection:
                yield connection

    # ------------------------------------------------------------------ inside

    @property
    def _reached(self) -> Any:
        if self._client is None:
            raise RuntimeUnavailableError("The Kubernetes runtime is not open.")
        return self._client

    async def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {"User-Agent": "spreadpilot-gateway-manager"}
        await self._reached.update_params_for_auth(headers, [], ["BearerToken"])
        return headers

    async def _send(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Mapping[str, Any] | None,
        *,
        longest_line: int = _LONGEST_LINE,
    ) -> aiohttp.ClientResponse:
        client = self._reached
        headers = await self._headers()
        headers["Content-Type"] = _MERGE if method == "PATCH" else "application/json"
        headers["Accept"] = "application/json"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        session: aiohttp.ClientSession = client.rest_client.pool_manager
        return await session.request(
            method,
            self.server + path,
            params=dict(query or {}),
            headers=headers,
            data=None if body is None else json.dumps(body),
            timeout=timeout,
            trace_request_ctx=None if method == _READS else self.guard,
            read_bufsize=longest_line // 2,  # a line may be twice as long
        )

    def _too_busy(self, doing: str, said: str) -> RuntimeUnavailableError:
        return RuntimeUnavailableError(
            f"The Kubernetes API server at {self.server} is too busy to {doing} (429): {said.rstrip('.')}.",
            hint="It is asked again; the flow schema of the manager's account tells what it is granted.",
        )

    @contextmanager
    def _translated(self, doing: str, *, seconds: float) -> Iterator[None]:
        try:
            yield
        except RefusedError as refused:
            if refused.status == _TOO_BUSY:
                raise self._too_busy(doing, refused.said) from refused
            if refused.status in _NOT_NOW:
                raise RuntimeUnavailableError(
                    f"The Kubernetes API server at {self.server} could not {doing} ({refused.status}): {refused.said}.",
                    hint="It is asked again.",
                ) from refused
            if refused.status == 401:  # noqa: PLR2004  # HTTP
                raise RuntimeUnavailableError(
                    f"The Kubernetes API server at {self.server} does not accept the credentials of {self.access}.",
                    hint="`kubectl auth whoami` tells who it takes them for; a token that has expired must be renewed.",
                ) from refused
            raise
        except TimeoutError as error:
            raise RuntimeUnavailableError(
                f"The Kubernetes API server at {self.server} did not {doing} within {seconds:g} s.",
                hint="`kubectl get --raw /readyz` tells whether it still answers.",
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RuntimeUnavailableError(
                f"The Kubernetes API server at {self.server} can't be reached to {doing}: {_reason(error)}.",
                hint="`kubectl get --raw /readyz` tells whether it answers; gateways go on meanwhile.",
            ) from error


def _answer(doing: str, status: int, raw: bytes) -> dict[str, Any]:
    """The mapping in an answer. Raises `RefusedError`."""
    found: Any = None
    with suppress(ValueError, RecursionError):
        found = json.loads(raw)
    if status >= 400 or not isinstance(found, dict):  # noqa: PLR2004  # HTTP
        reason = str(found.get("reason", "")) if isinstance(found, dict) else ""
        raise RefusedError(doing, status if status >= 400 else 502, reason, _words(raw))  # noqa: PLR2004  # HTTP
    return found


def _guarded_once_connected() -> aiohttp.TraceConfig:
    """Asks a request's guard when nothing is left to wait for but its answer: a connection may take as long as a process is frozen.

    The library calls it right before it sends, and closes the connection where it raises.
    """

    async def ask_guard(_session: object, request: SimpleNamespace, _about: object) -> None:
        if request.trace_request_ctx is not None:
            request.trace_request_ctx()

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(ask_guard)
    config.freeze()
    return config


def _words(raw: bytes) -> str:
    """What the API server says went wrong."""
    with suppress(ValueError, RecursionError):
        found = json.loads(raw)
        if isinstance(found, dict) and found.get("message"):
            return str(found["message"])[:_LONGEST_SAYING].rstrip(".")
    return raw.decode(errors="replace").strip()[:_LONGEST_SAYING].rstrip(".") or "it says nothing"


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).rstrip(".")


def _private_directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="gateway-manager-"))


def _write_private(path: Path, content: str) -> None:
    """Whole for whoever reads it meanwhile, however many write it at once."""
    descriptor, new = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    Path(new).replace(path)


async def _configuration(access: Access, private: Path) -> tuple[Any, str]:
    """The library's configuration, and the namespace that comes with it; reads files, and may run a login program."""
    configuration = kubernetes_asyncio.client.configuration.Configuration()
    try:
        if access.kubeconfig is None:
            namespace = await asyncio.to_thread(_as_pod, configuration)
        else:
            loading = kubernetes_asyncio.config.load_kube_config(
                config_file=access.kubeconfig,
                context=access.context,
                client_configuration=configuration,
                persist_config=False,
                temp_file_path=str(private),
            )
            loaded: Any = await asyncio.to_thread(asyncio.run, loading)  # on a loop of its own: it reads files there
            namespace = str(loaded.current_context["context"].get("namespace") or "default")
    except (kubernetes_asyncio.config.ConfigException, OSError, ValueError, KeyError, TypeError) as fault:
        raise RuntimeUnavailableError(
            f"There is no way to a Kubernetes cluster by {access}: {_reason(fault)}.",
            hint="Name a kubeconfig in KUBECONFIG and its context in kubernetes_context, or run the manager in the cluster.",
        ) from fault
    if urlsplit(configuration.host).scheme != "https" or not configuration.verify_ssl:
        raise RuntimeUnavailableError(
            f"The Kubernetes API server at {configuration.host} need not prove who it is ({access}), and passwords go to it.",
            hint="Give the context an https:// address and the authority's certificate, and take insecure-skip-tls-verify out.",
        )
    return configuration, namespace


def _as_pod(configuration: Any) -> str:
    kubernetes_asyncio.config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # the library has no annotations there
    return (ACCOUNT / "namespace").read_text().strip()
