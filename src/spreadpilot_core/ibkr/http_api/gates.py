"""Who asks: whoever may open the control socket, or who shows a token or a session's cookie at `http_address`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import unquote

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from spreadpilot_core.ibkr.access.attempts import TELL_EVERY, Allowance, WrongTokens
from spreadpilot_core.ibkr.access.callers import (
    Caller,
    ForgedRequestError,
    NotSignedInError,
    Role,
    TooManyRequestsError,
)
from spreadpilot_core.ibkr.access.sessions import Session, Sessions
from spreadpilot_core.ibkr.access.tokens import KnownTokens, Token
from spreadpilot_core.ibkr.http_api import limits
from spreadpilot_core.ibkr.http_api.peers import own_origin, peer_of
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import Clock, utc_now
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.tasks import Tell, untold

CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf_token"
"""Of a form."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM = "application/x-www-form-urlencoded"
_LONGEST_TOKEN = 256
_WRONG = "http_address"
"""What the notice about wrong tokens is about."""


class Auditing(Protocol):
    """The audit trail, as far as a request needs it."""

    async def write(self, act: str, facts: Mapping[str, str | None]) -> None:
        """Write what is about to be done. Raises `AuditError`: then it is not done."""

    def note(self, act: str, *, by: str | None = None, outcome: str | None = None, **facts: str | None) -> None:
        """Have a line written about what has happened."""


class Unaudited:
    """Where nothing is to be written down."""

    async def write(self, act: str, facts: Mapping[str, str | None]) -> None:
        """Nothing."""

    def note(self, act: str, *, by: str | None = None, outcome: str | None = None, **facts: str | None) -> None:
        """Nothing."""


class Gate(Protocol):
    """How an application knows who asks."""

    audits_requests: bool
    """Whether each request that changes something is written down here; else whoever does it writes what it must."""

    async def identify(self, connection: HTTPConnection) -> Caller:
        """Who asks. Raises `RefusedCallerError`, `StoreUnavailableError`."""

    async def still_lets_in(self, caller: Caller) -> bool:
        """Whether this caller, who was let in before, would be let in again."""


class SocketGate:
    """Only its owner can connect to the control socket, so whoever asks there may do everything."""

    audits_requests = False

    async def identify(self, connection: HTTPConnection) -> Caller:
        """Who asks, as the command says it: for the audit trail. Whoever may open the socket may say anything."""
        operator = connection.headers.get("operator")
        said = "".join(filter(str.isprintable, unquote(operator)))[:200] if operator else "somebody"
        return Caller(f"{said}, through the control socket", Role.OPERATOR)

    async def still_lets_in(self, caller: Caller) -> bool:  # noqa: ARG002  # everybody
        """Always."""
        return True


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A browser that has just signed in."""

    caller: Caller
    cookie: str
    expires_at: datetime


class TokenGate:
    """Whoever shows a token, or the cookie that it got for one."""

    audits_requests = True

    def __init__(
        self,
        shared: SharedDocuments,
        settings: Settings,
        *,
        auditor: Auditing,
        tell: Tell = untold,
        clock: Clock = utc_now,
        running_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokens = KnownTokens(shared, clock=clock, running_clock=running_clock)
        self.sessions = Sessions(shared, self.tokens, clock=clock, running_clock=running_clock)
        self.behind_proxy = settings.http_behind_proxy
        self.is_secure = settings.http_cert_file is not None or settings.http_behind_proxy
        """Whether browsers reach it by https."""
        self.cookie = "__Host-session" if self.is_secure else "session"
        self._auditor = auditor
        self._tell = tell
        self._wrong = WrongTokens(running_clock)
        self._requests = Allowance(burst=500, per_second=100, clock=running_clock)
        """Of each caller: a page, and commands on hundreds of gateways at once."""
        self._strangers = Allowance(burst=60, per_second=10, clock=running_clock)
        """Of each peer, without a token."""

    # ------------------------------------------------------------------ who asks

    async def identify(self, connection: HTTPConnection) -> Caller:
        """Who asks, by token or cookie.

        Raises:
            NotSignedInError: neither is there, or valid.
            ForgedRequestError: the cookie is, but another page may have sent it.
            TooManyRequestsError: the caller, or its peer, asks too much.
            StoreUnavailableError: nobody can be known now.
        """
        peer = peer_of(connection, behind_proxy=self.behind_proxy)
        authorization = connection.headers.get("authorization")
        cookie = connection.cookies.get(self.cookie)
        if authorization is not None:
            caller = self._of_token(await self.check_token(_bearer(authorization), peer), peer)
        elif cookie is not None:
            caller = await self._of_cookie(connection, cookie, peer)
        else:
            self._take(self._strangers, peer, "requests without a token")
            raise NotSignedInError
        self._take(self._requests, caller.key, "requests")
        return caller

    async def check_token(self, secret: str, peer: str) -> Token:
        """The token that this is. Raises what `identify` does; a wrong one is answered slowly, and told."""
        token = await self.tokens.find(secret) if len(secret) <= _LONGEST_TOKEN else None
        if token is None:
            await self._answer_wrong(peer)
            raise NotSignedInError("The token is not valid: it was never made, was revoked, or has expired.")
        return token

    async def _of_cookie(self, connection: HTTPConnection, cookie: str, peer: str) -> Caller:
        session = await self.sessions.find(cookie) if len(cookie) <= _LONGEST_TOKEN else None
        if session is None:
            self._take(self._strangers, peer, "requests without a token")
            raise NotSignedInError("The session is over.")
        await must_be_our_page(connection, session, scheme="https" if self.is_secure else "http")
        return self._of_session(session, peer)

    async def still_lets_in(self, caller: Caller) -> bool:
        """Whether its token is valid still, and its session goes on."""
        if caller.csrf_token is not None:
            return await self.sessions.goes_on(caller.key)
        return await self.tokens.with_digest(caller.key) is not None

    def _of_token(self, token: Token, peer: str) -> Caller:
        return Caller(token.name, token.role, token.followers, peer=peer, key=token.digest)

    def _of_session(self, session: Session, peer: str) -> Caller:
        token = session.token
        return Caller(
            token.name, token.role, token.followers, peer=peer, csrf_token=session.csrf_token, key=session.key
        )

    def _take(self, allowance: Allowance, name: str, what: str) -> None:
        if (seconds := allowance.take(name)) > 0:
            raise TooManyRequestsError(what, seconds)

    async def _answer_wrong(self, peer: str) -> None:
        """Have it told, and let it wait."""
        wrong = self._wrong.count(peer)
        if wrong.unreported:
            many = counted(wrong.unreported, "request")
            self._auditor.note("wrong-token", outcome="refused", detail=f"{many} with a wrong token, from {peer}")
            self._tell(_WRONG, f"Somebody at {peer} shows tokens that are not valid.")
            asyncio.get_running_loop().call_later(TELL_EVERY + 1, self._take_back)
        if wrong.retry_after:
            raise TooManyRequestsError("wrong tokens", wrong.retry_after)
        await asyncio.sleep(wrong.pause)

    def _take_back(self) -> None:
        if self._wrong.is_quiet():
            self._tell(_WRONG, None)

    # ------------------------------------------------------------------ sign-in

    async def sign_in(self, connection: HTTPConnection, secret: str) -> SignedIn:
        """Begin a session by a token. Raises what `identify` does, `AuditError`."""
        must_come_from_here(connection, scheme="https" if self.is_secure else "http")
        peer = peer_of(connection, behind_proxy=self.behind_proxy)
        token = await self.check_token(secret, peer)
        self._take(self._requests, token.digest, "requests")
        self._auditor.note("sign-in", by=self._of_token(token, peer).actor)
        cookie, session = await self.sessions.begin(token)
        return SignedIn(self._of_session(session, peer), cookie, session.expires_at)

    def give_cookie(self, response: Response, signed_in: SignedIn) -> None:
        """Have the browser keep it."""
        response.set_cookie(
            self.cookie,
            signed_in.cookie,
            expires=signed_in.expires_at,
            path="/",
            secure=self.is_secure,
            httponly=True,
            samesite="strict",
        )

    async def sign_out(self, connection: HTTPConnection, response: Response) -> None:
        """End the session whose cookie was sent, if there is one. Raises `StoreUnavailableError`."""
        if (cookie := connection.cookies.get(self.cookie)) is not None and len(cookie) <= _LONGEST_TOKEN:
            await self.sessions.end(cookie)
        response.delete_cookie(self.cookie, path="/", secure=self.is_secure, httponly=True, samesite="strict")


def _bearer(authorization: str) -> str:
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def must_come_from_here(connection: HTTPConnection, *, scheme: str, said: bool = False) -> None:
    """Refuse what a browser sends for another site's page.

    Args:
        connection: the request.
        scheme: by which browsers reach this address.
        said: also refuse what does not say where it comes from.

    Raises:
        ForgedRequestError: it comes from elsewhere.
    """
    origin = connection.headers.get("origin")
    if origin is None and said:
        raise ForgedRequestError("it does not say which page it comes from")
    if origin is not None and origin != own_origin(connection, scheme=scheme):
        raise ForgedRequestError("another site's page made it")
    if connection.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ForgedRequestError("another site's page made it")


async def must_be_our_page(connection: HTTPConnection, session: Session, *, scheme: str) -> None:
    """Refuse what changes something, and opens a WebSocket, unless our own page does it. Raises `ForgedRequestError`."""
    if connection.scope["type"] == "websocket":
        must_come_from_here(connection, scheme=scheme, said=True)
        return
    if connection.scope["method"] in SAFE_METHODS:
        return
    must_come_from_here(connection, scheme=scheme)
    shown: Any = connection.headers.get(CSRF_HEADER)
    if shown is None and isinstance(connection, Request) and _is_form(connection):
        try:
            async with asyncio.timeout(limits.BODY_WITHIN):
                await connection.body()  # so that whoever answers can read it again
        except TimeoutError:
            raise ForgedRequestError("its CSRF token did not come in time") from None
        shown = (await connection.form()).get(CSRF_FIELD)
    if (
        shown != session.csrf_token
    ):  # of a session that its own cookie has opened: there is nothing to be guessed by time
        raise ForgedRequestError("its CSRF token is missing or wrong")


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM
