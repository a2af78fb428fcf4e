"""What one manager's things on an engine are called and how they are marked, so that it touches nothing else's.

Names are made to be read; ownership is told by labels alone. Pure: no engine, no I/O.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from spreadpilot_core.ibkr.protocols import FollowerId, TradingMode

_NAMESPACE = "spreadpilot.gateway-manager"
OWNER = f"{_NAMESPACE}.owner"
FOLLOWER = f"{_NAMESPACE}.follower"
HOST_PORT = f"{_NAMESPACE}.host-port"
CLIENT_ID = f"{_NAMESPACE}.client-id"
TRADING_MODE = f"{_NAMESPACE}.trading-mode"
SPEC = f"{_NAMESPACE}.spec"
VERSION = f"{_NAMESPACE}.version"
DIALECT = f"{_NAMESPACE}.dialect"

_LEGAL = re.compile(r"[a-zA-Z0-9_.-]+")
_MAPPED = re.compile(r".*--[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Naming:
    """The names of one owner. `prefix` is the owner's name too."""

    prefix: str

    @property
    def owner_label(self) -> str:
        """What a label filter asks for to find everything of this owner."""
        return f"{OWNER}={self.prefix}"

    @property
    def network(self) -> str:
        """The owner's bridge network."""
        return f"{self.prefix}-network"

    def container(self, follower_id: FollowerId) -> str:
        """The follower's container. No two followers of one owner have the same."""
        return f"{self.prefix}-{_legal(follower_id)}"

    def volume(self, follower_id: FollowerId, mode: TradingMode, user: str) -> str:
        """The follower's settings, apart for each user and mode: what two logins leave in one place breaks restarts."""
        return f"{self.container(follower_id)}-{mode.value}-{_digest(user)[:8]}"

    def marks(self, follower_id: FollowerId) -> Mapping[str, str]:
        """The labels of everything that belongs to one follower."""
        return {OWNER: self.prefix, FOLLOWER: follower_id}

    def owns(self, labels: Mapping[str, str] | None) -> bool:
        """Whether something with these labels is this owner's."""
        return labels is not None and labels.get(OWNER) == self.prefix


def _legal(follower_id: str) -> str:
    """An id that the engine takes in a name: itself where it can be, else what is left of it and a digest of it.

    An id that looks like the second form gets a digest too, so that the forms never meet.
    """
    if _LEGAL.fullmatch(follower_id) and not _MAPPED.fullmatch(follower_id):
        return follower_id
    readable = "-".join(_LEGAL.findall(follower_id))[:40]
    return f"{readable}--{_digest(follower_id)[:16]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
