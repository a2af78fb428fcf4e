"""`tokens …`: who may ask the manager at `http_address`; each change is audited, and a token is printed once."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from spreadpilot_core.ibkr.access import tokens
from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.access.tokens import Token
from spreadpilot_core.ibkr.audit.trail import AuditTrail, actor
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.reading import known_followers
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.state_dir import make_private
from spreadpilot_core.ibkr.system.local_time import local_time
from spreadpilot_core.ibkr.telemetry import set_up_logs
from spreadpilot_core.ibkr.wiring import open_shared

_SPAN = re.compile(r"(\d{1,5})(h|d|w)")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_BELOW = {"MADE": "made", "FOLLOWERS": "followers"}
"""What moves below a token where the terminal is too narrow."""


def expiry(text: str) -> datetime:
    """When that is: so long from now ("30d"), or an ISO 8601 time, of the reader's zone where it names none.

    Raises:
        ValueError: it is neither.
    """
    if span := _SPAN.fullmatch(text):
        return datetime.now(UTC) + timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        msg = f"{text!r} is neither a time like 2027-01-31T09:00 nor a span like 12h, 30d or 8w"
        raise ValueError(msg) from None


def add(name: str, *, role: str, followers: str | None, expires_at: datetime | None) -> None:
    """Make a token and print it. Raises `TokenError`, `AuditError`, `StoreUnavailableError`."""
    settings = _settings()
    named = [each.strip() for each in followers.split(",") if each.strip()] if followers is not None else None
    trail = _trail(settings)
    secret = asyncio.run(_add(settings, name, Role(role), named, expires_at))
    limited = f"{role}{f' of {followers}' if followers else ''}"
    try:
        trail.append("token-add", who=actor("gateway-manager"), detail=f"{name}, {limited}")
    except BaseException:  # nobody has seen it yet
        asyncio.run(_revoke(settings, name))
        raise
    for sentence in _unknown(settings, named):
        print(sentence, file=sys.stderr)
    print(f"The token {name} is made, and shown this one time:", file=sys.stderr)
    print(secret)


def _unknown(settings: Settings, named: list[str] | None) -> list[str]:
    """A follower may come later; a name that is mistyped should be told."""
    if not named:
        return []
    known = asyncio.run(known_followers(settings))
    return [f"There is no follower {each!r} yet." for each in named if each not in known]


async def _add(
    settings: Settings, name: str, role: Role, followers: list[str] | None, expires_at: datetime | None
) -> str:
    async with _shared(settings) as shared:
        return await tokens.add(
            shared, name, role=role, followers=followers, expires_at=expires_at, now=datetime.now(UTC)
        )


def show(*, as_json: bool) -> None:
    """Print every token. Raises `StoreUnavailableError`."""
    found = asyncio.run(_all(_settings()))
    if as_json:
        tables.print_json([_as_dict(each) for each in found])
    elif found:
        rows = [
            [
                each.name,
                each.role.value,
                ", ".join(sorted(each.followers)) if each.followers is not None else "all",
                local_time(each.created_at),
                _expires(each),
            ]
            for each in found
        ]
        tables.console().print(tables.table(["NAME", "ROLE", "FOLLOWERS", "MADE", "EXPIRES"], rows, below=_BELOW))
    else:
        print("No tokens. `gateway-manager tokens add` makes one.")


def _expires(token: Token) -> str:
    if token.expires_at is None:
        return "never"
    moment = local_time(token.expires_at)
    return moment if token.is_valid(datetime.now(UTC)) else f"{moment} (expired)"


def _as_dict(token: Token) -> dict[str, Any]:
    return {
        "name": token.name,
        "role": token.role.value,
        "followers": sorted(token.followers) if token.followers is not None else None,
        "created_at": token.created_at.isoformat(),
        "expires_at": token.expires_at.isoformat() if token.expires_at is not None else None,
        "expired": not token.is_valid(datetime.now(UTC)),
    }


async def _all(settings: Settings) -> tuple[Token, ...]:
    async with _shared(settings) as shared:
        return await tokens.all_tokens(shared)


def revoke(name: str) -> None:
    """Take it back. Raises `TokenError`, `AuditError`, `StoreUnavailableError`."""
    settings = _settings()
    trail = _trail(settings)
    asyncio.run(_revoke(settings, name))
    trail.append("token-revoke", who=actor("gateway-manager"), detail=name)
    print(f"The token {name} lets nobody in any more.")


async def _revoke(settings: Settings, name: str) -> None:
    async with _shared(settings) as shared:
        await tokens.revoke(shared, name)


def _settings() -> Settings:
    set_up_logs(level="error")
    return Settings.read()


def _trail(settings: Settings) -> AuditTrail:
    """Ready to be written, before anything is done. Raises `AuditError`."""
    make_private(settings.state_dir)
    trail = AuditTrail(settings.state_dir)
    trail.ready()
    return trail


@asynccontextmanager
async def _shared(settings: Settings) -> AsyncIterator[SharedDocuments]:
    shared = open_shared(settings)
    try:
        await shared.open()
        yield shared
    finally:
        await shared.close()
