"""HTTP to a manager: over its Unix socket or an address, blocking or on an event loop, and to the leader where there are several.

The only module that knows httpx. What goes wrong is one of two: nobody answers (`ManagerAwayError`), or the manager
refuses, in its own words (`answers.refusal`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from httpx import Client, ConnectError, HTTPTransport, Limits, Response, Timeout, TimeoutException, TransportError

from spreadpilot_core.ibkr.audit.trail import actor
from spreadpilot_core.ibkr.errors import GatewayManagerError, SettingsError, UnavailableError
from spreadpilot_core.ibkr.http_api.address import SOCKET, reachable
from spreadpilot_core.ibkr.remote.answers import leader_in, refusal
from spreadpilot_core.ibkr.system.home_paths import in_home
from spreadpilot_core.ibkr.system.peers import ROOT, must_be_trusted

__all__ = [
    "ANSWER_WITHIN",
    "AsyncLine",
    "Client",
    "ConnectError",
    "HTTPTransport",
    "Limits",
    "Line",
    "ManagerAwayError",
    "Response",
    "Route",
    "Target",
    "Timeout",
    "TimeoutException",
    "TransportError",
    "UntrustedManagerError",
    "knock",
]

C = TypeVar("C", httpx.Client, httpx.AsyncClient)

ANSWER_WITHIN = 10.0
"""Seconds for an answer that waits for nothing."""
_NO_ANSWER = "no answer in time"
_NOT_TRUSTED = "CERTIFICATE_VERIFY_FAILED"
"""As OpenSSL says it; httpx keeps no more of it than the words."""
_HOPS = 3
"""Leaders that are followed in one call: who is told of more has met managers that don't agree."""


class ManagerAwayError(UnavailableError):
    """No manager answers there; may pass by itself."""

    def __init__(self, where: object, why: str, *, was_asked: bool = True) -> None:
        self.was_asked = was_asked
        """Whether it may have heard the question."""
        starts = "`gateway-manager run` starts one; GATEWAY_MANAGER_STATE_DIR or the URL names another."
        waits = "It may be frozen, or busy; GATEWAY_MANAGER_STATE_DIR or the URL names another."
        super().__init__(f"No gateway manager answers at {where}: {why}.", hint=waits if why == _NO_ANSWER else starts)


class UntrustedManagerError(GatewayManagerError):
    """What answers there can't prove that it is the manager; it was not shown the token."""

    def __init__(self, where: object, why: str) -> None:
        super().__init__(
            f"The certificate of {where} is not trusted: {why}.", hint="`ca_file` names the certificates to trust."
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where a manager is asked: a Unix socket of this host, or an address."""

    url: str
    socket: Path | None = None
    """Or the state directory in which it is."""
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    def __str__(self) -> str:
        return str(self.socket) if self.socket is not None else self.url

    @classmethod
    def of(cls, url: str, *, token: str | None = None, ca_file: str | os.PathLike[str] | None = None) -> Target:
        """What a user names: "unix:PATH" (of a socket, or of a state directory), "http://…" or "https://…".

        Raises:
            SettingsError: it is neither.

        """
        if url.startswith("unix:"):
            path = in_home(url.removeprefix("unix:").removeprefix("//")).absolute()
            return cls("http://manager", socket=path)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise SettingsError("url", url, 'must be "unix:PATH", "http://HOST:PORT" or "https://HOST:PORT"')
        if parts.username or parts.password:
            raise SettingsError("url", parts.hostname, "must hold no user or password: the token goes beside it")
        if token is not None and not _keeps_tokens(url):
            allowed = "must begin with https:// where a token goes to another machine: without TLS anybody on the way can read it"
            raise SettingsError("url", url, allowed)
        return cls(url.rstrip("/"), token=token, ca_file=str(ca_file) if ca_file is not None else None)

    def leader(self, found: Mapping[str, Any]) -> Target | None:
        """The manager that this one named as the leader, as it is reached from here."""
        if self.socket is not None and found.get("socket") and found.get("host") == socket.gethostname():
            return Target("http://manager", socket=Path(str(found["socket"])))
        url = found.get("url")
        if not isinstance(url, str) or self.socket is not None:  # a socket has no token
            return None
        if _is_loopback(url) and not _is_loopback(self.url):  # of its machine; here somebody else may listen there
            return None
        try:
            return Target.of(url, token=self.token, ca_file=self.ca_file)
        except SettingsError:
            return None

    def options(self, held: ExitStack) -> dict[str, Any]:
        """For a client of httpx, blocking or not; a socket is knocked at first. Raises `OSError`."""
        headers = {"Operator": quote(actor("remote client"))}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        made: dict[str, Any] = {
            "base_url": f"{self.url}/v1",
            "timeout": ANSWER_WITHIN,
            "headers": headers,
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=4),
            "trust_env": False,
        }
        if self.socket is not None:
            made["uds"] = knock(self.socket, held)
        else:
            made["verify"] = ssl.create_default_context(cafile=self.ca_file)
        return made


def _is_loopback(url: str) -> bool:
    """Whether it is an address of the machine from which it is asked."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _keeps_tokens(url: str) -> bool:
    """Whether nobody on the way can read what is sent there."""
    return url.startswith("https:") or _is_loopback(url)


def knock(path: Path, held: ExitStack) -> str:
    """The address of a manager's socket, short enough to connect to, once it was found to be ours. Raises `OSError`."""
    path = path / SOCKET if path.is_dir() else path
    address = held.enter_context(reachable(path.parent)) if path.name == SOCKET else str(path)
    with socket.socket(socket.AF_UNIX) as asked:  # httpx would leave a refused socket open
        asked.connect(address)
        # root may speak to the manager of the directory's owner
        must_be_trusted(asked, *([path.parent.stat().st_uid] if os.geteuid() == ROOT else []))
    return address


class Route:
    """The managers that may be asked, and which of them is asked now."""

    def __init__(self, targets: tuple[Target, ...]) -> None:
        self._targets = targets
        self._index = 0
        self._leader: Target | None = None

    @property
    def now(self) -> Target:
        """Whom to ask."""
        return self._leader or self._targets[self._index % len(self._targets)]

    def hops(self) -> Iterator[_Hop]:
        """Whom to ask, one after the other, each in a block that passes over what another one can answer."""
        for left in reversed(range(_HOPS)):
            yield _Hop(self, self.now, is_last=not left)

    def follow(self, code: int, answer: Any) -> bool:
        """Whether a refusal named the leader, who is asked from now on."""
        if code != httpx.codes.SERVICE_UNAVAILABLE:
            return False
        found = leader_in(answer)
        self._leader = self.now.leader(found) if found is not None else None
        if self._leader is None:
            self._index += 1
        return self._leader is not None

    def goes_on(self, away: ManagerAwayError, target: Target) -> bool:
        """Whether somebody else can be asked the same at once: nobody has heard it yet."""
        return not away.was_asked and self.now != target

    def give_up(self, target: Target) -> None:
        """Nobody answers there: the next one is asked."""
        if self._leader is target:
            self._leader = None
        elif self._leader is None and self.now is target:
            self._index += 1


class _AnotherLeadsError(Exception):
    """It is known, and asked next."""


@dataclass(frozen=True, slots=True)
class _Hop:
    """One of the managers that a question goes to."""

    route: Route
    target: Target
    is_last: bool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        is_away = isinstance(error, ManagerAwayError) and self.route.goes_on(error, self.target)
        return not self.is_last and (is_away or isinstance(error, _AnotherLeadsError))

    def settled(self, response: httpx.Response, answer: Any) -> Any:
        """The answer's JSON; a refusal is raised, unless the next one is asked."""
        if response.is_success:
            return answer
        if self.is_last or not self.route.follow(response.status_code, answer):
            raise refusal(answer, response.status_code)
        raise _AnotherLeadsError


class Line:
    """Asks a manager and waits for the answer, in whatever thread; one thread at a time."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._client: httpx.Client | None = None
        self._asks: Target | None = None
        self._held = ExitStack()

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, within: float = ANSWER_WITHIN
    ) -> Any:
        """The answer's JSON. Raises `ManagerAwayError`, and what the manager refuses with."""
        for hop in self._route.hops():
            with hop:
                return hop.settled(*self._ask_once(hop.target, method, path, body, within))
        raise AssertionError  # the last one ends it

    def _ask_once(
        self, target: Target, method: str, path: str, body: Mapping[str, Any] | None, within: float
    ) -> tuple[httpx.Response, Any]:
        with _translated(self._route, target, self.close):
            limits = httpx.Timeout(ANSWER_WITHIN, read=within)
            response = self._client_of(target).request(method, path, json=body, timeout=limits)
            return response, response.json()

    def _client_of(self, target: Target) -> httpx.Client:
        if self._client is None or self._asks != target:
            self.close()
            made = _made(httpx.Client, httpx.HTTPTransport, target.options(self._held))
            self._client, self._asks = self._held.enter_context(made), target
        return self._client

    def close(self) -> None:
        """Hang up; the next question calls again."""
        self._client = None
        held, self._held = self._held, ExitStack()
        held.close()


class AsyncLine:
    """Asks a manager on an event loop, many questions at once."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._clients: dict[Target, httpx.AsyncClient] = {}
        self._trusted: set[Target] = set()
        self._connecting = asyncio.Lock()
        self._held = ExitStack()

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, within: float | None = ANSWER_WITHIN
    ) -> Any:
        """The answer's JSON, of a command that takes its time once it is done. Raises as `Line.ask`."""
        for hop in self._route.hops():
            with hop:
                return hop.settled(*await self._ask_once(hop.target, method, path, body, within))
        raise AssertionError  # the last one ends it

    async def _ask_once(
        self, target: Target, method: str, path: str, body: Mapping[str, Any] | None, within: float | None
    ) -> tuple[httpx.Response, Any]:
        with _translated(self._route, target, self._doubt):
            client = await self._client_of(target)
            limits = httpx.Timeout(ANSWER_WITHIN, read=within)
            response = await client.request(method, path, json=body, timeout=limits)
            while response.status_code == httpx.codes.ACCEPTED and "location" in response.headers:
                place = urlsplit(
                    response.headers["location"]
                ).path  # whatever host it names, the token goes to this one
                response = await client.request("GET", place.removeprefix("/v1"), timeout=limits)
            return response, response.json()

    @asynccontextmanager
    async def lines(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[AsyncIterator[str]]:
        """An answer that does not end, line by line. Raises as `ask`."""
        target = self._route.now
        with _translated(self._route, target, self._doubt):
            limits = httpx.Timeout(ANSWER_WITHIN, read=None)
            client = await self._client_of(target)
            async with client.stream("GET", path, headers=dict(headers), timeout=limits) as response:
                if not response.is_success:
                    await response.aread()
                    raise refusal(response.json(), response.status_code)
                yield response.aiter_lines()

    async def _client_of(self, target: Target) -> httpx.AsyncClient:
        async with self._connecting:
            if target not in self._trusted:
                with ExitStack() as held:  # of a knock that is not answered nothing is kept
                    options = await asyncio.to_thread(target.options, held)
                    self._trusted.add(target)
                    if target not in self._clients:
                        self._clients[target] = _made(httpx.AsyncClient, httpx.AsyncHTTPTransport, options)
                        self._held.push(held.pop_all())
        return self._clients[target]

    def _doubt(self) -> None:
        """Look again who is there: a manager that came back has another socket behind the same path."""
        self._trusted.clear()

    async def close(self) -> None:
        """Hang up."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()
        self._held.close()


def _made(client: type[C], transport: type[Any], options: dict[str, Any]) -> C:
    uds = options.pop("uds", None)
    return client(transport=transport(uds=uds, verify=False), **options) if uds is not None else client(**options)


@contextmanager
def _translated(route: Route, target: Target, hang_up: Any) -> Iterator[None]:
    was_asked = True
    try:
        yield
    except httpx.TransportError as error:
        if _NOT_TRUSTED in str(error):
            raise UntrustedManagerError(target, str(error)) from None
        was_asked = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        why = _NO_ANSWER if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
    except ValueError as error:
        why = f"its answer makes no sense ({error})"
    except OSError as error:
        was_asked, why = False, error.strerror or str(error)  # nobody answered the knock
    else:
        return
    hang_up()
    route.give_up(target)
    raise ManagerAwayError(target, why, was_asked=was_asked)
