"""Tokens: made once, shown once, and kept as a digest in what all managers of one store share.

A token is 32 random bytes, so that nobody guesses it and a plain SHA-256 of it can't be turned back. Each manager reads all of
them at once, and again after `FRESH` seconds: wrong tokens ask the store a few times a second at most, and a revoked one is out
within that time on every manager. While the store is away, those that were known stay valid for `OFFLINE`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spreadpilot_core.ibkr.access.callers import Role, followers_of
from spreadpilot_core.ibkr.errors import GatewayManagerError, StoreUnavailableError
from spreadpilot_core.ibkr.seams import SharedDocuments

KIND = "token"
PREFIX = "gm_"
"""How a token begins, so that whoever finds one knows what it is."""
FRESH = 2.0
"""Seconds for which what was read counts."""
NEWS = 0.2
"""Seconds between two readings for what is not known: it may have just been made."""
OFFLINE = 900.0
"""Seconds for which what was read counts while the store can't be read."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class TokenError(GatewayManagerError):
    """A token can't be made or revoked as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token, without what would let somebody in."""

    name: str
    role: Role
    followers: frozenset[str] | None = None
    """The only ones that it knows of; None: all of them."""
    digest: str
    created_at: datetime
    expires_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it lets anybody in."""
        return self.expires_at is None or now < self.expires_at

    def as_document(self) -> dict[str, Any]:
        """What is kept of it."""
        return {
            "role": self.role.value,
            "followers": sorted(self.followers) if self.followers is not None else None,
            "digest": self.digest,
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at.isoformat() if self.expires_at is not None else None,
        }

    @classmethod
    def read(cls, name: str, document: Mapping[str, Any]) -> Token:
        """Raises `ValueError` for what is no token: it lets nobody in."""
        try:
            followers, expires = document["followers"], document["expires_at"]
            return cls(
                name=name,
                role=Role(document["role"]),
                followers=followers_of([str(each) for each in followers] if followers is not None else None),
                digest=str(document["digest"]),
                created_at=_moment(document["created_at"]),
                expires_at=_moment(expires) if expires is not None else None,
            )
        except (KeyError, TypeError) as error:
            msg = f"{name} is no token: {error!r}"
            raise ValueError(msg) from error


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        msg = f"{text} names no time zone"
        raise ValueError(msg)
    return moment


def digest(secret: str) -> str:
    """What is kept of a token or a session."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


async def add(
    shared: SharedDocuments,
    name: str,
    *,
    role: Role,
    followers: Collection[str] | None,
    expires_at: datetime | None,
    now: datetime,
) -> str:
    """Make a token; returns it, for the one time that anybody sees it.

    Raises:
        TokenError: the name is taken or can't be one, or the role knows all followers.
        StoreUnavailableError: it could not be kept.
    """
    if not NAME.fullmatch(name):
        raise TokenError(f"{name!r} can't be a token's name: letters, digits, and ._@- after the first, at most 64.")
    if role is Role.OPERATOR and followers is not None:
        raise TokenError("An operator acts on the whole manager, so its token can't be limited to followers.")
    if followers is not None and not followers:
        raise TokenError("No follower is named, so the token would be good for nothing.")
    if expires_at is not None and expires_at <= now:
        raise TokenError("The token would have expired already.")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        name=name,
        role=role,
        followers=followers_of(followers),
        digest=digest(secret),
        created_at=now,
        expires_at=expires_at,
    )
    if not await shared.add(KIND, name, token.as_document()):
        raise TokenError(f"There is a token named {name} already.", hint=f"`gateway-manager tokens revoke {name}`")
    return secret


async def all_tokens(shared: SharedDocuments) -> tuple[Token, ...]:
    """All that can be read, by name. Raises `StoreUnavailableError`."""
    return tuple(_readable(await shared.all(KIND)))


def _readable(documents: Mapping[str, Mapping[str, Any]]) -> list[Token]:
    tokens = []
    for name, document in documents.items():
        try:
            tokens.append(Token.read(name, document))
        except ValueError:
            continue  # somebody has spoilt it; it is listed by its name nowhere, and lets nobody in
    return tokens


async def revoke(shared: SharedDocuments, name: str) -> None:
    """From now on it lets nobody in, and its sessions end. Raises `TokenError`, `StoreUnavailableError`."""
    if not await shared.remove(KIND, name):
        raise TokenError(f"There is no token named {name!r}.", hint="`gateway-manager tokens list` shows them.")


class KnownDocuments:
    """Documents of one kind as a manager knows them: read all at once, and again when that is some seconds old."""

    def __init__(self, shared: SharedDocuments, kind: str, clock: Callable[[], float]) -> None:
        self._shared = shared
        self._kind = kind
        self._clock = clock
        self._known: dict[str, Mapping[str, Any]] = {}
        self._read_at: float | None = None
        self._began_at: float | None = None
        """When the newest reading that has ended began, whatever came of it."""
        self._reading = asyncio.Lock()

    async def all(self) -> Mapping[str, Mapping[str, Any]]:
        """What was read within the last `FRESH` seconds. Raises `StoreUnavailableError` where nothing was for too long."""
        if not self._is_recent(self._began_at, FRESH):
            async with self._reading:
                if not self._is_recent(self._began_at, FRESH):
                    await self._read()
        return self._read_before()

    async def newest(self) -> Mapping[str, Mapping[str, Any]]:
        """What is read after this call, for what is not known: it may have just been made. Raises what `all` does."""
        asked_at = self._clock()
        async with self._reading:
            if self._began_at is None or self._began_at < asked_at:
                await asyncio.sleep(max(0.0, (self._began_at or float("-inf")) + NEWS - asked_at))
                await self._read()
        return self._read_before()

    def _read_before(self) -> Mapping[str, Mapping[str, Any]]:
        if not self._is_recent(self._read_at, OFFLINE):
            raise StoreUnavailableError("The tokens can't be read from the store now.")
        return self._known

    def _is_recent(self, at: float | None, seconds: float) -> bool:
        return at is not None and self._clock() - at < seconds

    async def _read(self) -> None:
        began = self._clock()
        with suppress(StoreUnavailableError):  # what was known counts for a while
            await self._shared.open()
            self._known = dict(await self._shared.all(self._kind))
            self._read_at = began
        self._began_at = began

    def keep(self, name: str, document: Mapping[str, Any]) -> None:
        """This manager has just written it."""
        self._known[name] = document

    def drop(self, name: str) -> None:
        """This manager has just removed it."""
        self._known.pop(name, None)


class KnownTokens:
    """The tokens as a manager knows them."""

    def __init__(
        self, shared: SharedDocuments, *, clock: Callable[[], datetime], running_clock: Callable[[], float]
    ) -> None:
        self._documents = KnownDocuments(shared, KIND, running_clock)
        self._clock = clock
        self._indexed: Mapping[str, Mapping[str, Any]] | None = None
        self._by_digest: dict[str, Token] = {}

    async def find(self, secret: str) -> Token | None:
        """The token that this is, if it is valid. Raises `StoreUnavailableError`."""
        return await self.with_digest(digest(secret))

    async def with_digest(self, wanted: str) -> Token | None:
        """The one with this digest, if it is valid. Raises `StoreUnavailableError`."""
        token = self._of(await self._documents.all(), wanted) or self._of(await self._documents.newest(), wanted)
        return token if token is not None and token.is_valid(self._clock()) else None

    def _of(self, documents: Mapping[str, Mapping[str, Any]], wanted: str) -> Token | None:
        if documents is not self._indexed:
            self._indexed, self._by_digest = documents, {each.digest: each for each in _readable(documents)}
        return self._by_digest.get(wanted)  # a digest tells nobody who measures the time anything about a token
