"""What is shown of one gateway, or of its surroundings, beside its snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class PhoneQueue:
    """Whose logins one phone must approve: one at a time."""

    phone: str
    """Its owner, as the records name them; else the IBKR user."""
    asked: tuple[str, ...]
    """Follower whose login asks it now; several, where gateways that log in already were found."""
    waiting: tuple[str, ...]
    """Followers whose turn comes, in this order."""


@dataclass(frozen=True, slots=True)
class ScreenAddress:
    """Where a gateway's screen is."""

    host: str
    port: int
    password: str | None = field(repr=False)
    """Of this one start; None: it asks for none."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What a gateway's screen showed last before it was given up."""

    id: str
    """Among those of its follower."""
    at: datetime
    size: int
    """Bytes, as PNG."""
