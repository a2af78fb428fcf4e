"""Sessions: a browser has signed in with a token, and shows a cookie from then on. They end with their token.

The cookie is random, and its digest alone is stored, in what all managers of one store share: a session goes on over a restart
and on the manager that takes over.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from spreadpilot_core.ibkr.access.tokens import KnownDocuments, KnownTokens, Token, digest
from spreadpilot_core.ibkr.seams import SharedDocuments

KIND = "session"
LASTS = timedelta(hours=12)
"""From the sign-in: a working day."""
MOST_OF_A_TOKEN = 20
"""Sessions of one token; the oldest goes for the next."""


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in that goes on."""

    token: Token
    csrf_token: str = field(repr=False)
    expires_at: datetime
    key: str


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a document says."""

    token_digest: str
    expires_at: datetime

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> _Stored | None:
        with suppress(KeyError, TypeError, ValueError):
            expires_at = datetime.fromisoformat(document["expires_at"])
            if expires_at.tzinfo is not None:
                return cls(str(document["token"]), expires_at)
        return None


class Sessions:
    """The sessions as one manager knows them."""

    def __init__(
        self,
        shared: SharedDocuments,
        tokens: KnownTokens,
        *,
        clock: Callable[[], datetime],
        running_clock: Callable[[], float],
    ) -> None:
        self._shared = shared
        self._tokens = tokens
        self._clock = clock
        self._documents = KnownDocuments(shared, KIND, running_clock)

    async def begin(self, token: Token) -> tuple[str, Session]:
        """The cookie of a new session, and the session. Raises `StoreUnavailableError`."""
        await self._make_room(token)
        cookie = secrets.token_urlsafe(32)
        expires_at = self._clock() + LASTS
        if token.expires_at is not None:
            expires_at = min(expires_at, token.expires_at)
        document = {"token": token.digest, "expires_at": expires_at.isoformat()}
        await self._shared.put(KIND, digest(cookie), document)
        self._documents.keep(digest(cookie), document)
        return cookie, Session(token, csrf_token(cookie), expires_at, digest(cookie))

    async def _make_room(self, token: Token) -> None:
        """Forget those that are over, and the oldest of this token's where there are too many."""
        known = {name: _Stored.read(document) for name, document in (await self._documents.all()).items()}
        over = [name for name, each in known.items() if each is None or each.expires_at <= self._clock()]
        own = [
            (each.expires_at, name)
            for name, each in known.items()
            if each is not None and name not in over and each.token_digest == token.digest
        ]
        over += [name for _, name in sorted(own)[: max(0, len(own) - MOST_OF_A_TOKEN + 1)]]
        for name in over:
            await self._end(name)

    async def find(self, cookie: str) -> Session | None:
        """The session of this cookie, if it goes on. Raises `StoreUnavailableError`."""
        key = digest(cookie)
        stored = await self._stored(key)
        token = await self._tokens.with_digest(stored.token_digest) if stored is not None else None
        return (
            Session(token, csrf_token(cookie), stored.expires_at, key)
            if stored is not None and token is not None
            else None
        )

    async def goes_on(self, key: str) -> bool:
        """Whether the session with this key does. Raises `StoreUnavailableError`."""
        stored = await self._stored(key)
        return stored is not None and await self._tokens.with_digest(stored.token_digest) is not None

    async def _stored(self, key: str) -> _Stored | None:
        """What is stored of it, unless it is over."""
        document = (await self._documents.all()).get(key) or (await self._documents.newest()).get(key)
        stored = _Stored.read(document) if document is not None else None
        return stored if stored is not None and stored.expires_at > self._clock() else None

    async def end(self, cookie: str) -> None:
        """It lets nobody in any more. Raises `StoreUnavailableError`."""
        await self._end(digest(cookie))

    async def _end(self, key: str) -> None:
        await self._shared.remove(KIND, key)
        self._documents.drop(key)


def csrf_token(cookie: str) -> str:
    """What the forms of this session send: whoever knows it has read a page, and it says nothing about the cookie."""
    return base64.urlsafe_b64encode(hashlib.sha256(f"csrf {cookie}".encode()).digest()).decode().rstrip("=")
